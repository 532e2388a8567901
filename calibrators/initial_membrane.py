"""Membranes that start where a layer's average error ends: what is missing after T steps is there at first.

Layer by layer from the input, each layer seeing its already corrected, *spiking* predecessors:

    v0_c ← v0_c + T · (mean(a_c) − mean(o_c)) / θ_c       o: mean spikes over T steps, a: ANN activation

in thresholds, the means over samples and places (Li et al., ICML 2021, "potential", there for each place).
The charge is given once and not at every step, so its effect on the rate fades as 1 / T. As for
bias-correction, one half of the samples sets it and the other has to agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from calibrators import calibrators
from calibrators._layerwise import Correction, Layer, agreed, by_channel, with_neurons
from calibrators._run import layer_by_layer
from converter.graph import Graph
from converter.neurons import Neuron
from converter.observe import Batches


@calibrators.register
@dataclass(frozen=True)
class InitialMembrane(Correction):
    """`timesteps` and `schedule` of the run it is meant for; `rounds` of correction for each layer."""

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The same graph with an initial membrane for each channel. Raises `DataError` without samples."""
        found: dict[str, Neuron] = {}

        def improved(fit: Layer, start: Tensor) -> Tensor:
            missing = -starting(fit, start).bias()
            return start + self.timesteps * missing / fit.neuron.calibrated()

        def mend(layer: Layer) -> Layer:
            given = by_channel(layer.activation, layer.node) * 0 + layer.neuron.initial
            layer = starting(layer, agreed(layer, given, self.rounds, starting, improved))
            found[layer.node.name] = layer.neuron
            return layer

        layer_by_layer("initial-membrane", graph, batches, self.timesteps, self.schedule, mend, ann)
        return with_neurons(graph, found, {})


def starting(layer: Layer, initial: Tensor) -> Layer:
    """The layer with these initial membranes [channels, 1, …] or a scalar, in thresholds."""
    return replace(layer, node=replace(layer.node, op=replace(layer.neuron, initial=initial)))
