"""Temporal bias correction: at every step, a layer's spikes say on average what its ANN activations are.

Layer by layer from the input, each layer seeing its already corrected, *spiking* predecessors, and step by
step, each step seeing the membranes that the corrected steps before it left:

    B_t ← B_t + α · (mean(o_t) − mean(a))       o_t: spikes of step t, a: ANN activation; over samples, places
    current of step t ← current − B_t

(FTBC: Wu et al., ECCV 2024; α = ½.) As for bias-correction, one half of the samples sets it and the other has
to agree. It costs steps · channels numbers a layer, for runs of exactly that many steps. A shift that is
the same at every step belongs into the weights: bias-correction before it. For the schedule stream alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from calibrators import calibrators
from calibrators._layerwise import Layer, agreed, by_channel, check_run
from calibrators._run import layer_by_layer
from converter.graph import Graph, Node
from converter.observe import Batches
from converter.temporal_bias import TemporalBias

RATE = 0.5
"""α, the share of a step's error that one round takes away."""


@calibrators.register
@dataclass(frozen=True)
class TemporalBiasCorrection:
    """`timesteps` of the run it is meant for; `rounds` of correction for each layer."""

    timesteps: int = 32
    rounds: int = 3

    def __post_init__(self) -> None:
        """Raise `UsageError` for a run without steps or rounds."""
        check_run(self.timesteps, self.rounds, "stream")

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The same graph with a bias for each step before its neurons. Raises `DataError` without samples."""
        biases: dict[str, Tensor] = {}

        def mend(layer: Layer) -> Layer:
            start = torch.zeros_like(by_channel(layer.activation, layer.node))
            each = start.expand(self.timesteps, *start.shape)
            bias = agreed(layer, each, self.rounds, biased, improved)
            if bool(bias.any()):
                biases[layer.node.name] = bias
            return biased(layer, bias)

        layer_by_layer("temporal-bias", graph, batches, self.timesteps, "stream", mend, ann)
        return with_biases(graph, biases)


def biased(layer: Layer, bias: Tensor) -> Layer:
    """The layer with `bias` [steps, channels, 1, …] added to its currents."""
    return layer.shifted(bias[:, None])


def improved(layer: Layer, bias: Tensor) -> Tensor:
    """The bias after one round: step by step, each from the membranes that the mended ones before it left."""
    neuron = layer.neuron
    state, better = neuron.init(), []
    for current, now in zip(layer.currents, bias, strict=True):
        spikes = neuron.step(state, current + now)[1]
        better.append(now - RATE * by_channel(spikes - layer.activation, layer.node))
        state = neuron.step(state, current + better[-1])[0]
    return torch.stack(better)


def with_biases(graph: Graph, biases: dict[str, Tensor]) -> Graph:
    """The graph with these biases [steps, channels, 1, …] added to the currents of the neurons named."""

    def rule(node: Node) -> Node:
        if node.name not in biases:
            return node
        moved = Node.of(TemporalBias(biases[node.name]), node.inputs[0], name=f"{node.name}.bias")
        return replace(node, inputs=(moved,))

    return graph.map(rule).with_unique_names()
