"""Integrate-and-fire: charge, and emit a spike of one threshold whenever it is reached.

    v ← v + z_t ;  s = [v ≥ θ] ;  o = s·θ ;  soft reset: v ← v − o ;  hard reset: v ← (1 − s)·v

Soft reset keeps the surplus, so the emitted sum equals the integrated sum up to what is left in the
membrane (Rueckauer et al. 2017; Han et al., CVPR 2020). Hard reset loses it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from converter.errors import UsageError
from converter.neurons import Kernel, Neuron, State, neurons
from converter.stateful import Steps, in_place_of


def integrate_fire(state: State, current: Tensor, threshold: Tensor) -> tuple[State, Tensor]:
    """Charge, fire at the threshold, subtract what was fired."""
    membrane = state[0] + current
    spikes = (membrane >= threshold).to(current.dtype) * threshold
    return (membrane - spikes,), spikes


def integrate_fire_hard(state: State, current: Tensor, threshold: Tensor) -> tuple[State, Tensor]:
    """Charge, fire at the threshold, start again from zero."""
    membrane = state[0] + current
    fires = membrane >= threshold
    return (torch.where(fires, 0.0, membrane),), torch.where(fires, threshold, 0.0)


@in_place_of(integrate_fire)
def integrate_fire_in_place(state: State, currents: Steps, outputs: Steps, threshold: Tensor) -> None:
    """`integrate_fire` in its own memory."""
    (membrane,) = state
    for current, out in zip(currents, outputs, strict=True):
        membrane.add_(current)
        torch.ge(membrane, threshold, out=out)
        out.mul_(threshold)
        membrane.sub_(out)


@in_place_of(integrate_fire_hard)
def integrate_fire_hard_in_place(state: State, currents: Steps, outputs: Steps, threshold: Tensor) -> None:
    """`integrate_fire_hard` in its own memory."""
    (membrane,) = state
    for current, out in zip(currents, outputs, strict=True):
        membrane.add_(current)
        torch.ge(membrane, threshold, out=out)
        membrane.masked_fill_(out.bool(), 0.0)
        out.mul_(threshold)


@neurons.register
@dataclass(frozen=True, eq=False)
class IntegrateFire(Neuron):
    """Spikes {0, θ}. `reset` is `soft` (subtract the threshold) or `hard` (to zero)."""

    reset: str = "soft"

    def __post_init__(self) -> None:
        """Raise `UsageError` for a reset that does not exist."""
        if self.reset not in ("soft", "hard"):
            raise UsageError(f"there is no reset {self.reset!r}", hint="soft or hard")

    @property
    def kernel(self) -> Kernel:
        return integrate_fire if self.reset == "soft" else integrate_fire_hard
