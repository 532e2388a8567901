"""Trained as it spikes: the forward pass is a stream of T steps, neurons firing as they will.

    a = 1/T · Σ_t spikes_t        ∂a/∂z = [0 < z̄ < λ],  ∂a/∂λ = [z̄ ≥ λ] or (a − z̄)/λ inside

z̄ being the mean current. A neuron in a stream errs because it rounds, and because its current arrives
unevenly: of the first spikes of the layer before there are too few, or too many. `qcfs` knows the first error
alone, this recipe learns with both. The spikes of all steps are simulated without gradients, layer by layer;
their mean takes the place of the activation in one pass of the network with them, and gradients go straight
through it, at the cost of T more forward passes (rate-based back-propagation: Yu et al., NeurIPS 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from calibrators.training import Phase, clipped, recipes
from converter.errors import Unsupported, UsageError
from converter.graph import Graph
from converter.neurons.negative_slope import NegativeSlope


@recipes.register
@dataclass(frozen=True)
class Stream:
    """`steps`: T, the steps that the network is meant to run with binary spikes under the schedule stream."""

    steps: int = 4
    decay: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        """Raise `UsageError` for a run without steps."""
        if self.steps < 1:
            raise UsageError(f"steps is {self.steps}; a run takes at least 1")

    def refuse(self, graph: Graph) -> None:
        """A neuron with a slope below zero has no threshold to run with."""
        found = [node for node in graph if isinstance(node.op, NegativeSlope)]
        if found:
            raise Unsupported(
                f"{len(found)} activation{'s' * (len(found) > 1)} of {graph.name} have no threshold to train",
                [(node.where, "it has a slope below zero") for node in found],
                hint="--recipe qcfs leaves it as it is",
            )

    def phase(self, progress: float) -> Phase:
        """One for all of the training."""
        return Phase(f"stream, T = {self.steps}", clipped, steps=self.steps)
