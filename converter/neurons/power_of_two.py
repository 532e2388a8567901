"""Powers of two: one spike a step, of the nearest of a few levels that double, and of either sign.

    v ← v + z_t ;  w = (v − ¼·θ) / ¾ ;  o = k·θ ;  v ← v − o ;  N ← N + k
    k = the largest of 1, 2, …, 2^(levels−1) with k·θ ≤ w, or −k with k·θ ≤ −w and k ≤ N, or 0

The threshold is the smallest level, and fires when it is reached; ¾ of a level is the middle between it and
the one below, so the nearest is chosen, and what one step says too much the next ones take back. A spike is
one shifted addition, where `multi-level` pays for each bit (multi-threshold neuron of Huang et al., ICML
2025; here in a plain rate code, without the differential code of their links).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.errors import UsageError
from converter.neurons import Kernel, Neuron, State, neurons


def power_of_two(state: State, current: Tensor, threshold: Tensor, levels: int) -> tuple[State, Tensor]:
    """Charge; emit the level nearest to the membrane, or take back no more than was emitted."""
    membrane, net = state[0] + current, state[1]
    above = membrane / threshold - 0.25
    size = above.abs() / 0.75
    size = torch.where(above < 0, torch.minimum(size, net), size)
    count = torch.zeros_like(size)
    for k in range(levels):
        count = torch.where(size >= 2**k, float(2**k), count)
    count = count * above.sign()
    spikes = count * threshold
    return (membrane - spikes, net + count), spikes


@neurons.register
@dataclass(frozen=True, eq=False)
class PowerOfTwo(Neuron):
    """Spikes ±θ·2^k, 0 ≤ k < levels, their sum never below zero."""

    levels: int = 4
    arguments: ClassVar[tuple[str, ...]] = ("threshold", "levels")
    remembers: ClassVar[bool] = True
    alphabet: ClassVar[str] = "powers"

    def __post_init__(self) -> None:
        """Raise `UsageError` for a number of levels that says nothing."""
        if self.levels < 1:
            raise UsageError(f"a neuron of {self.levels} levels cannot fire", hint="1 or more")

    @property
    def kernel(self) -> Kernel:
        return power_of_two

    @property
    def parts(self) -> int:
        return 1 << (self.levels - 1)

    @property
    def spikes(self) -> str:
        return f"{self.alphabet}:{self.levels}"
