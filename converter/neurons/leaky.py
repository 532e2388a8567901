"""Leaky integrate-and-fire: the membrane keeps the share λ of itself from step to step.

    v ← λ·v + z_t ;  s = [v ≥ θ] ;  o = s·θ ;  v ← v − o

λ = 1 is integrate-and-fire. A leak costs a conversion: a constant current x charges the membrane to
x / (1 − λ) at most, so one below (1 − λ)·θ never fires, and above it the rate stays below x by (1 − λ) times
the mean membrane. Networks trained with a leak need it; a converted ReLU is nearest at λ = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.errors import UsageError
from converter.neurons import Kernel, Neuron, State, neurons
from converter.stateful import Steps, in_place_of

STEPS = 840
"""Steps that a rate is counted over: it is right to θ / 840, and exact once spikes repeat every 1 to 8."""


def leaky(state: State, current: Tensor, threshold: Tensor, leak: float) -> tuple[State, Tensor]:
    """Leak, charge, fire at the threshold, subtract what was fired."""
    membrane = leak * state[0] + current
    spikes = (membrane >= threshold).to(current.dtype) * threshold
    return (membrane - spikes,), spikes


@in_place_of(leaky)
def leaky_in_place(state: State, currents: Steps, outputs: Steps, threshold: Tensor, leak: float) -> None:
    """`leaky` in its own memory."""
    (membrane,) = state
    for current, out in zip(currents, outputs, strict=True):
        membrane.mul_(leak).add_(current)
        torch.ge(membrane, threshold, out=out)
        out.mul_(threshold)
        membrane.sub_(out)


@neurons.register
@dataclass(frozen=True, eq=False)
class Leaky(Neuron):
    """Spikes {0, θ}. `leak` is λ, the share of the membrane that stays: above 0, and 1 keeps all of it."""

    leak: float = 0.99
    arguments: ClassVar[tuple[str, ...]] = ("threshold", "leak")

    def __post_init__(self) -> None:
        """Raise `UsageError` for a share that is none."""
        if not 0 < self.leak <= 1:
            raise UsageError(f"leak is {self.leak}; the share that stays lies above 0 and up to 1")

    @property
    def kernel(self) -> Kernel:
        return leaky

    def rate(self, x: Tensor) -> Tensor:
        """The mean output of a constant current, counted: over x it is a devil's staircase."""
        reached = super().rate(x)
        if self.leak == 1:
            return reached
        state, total = self.init(), torch.zeros_like(reached)
        for _ in range(STEPS):
            state, spikes = self.step(state, reached)
            total = total + spikes
        return total / STEPS
