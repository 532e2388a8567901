"""Saturation: a neuron's threshold is the value at which its activation itself saturates, Clip(0, λ)'s λ.

That is the threshold a network was trained for (`ann2snn train`). An activation without one, a ReLU, takes
the largest value of its layer, as under `maximum`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from calibrators import calibrators, watch, with_ranges
from calibrators.statistics import Largest, as_threshold
from converter.graph import Graph
from converter.neurons import Neuron
from converter.observe import Batches


@calibrators.register
@dataclass(frozen=True)
class Ceiling:
    """It has no options: the network says it all."""

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The thresholds are the activations' ceilings, one for a layer."""
        ranges = {}
        for node, seen in watch(graph, batches, lambda has_channels: Largest(False), ann).items():
            assert isinstance(node.op, Neuron)
            largest, ceiling = seen.value(), node.op.ceiling
            value = largest if ceiling is None else torch.full_like(largest, ceiling)
            ranges[node] = as_threshold(value, len(node.shape))
        return with_ranges(graph, ranges)
