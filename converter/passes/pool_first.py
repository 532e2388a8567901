"""A max-pool moves before the activation it reads: fewer neurons fire, and what they say is not pooled.

    max(f(x₁), …, f(xₙ)) = f(max(x₁, …, xₙ))   for every f that never falls, one and the same for the window

So the pool looks at currents: on running sums (converter/cumulative.py), or once where the current is
constant. f is Relu, Clip, LeakyRelu, a PRelu with slopes of 0 and more, or a scale and shift after one of
these; through a Concat the pool goes into every branch, if each ends so. An activation that anything else
reads stays where it is, for the pool would need a second one. Padding is −∞, and no window is all padding,
so no f ever sees it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from converter.graph import Graph, Node, Op
from converter.ops import Affine, Clip, Concat, LeakyRelu, MaxPool, PRelu, ReduceMax, Relu


def pool_first(graph: Graph) -> Graph:
    """Every max-pool before the activations that it alone reads."""
    while (moved := _moved(graph)) is not graph:
        graph = moved
    return graph


def _moved(graph: Graph) -> Graph:
    """Every max-pool that may move one node further up."""
    readers = Counter(i for node in graph for i in node.inputs) + Counter(graph.outputs)
    pools = {node.name for node in graph if _may_move(node, readers)}
    if not pools:
        return graph
    return graph.map(lambda node: _swapped(node) if node.name in pools else node).with_unique_names()


def _may_move(node: Node, readers: Mapping[Node, int]) -> bool:
    if not isinstance(node.op, MaxPool | ReduceMax):
        return False
    (source,) = node.inputs
    return prod(node.shape) <= prod(source.shape) and _passes(node.op, source, readers)


def _passes(pool: MaxPool | ReduceMax, node: Node, readers: Mapping[Node, int]) -> bool:
    """Whether `pool` alone reads `node` and commutes with it, and so on upwards as far as an activation."""
    if readers[node] > 1:
        return False
    match node.op:
        case Relu() | Clip() | LeakyRelu():
            return True
        case PRelu(slope):
            return _rises(slope) and _even(pool, node)
        case Affine(scale):
            return _rises(scale) and _even(pool, node) and _passes(pool, node.inputs[0], readers)
        case Concat(dim):
            apart = dim not in _pooled(pool, node)
            return apart and all(_passes(pool, branch, readers) for branch in node.inputs)
    return False


def _pooled(pool: MaxPool | ReduceMax, source: Node) -> tuple[int, ...]:
    """The dimensions that windows extend over."""
    rank = len(source.shape)
    return pool.dims if isinstance(pool, ReduceMax) else tuple(range(rank - len(pool.kernel), rank))


def _rises(factor: Tensor | None) -> bool:
    return factor is None or bool(torch.all(factor >= 0))


def _even(pool: MaxPool | ReduceMax, node: Node) -> bool:
    """Whether all values of a window meet the same parameters of `node`, and it keeps its input's shape."""
    shapes = [_aligned(t, len(node.shape)).shape for t in node.op.tensors().values()]
    same = all(shape[d] == 1 for shape in shapes for d in _pooled(pool, node))
    return same and node.shape == node.inputs[0].shape


def _aligned(parameter: Tensor, rank: int) -> Tensor:
    """`parameter` with as many dimensions as what it broadcasts against."""
    return parameter.reshape((1,) * (rank - parameter.dim()) + tuple(parameter.shape))


def _swapped(pool: Node) -> Node:
    """The node above `pool`, now below it; both keep their names."""
    (above,) = pool.inputs
    kind = pool.op
    assert isinstance(kind, MaxPool | ReduceMax)
    gone = () if isinstance(kind, MaxPool) or kind.keep else kind.dims
    first = tuple(Node.of(kind, source, name=pool.name) for source in above.inputs)
    return replace(above, op=_without(above.op, len(above.shape), gone), inputs=first, shape=pool.shape)


def _without(op: Op, rank: int, gone: tuple[int, ...]) -> Op:
    """`op` for values that lack the dimensions `gone`."""
    if isinstance(op, Concat):
        return replace(op, dim=op.dim - sum(d < op.dim for d in gone))
    return op.map_tensors(lambda t: _aligned(t, rank).squeeze(gone)) if gone else op
