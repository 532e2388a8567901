"""The ANN that a spiking graph stands for, and whether corrections have changed it.

Calibrators that set thresholds and first membranes, or put in what mends spikes over time, leave a graph the
ANN it was. A correction of weights and biases does not: then the graph before it is what to measure against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from converter.graph import Graph, Node
from converter.neurons import Neuron
from converter.temporal_bias import TemporalBias
from converter.withdrawal import Withdrawal


def ann_of(graph: Graph) -> Graph:
    """A spiking graph without what means nothing in its ANN: thresholds, first membranes, mended spikes."""

    def plain(node: Node) -> Node:
        match node.op:
            case Neuron():
                return replace(node, op=replace(node.op, threshold=None, initial=0.5))
            case TemporalBias() | Withdrawal():
                return node.inputs[0]
        return node

    return graph.map(plain)


def same_ann(graph: Graph, other: Graph) -> bool:
    """Whether two spiking graphs are the same ANN, node by node: names, ops, weights to the last bit."""
    one, two = ann_of(graph), ann_of(other)
    return str(one) == str(two) and all(
        type(a.op) is type(b.op) and same_tensors(a.op.tensors(), b.op.tensors())
        for a, b in zip(one, two, strict=True)
    )


def same_tensors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether both hold the same values under the same names."""
    return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether both hold the same values of the same type, wherever they are."""
    return a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu())
