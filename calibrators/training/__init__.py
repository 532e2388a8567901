"""Conversion-aware training: a network learns with the activations that its spikes will be able to say.

A recipe is a frozen dataclass whose fields are its options; its file is its public name. It says what stands
for each activation clamp(x, 0, λ) while the network is trained, perhaps in phases, and no more: one trainer
(`_trainer`) does the rest for all of them. λ is a parameter of each layer; trained, the activation is
Clip(0, λ) again, and the spiking neuron's threshold is λ: the calibrator `ceiling` takes it as it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from converter.graph import Graph
from converter.registry import Registry

Activation = Callable[[Tensor, Tensor], Tensor]
"""(current, λ) -> what the neuron says of it; same shape, differentiable in both."""


@dataclass(frozen=True)
class Phase:
    """What a recipe does to the network for a part of the training; `name` tells phases apart.

    `encode(x, peak)` is what is left of the input x after it went through spikes, `peak` being its largest
    magnitude; `weight(op, w)` what is left of an op's weight w. None: nothing is lost. With `steps` the
    network is run as a stream of so many, its neurons firing as they will (`_through_time`).
    """

    name: str
    activation: Activation
    encode: Activation | None = None
    weight: Callable[[Any, Tensor], Tensor] | None = None
    steps: int | None = None


class Recipe(Protocol):
    """How a network is trained for its conversion."""

    @property
    def decay(self) -> float:
        """The L2 penalty on each layer's λ, in shares of where it began."""

    def refuse(self, graph: Graph) -> None:
        """Raise `Unsupported` naming the nodes of the spiking `graph` that this recipe's code cannot say."""

    def phase(self, progress: float) -> Phase:
        """What holds when this share of the training is done, 0 … 1; 1 is what the spikes will do."""


def clipped(x: Tensor, threshold: Tensor) -> Tensor:
    """clamp(x, 0, λ): ∂/∂x = [0 < x < λ], ∂/∂λ = [x ≥ λ]."""
    return torch.minimum(torch.relu(x), threshold)


def straight_through(value: Tensor, replaced: Tensor) -> Tensor:
    """`replaced` to the last bit, with the gradient of `value`."""
    return replaced.detach() + (value - value.detach())


recipes: Registry[type[Recipe]] = Registry("recipe", "calibrators.training")

__all__ = ["Activation", "Phase", "Recipe", "clipped", "recipes", "straight_through"]
