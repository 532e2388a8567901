"""Bias correction: what a layer's spikes say on average is made what its ANN activations are on average.

Layer by layer from the input, each layer seeing its already corrected, *spiking* predecessors:

    δ_c ← δ_c + mean(o_c) − mean(a_c)     o: mean spikes over T steps, a: ANN activation; over samples, places
    current ← current − δ

The shift is folded into the weights before it, so it costs nothing at run time (Li et al., ICML 2021). One
half of the samples sets it, the other half has to agree: a shift that raises the squared error there is
dropped. It depends on T, and is worth most to neurons that can take spikes back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from calibrators import calibrators
from converter.errors import DataError, UsageError
from converter.graph import Graph, Node, size_of
from converter.neurons import Neuron
from converter.observe import Batches, activations_of
from converter.ops import Affine
from converter.passes.fold_affine import fold_affine
from converter.unroll import fire_in_turn, unroll

MEMORY = 1 << 30
"""Bytes that the largest value of the run may take, over all steps: samples beyond are left out."""


@calibrators.register
@dataclass(frozen=True)
class BiasCorrection:
    """`timesteps` of the run it is meant for; `rounds` of correction for each layer."""

    timesteps: int = 32
    rounds: int = 3

    def __post_init__(self) -> None:
        """Raise `UsageError` for a run without steps or rounds."""
        if self.timesteps < 1 or self.rounds < 1:
            raise UsageError(f"{self.timesteps} timesteps and {self.rounds} rounds: either is at least 1")

    def __call__(self, graph: Graph, batches: Batches) -> Graph:
        """The same graph with corrected biases. Raises `DataError` for fewer than two samples."""
        with torch.inference_mode():
            x = self._samples(graph, batches)
            activations = activations_of(graph, x)
            shifts: dict[str, Tensor] = {}

            def fire(node: Node, currents: Tensor) -> Tensor:
                shift, spikes = self._corrected(node, currents, activations.pop(node))
                if bool(shift.any()):
                    shifts[node.name] = -shift
                return spikes

            unroll(graph, x, self.timesteps, fire)
        return shifted(graph, {name: shift.clone() for name, shift in shifts.items()})

    def _samples(self, graph: Graph, batches: Batches) -> Tensor:
        largest = max(size_of(node.shape) for node in graph)
        fit = max(2, MEMORY // (4 * self.timesteps * largest))
        kept: list[Tensor] = []
        for batch in batches():
            kept.append(batch[: fit - sum(map(len, kept))])
        x = torch.cat(kept) if kept else torch.empty(0)
        if len(x) < 2:
            raise DataError(f"bias correction needs two samples or more, there are {len(x)}")
        return x

    def _corrected(self, node: Node, currents: Tensor, activation: Tensor) -> tuple[Tensor, Tensor]:
        """The shift [1, channels, 1, …] of one layer, and its spikes under it."""
        others = [d for d in range(activation.dim()) if d != 1]
        half = len(activation) // 2
        spikes = fire_in_turn(node, currents)
        shift = torch.zeros_like(activation[:1].mean(others, keepdim=True))
        best, before = shift, error_of(spikes[:, half:], activation[half:])
        kept = spikes
        for _ in range(self.rounds):
            shift = shift + (spikes.mean(0)[:half] - activation[:half]).mean(others, keepdim=True)
            spikes = fire_in_turn(node, currents - shift)
            after = error_of(spikes[:, half:], activation[half:])
            if after < before:
                best, before, kept = shift, after, spikes
        return best, kept


def error_of(spikes: Tensor, activation: Tensor) -> float:
    """The mean squared difference of the mean spikes [steps, batch, …] and the activation [batch, …]."""
    return float((spikes.mean(0) - activation).square().mean(dtype=torch.float64))


def shifted(graph: Graph, shifts: dict[str, Tensor]) -> Graph:
    """The graph with `shifts` added to its neurons' currents, in the biases before them where possible."""

    def rule(node: Node) -> Node:
        if node.name not in shifts or not isinstance(node.op, Neuron):
            return node
        shift = Affine(None, shifts[node.name])
        moved = Node.of(shift, node.inputs[0], name=f"{node.name}.shift")
        return replace(node, inputs=(moved,))

    return fold_affine(graph.map(rule))
