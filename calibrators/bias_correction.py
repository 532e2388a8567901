"""Bias correction: what a layer's spikes say on average is made what its ANN activations are on average.

Layer by layer from the input, each layer seeing its already corrected, *spiking* predecessors:

    δ_c ← δ_c + mean(o_c) − mean(a_c)     o: mean spikes over T steps, a: ANN activation; over samples, places
    current ← current − δ

The shift is folded into the weights before it, so it costs nothing at run time (Li et al., ICML 2021). One
half of the samples sets it, the other half has to agree: a shift that raises the squared error there is
dropped. It depends on T, and is worth most to neurons that can take spikes back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from calibrators import calibrators
from calibrators._layerwise import Correction, Layer, agreed, by_channel, with_neurons
from calibrators._run import layer_by_layer
from converter.graph import Graph
from converter.observe import Batches


@calibrators.register
@dataclass(frozen=True)
class BiasCorrection(Correction):
    """`timesteps` and `schedule` of the run it is meant for; `rounds` of correction for each layer."""

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The same graph with corrected biases. Raises `DataError` for fewer than two samples."""
        shifts: dict[str, Tensor] = {}

        def mend(layer: Layer) -> Layer:
            start = torch.zeros_like(by_channel(layer.activation, layer.node))
            shift = agreed(layer, start, self.rounds, Layer.shifted, lambda fit, s: s - fit.shifted(s).bias())
            shifts[layer.node.name] = shift
            return layer.shifted(shift)

        layer_by_layer("bias-correction", graph, batches, self.timesteps, self.schedule, mend, ann)
        return with_neurons(graph, {}, shifts)
