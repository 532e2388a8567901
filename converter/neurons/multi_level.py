"""Several levels a step: a spike carries a small signed whole number of thresholds.

    v ← v + z_t ;  k = clip(⌊v / θ⌋, −min(levels, N), levels) ;  o = k·θ ;  v ← v − o ;  N ← N + k

The threshold is one level; a step says up to `levels` of them, so T steps distinguish levels·T + 1 values
and one step of 15 levels is a 4-bit payload, not a binary spike. With powers of two as the levels tested
one after the other this is the same neuron (H-MT: Zhang et al., AAAI 2026; AdaFire: Wang et al., AAAI 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.errors import UsageError
from converter.neurons import Kernel, Neuron, State, neurons
from converter.stateful import Steps, in_place_of


def multi_level(state: State, current: Tensor, threshold: Tensor, levels: int) -> tuple[State, Tensor]:
    """Charge; emit as many thresholds as fit, up to `levels`, or take back as many, if they were given."""
    membrane, net = state[0] + current, state[1]
    count = torch.minimum((membrane / threshold).floor(), torch.full_like(net, levels))
    count = torch.maximum(count, -net.clamp(max=levels))
    spikes = count * threshold
    return (membrane - spikes, net + count), spikes


@in_place_of(multi_level)
def multi_level_in_place(
    state: State, currents: Steps, outputs: Steps, threshold: Tensor, levels: int
) -> None:
    """`multi_level` in its own memory, but for one copy of the net count."""
    membrane, net = state
    for current, out in zip(currents, outputs, strict=True):
        membrane.add_(current)
        torch.div(membrane, threshold, out=out)
        out.floor_().clamp_(max=levels)
        torch.maximum(out, net.clamp(max=levels).neg_(), out=out)
        net.add_(out)
        out.mul_(threshold)
        membrane.sub_(out)


@neurons.register
@dataclass(frozen=True, eq=False)
class MultiLevel(Neuron):
    """Spikes k·θ, −levels ≤ k ≤ levels, their sum never below zero."""

    levels: int = 15
    arguments: ClassVar[tuple[str, ...]] = ("threshold", "levels")
    remembers: ClassVar[bool] = True
    alphabet: ClassVar[str] = "levels"

    def __post_init__(self) -> None:
        """Raise `UsageError` for a number of levels that says nothing."""
        if self.levels < 1:
            raise UsageError(f"a neuron of {self.levels} levels cannot fire", hint="1 or more")

    @property
    def kernel(self) -> Kernel:
        return multi_level

    @property
    def parts(self) -> int:
        return self.levels

    @property
    def bits(self) -> int:
        return self.levels.bit_length()
