"""Saturation: a neuron's threshold is the value at which its activation itself saturates, Clip(0, λ)'s λ.

That is the threshold a network was trained for (`ann2snn train`). An activation without one, a ReLU, takes
the largest value of its layer, as under `maximum`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from calibrators import calibrators, watch, with_ranges
from calibrators.statistics import Largest, as_threshold
from converter.graph import Graph, Node
from converter.neurons import Neuron
from converter.observe import Batches


@calibrators.register
@dataclass(frozen=True)
class Ceiling:
    """It has no options: the network says it all."""

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The thresholds are the activations' ceilings, one for a layer."""
        largest: dict[Node, Largest] = {}
        if any(isinstance(n.op, Neuron) and n.op.ceiling is None for n in graph):
            largest = watch(graph, batches, lambda has_channels: Largest(False), ann)

        def range_of(node: Node, ceiling: float | None) -> Tensor:
            if ceiling is None:
                return as_threshold(largest[node].value(), len(node.shape))
            return torch.tensor(ceiling, device=first.device)

        first = next(iter(batches()))
        neurons = ((node, node.op.ceiling) for node in graph if isinstance(node.op, Neuron))
        return with_ranges(graph, {node: range_of(node, ceiling) for node, ceiling in neurons})
