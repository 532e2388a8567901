"""Burst: up to `burst` spikes in one step, when the membrane holds several thresholds.

    v ← v + z_t ;  k = clip(⌊v / θ⌋, 0, burst) ;  o = k·θ ;  v ← v − o

The threshold is still what a layer's range asks for, and one spike a step says all of it; bursts lie above,
so they catch up with what arrived late or was clipped (Li & Zeng, IJCAI 2022). Each spike of a burst is a
spike: k of them cost k accumulates. `multi-level` divides the range instead, for resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.errors import UsageError
from converter.neurons import Kernel, Neuron, State, neurons
from converter.stateful import Steps, in_place_of


def fire_burst(state: State, current: Tensor, threshold: Tensor, burst: int) -> tuple[State, Tensor]:
    """Charge; emit as many thresholds as fit, up to `burst`."""
    membrane = state[0] + current
    spikes = (membrane / threshold).floor().clamp(0, burst) * threshold
    return (membrane - spikes,), spikes


@in_place_of(fire_burst)
def fire_burst_in_place(state: State, currents: Steps, outputs: Steps, threshold: Tensor, burst: int) -> None:
    """`fire_burst` in its own memory."""
    (membrane,) = state
    for current, out in zip(currents, outputs, strict=True):
        membrane.add_(current)
        torch.div(membrane, threshold, out=out)
        out.floor_().clamp_(0, burst).mul_(threshold)
        membrane.sub_(out)


@neurons.register
@dataclass(frozen=True, eq=False)
class Burst(Neuron):
    """Spikes k·θ, 0 ≤ k ≤ burst."""

    burst: int = 5
    arguments: ClassVar[tuple[str, ...]] = ("threshold", "burst")
    alphabet: ClassVar[str] = "burst"

    def __post_init__(self) -> None:
        """Raise `UsageError` for a burst of nothing."""
        if self.burst < 1:
            raise UsageError(f"a burst of {self.burst} spikes cannot fire", hint="1 or more")

    @property
    def kernel(self) -> Kernel:
        return fire_burst

    @property
    def most(self) -> int:
        return self.burst

    def count(self, spikes: Tensor) -> Tensor:
        return (spikes / self.calibrated()).abs().round()
