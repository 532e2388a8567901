"""A scale and shift goes into its neighbour's weights.

    Affine ∘ Affine             one Affine
    Affine after Conv, Linear   W' = g·W (output channels),  b' = g·b + h
    Affine before Conv, Linear  W' = W·g (input channels),   b' = b + Σ W·h
    a shift after Add           into one of the addends, if that can take it
    a shift after a max-pool    into what the pool reads, if that can take it

Before a convolution that pads with zeros the shift is not padded: at the border fewer inputs carry it, so
what it adds is a map over the positions, conv(h, W), and not one number a channel. What cannot be folded
stays; the graph computes the same either way. Weights that are held as codes take no scale.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from converter.graph import Graph, Node, batch_axes
from converter.ops import Add, Affine, Conv, ConvTranspose, Linear, MaxPool, ReduceMax


def fold_affine(graph: Graph) -> Graph:
    """Every Affine in its neighbour, where that is exact."""
    return graph.rewrite(_rule)


def _rule(node: Node) -> Node | None:
    match node:
        case Node(op=Affine() as outer, inputs=(Node(op=Affine() as inner) as before,)):
            return replace(node, op=_compose(inner, outer), inputs=before.inputs)
        case Node(op=Affine() as affine, inputs=(before,)):
            return _backwards(affine, node, before)
        case Node(op=Conv() | Linear(), inputs=(Node(op=Affine() as affine) as before,)):
            return _into_input(affine, node, before)
    return None


def _backwards(affine: Affine, node: Node, before: Node) -> Node | None:
    """`before` with the Affine `node` after it taken in."""
    match before.op:
        case Conv() | ConvTranspose() | Linear():
            return _into_output(affine, node, before)
        case Add() if affine.scale is None:
            return _into_addend(affine, node, before)
        case MaxPool() | ReduceMax(keep=True) if affine.scale is None and _even(affine.shift, node, before):
            (source,) = before.inputs
            taken = _backwards(affine, replace(node, inputs=(source,), shape=source.shape), source)
            return None if taken is None else replace(before, inputs=(taken,))
    return None


def _even(shift: Tensor | None, node: Node, pool: Node) -> bool:
    """Whether `node`, after `pool`, adds the same all over a channel: the largest stays the largest."""
    return node.shape == pool.shape and vector(shift, len(node.shape), 1, node.shape[1]) is not None


def _compose(inner: Affine, outer: Affine) -> Affine:
    """outer(inner(x)) as one Affine."""
    scale, shift = inner.scale, inner.shift
    if outer.scale is not None:
        scale = outer.scale if scale is None else scale * outer.scale
        shift = None if shift is None else shift * outer.scale
    if outer.shift is not None:
        shift = outer.shift if shift is None else shift + outer.shift
    return Affine(scale, shift)


def _into_output(affine: Affine, node: Node, before: Node) -> Node | None:
    op = before.op
    assert isinstance(op, Conv | ConvTranspose | Linear)
    rank = len(before.shape)
    axis = rank - 1 if isinstance(op, Linear) else 1
    channels = before.shape[axis]
    scale, shift = vector(affine.scale, rank, axis, channels), vector(affine.shift, rank, axis, channels)
    if (
        node.shape != before.shape
        or (scale is None) != (affine.scale is None)
        or (shift is None) != (affine.shift is None)
    ):
        return None
    weight, bias = op.weight, op.bias
    if scale is not None:
        if op.packed is not None:
            return None
        weight = _scale_output(op, scale)
        bias = None if bias is None else bias * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    return replace(before, op=replace(op, weight=weight, bias=bias), shape=node.shape)


def _into_addend(affine: Affine, node: Node, before: Node) -> Node | None:
    """The sum with the shift in the first of its addends that has a bias of its own."""
    for place, addend in enumerate(before.inputs):
        if isinstance(addend.op, Conv | ConvTranspose | Linear) and addend.shape == node.shape:
            shifted = _into_output(affine, replace(node, inputs=(addend,)), addend)
            if shifted is not None:
                inputs = (*before.inputs[:place], shifted, *before.inputs[place + 1 :])
                return replace(before, inputs=inputs)
    return None


def _scale_output(op: Conv | ConvTranspose | Linear, scale: Tensor) -> Tensor:
    """`op.weight` with every output channel scaled; [in, out / groups, k…] for ConvTranspose."""
    weight = op.weight
    if not isinstance(op, ConvTranspose):
        return weight * scale.reshape(-1, *([1] * (weight.dim() - 1)))
    grouped = weight.reshape(op.groups, -1, *weight.shape[1:])
    factor = scale.reshape(op.groups, 1, -1, *([1] * (weight.dim() - 2)))
    return (grouped * factor).reshape(weight.shape)


def _into_input(affine: Affine, node: Node, before: Node) -> Node | None:
    op = node.op
    assert isinstance(op, Conv | Linear)
    source = before.inputs[0]
    rank = len(source.shape)
    axis = rank - 1 if isinstance(op, Linear) else 1
    channels = source.shape[axis]
    scale = vector(affine.scale, rank, axis, channels)
    if source.shape != before.shape or (scale is None) != (affine.scale is None):
        return None
    if scale is not None and op.packed is not None:
        return None
    weight = op.weight if scale is None else _scale_input(op, scale)
    if affine.shift is None:
        return replace(node, op=replace(op, weight=weight), inputs=(source,))
    batch = batch_axes(source.shape)
    sample = [1 if i in batch else d for i, d in enumerate(source.shape)]
    added = replace(op, bias=None)(affine.shift.expand(sample))
    added_rank = len(node.shape)
    even = vector(_constant_along(added, axis), added_rank, axis, node.shape[axis])
    if even is not None:
        bias = even if op.bias is None else op.bias + even
        return replace(node, op=replace(op, weight=weight, bias=bias), inputs=(source,))
    folded = replace(node, op=replace(op, weight=weight), inputs=(source,))
    return replace(node, op=Affine(None, added), inputs=(folded,), name=f"{node.name}.shift")


def _scale_input(op: Conv | Linear, scale: Tensor) -> Tensor:
    """`op.weight` with every input channel scaled; [out, in / groups, k…], a group is a block of out."""
    if isinstance(op, Linear):
        return op.weight * scale
    out, per_group = op.weight.shape[:2]
    factor = scale.reshape(op.groups, 1, per_group).expand(-1, out // op.groups, -1)
    return op.weight * factor.reshape(out, per_group, *([1] * (op.weight.dim() - 2)))


def _constant_along(added: Tensor, axis: int) -> Tensor | None:
    """`added` reduced to one value a channel, or None when it differs from place to place."""
    others = [i for i in range(added.dim()) if i != axis]
    flat = added.movedim(axis, 0).reshape(added.shape[axis], -1)
    same = bool((flat - flat[:, :1]).abs().max() <= 1e-6 * flat.abs().max())
    return added.mean(others, keepdim=True) if same else None


def vector(values: Tensor | None, rank: int, axis: int, channels: int) -> Tensor | None:
    """What broadcasts against a tensor of this rank, as [channels] along `axis`; else None."""
    if values is None or values.dim() > rank:
        return None
    shape = (1,) * (rank - values.dim()) + tuple(values.shape)
    if any(d != 1 for i, d in enumerate(shape) if i != axis) or shape[axis] not in (1, channels):
        return None
    return torch.broadcast_to(values.reshape(-1), (channels,)).contiguous()
