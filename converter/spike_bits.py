"""Spikes kept small: a few bits for each, and its threshold, where all of them are whole thresholds.

    o = k·θ    one bit for k in {0, 1}, two for {−1, 0, 1}, eight up to ±127; anything else stays as it is

What is unpacked is what was packed, to the last bit: spikes that k·θ does not give exactly are not packed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BYTE = 8


@dataclass(frozen=True)
class Packed:
    """`steps` of spikes of `threshold`: of each sign in `signs` the spikes, bit by bit along the steps."""

    steps: int
    threshold: Tensor
    codes: Tensor
    signs: tuple[int, ...] = ()
    """Empty: `codes` [steps, batch, …] are the counts; else [signs, steps / 8, batch, …] bits."""

    def unpacked(self) -> Tensor:
        """The spikes: [steps, batch, …]."""
        shape = self.codes.shape[1 if not self.signs else 2 :]
        spikes = self.threshold.new_empty((self.steps, *shape))
        for t, now in enumerate(spikes):
            torch.mul(self._count(t), self.threshold, out=now)
        return spikes

    def _count(self, t: int) -> Tensor:
        if not self.signs:
            return self.codes[t]
        fired = (self.codes[:, t // BYTE] >> t % BYTE).bitwise_and_(1)
        return fired[0] if len(fired) == 1 else fired[0].to(torch.int8) - fired[1].to(torch.int8)


def packed(spikes: Tensor, threshold: Tensor) -> Packed | Tensor:
    """`spikes` [steps, batch, …], packed where they are whole numbers of `threshold`, which broadcasts."""
    counts = torch.empty(spikes.shape, dtype=torch.int8, device=spikes.device)
    for now, count in zip(spikes, counts, strict=True):
        whole = (now / threshold).round_().clamp_(-127, 127)
        if not torch.equal(whole * threshold, now):
            return spikes
        count.copy_(whole)
    steps, (low, high) = len(spikes), (int(v) for v in counts.aminmax())
    if low < -1 or high > 1:
        return Packed(steps, threshold, counts)
    signs = (1, -1) if low < 0 else (1,)
    return Packed(steps, threshold, torch.stack([_bits(counts, sign) for sign in signs]), signs)


def _bits(counts: Tensor, sign: int) -> Tensor:
    """Where `counts` [steps, …] are of this sign, a bit for each step: [steps / 8, …]."""
    bits = torch.zeros((-(-len(counts) // BYTE), *counts.shape[1:]), dtype=torch.uint8, device=counts.device)
    for t, count in enumerate(counts):
        bits[t // BYTE] |= (count == sign).to(torch.uint8) << t % BYTE
    return bits
