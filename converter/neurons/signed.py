"""Integrate-and-fire with a memory: a negative spike repairs what was emitted too much.

    v ← v + z_t ;  k = [v ≥ θ] − [v < 0 and N > 0] ;  o = k·θ ;  v ← v − o ;  N ← N + k

N is the net number of spikes so far, so no more is ever taken back than was given. A current that was
positive for a while and is not in the mean leaves no spikes behind, in whatever order its parts arrive:
once it has come to rest the neuron has emitted θ·max(round(X / θ), 0) for a total input X
(ST-BIF: You et al., ICML 2024; signed memory: Wang et al., IJCAI 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.neurons import Kernel, Neuron, State, neurons
from converter.stateful import Steps, in_place_of


def signed(state: State, current: Tensor, threshold: Tensor) -> tuple[State, Tensor]:
    """Charge; fire at the threshold; below zero take one spike back, if there is one."""
    membrane, net = state[0] + current, state[1]
    back = (membrane < 0) & (net > 0)
    count = (membrane >= threshold).to(current.dtype) - back.to(current.dtype)
    spikes = count * threshold
    return (membrane - spikes, net + count), spikes


@in_place_of(signed)
def signed_in_place(state: State, currents: Steps, outputs: Steps, threshold: Tensor) -> None:
    """`signed` in its own memory, but for the mask of what is taken back."""
    membrane, net = state
    for current, out in zip(currents, outputs, strict=True):
        membrane.add_(current)
        back = (membrane < 0).logical_and_(net > 0)
        torch.ge(membrane, threshold, out=out)
        out.sub_(back.to(out.dtype))
        net.add_(out)
        out.mul_(threshold)
        membrane.sub_(out)


@neurons.register
@dataclass(frozen=True, eq=False)
class Signed(Neuron):
    """Spikes {−θ, 0, θ}, their sum never below zero."""

    remembers: ClassVar[bool] = True
    alphabet: ClassVar[str] = "signed"

    @property
    def kernel(self) -> Kernel:
        return signed
