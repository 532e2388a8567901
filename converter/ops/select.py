"""Which values are taken: Slice, Split, Gather; and Pad, which puts new ones around. Never along the batch.

Split and Slice are `Slice`s; a Gather at constant places is a `Gather`, or a `Slice` when it is one.
Source: ONNX operator specification, Slice-1/10/11/13, Split-1/2/11/13/18, Gather-1/11/13, Pad-2/11/13/18/19.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from converter.errors import Refusal
from converter.graph import BATCH, Node, show_shape
from converter.ops._basic import Affine, Gather, Pad, Slice
from converter.ops._batch import (
    axis_of,
    integers,
    listed,
    reshaped,
    resolve_target,
    without_batch_axes,
)
from converter.view import NodeView, lowerings

MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@lowerings.register("Slice", 1)
def slice_(view: NodeView) -> Node:
    """One `Slice` for each axis that is cut; a negative step is a `Gather`."""
    x = view.data(0)
    if view.opset < 10:
        starts, ends = tuple(view.required("starts")), tuple(view.required("ends"))
        axes, steps = tuple(view.attribute("axes", list(range(len(starts))))), (1,) * len(starts)
    else:
        starts, ends = integers(view, 1, "starts"), integers(view, 2, "ends")
        axes = view.integers(3, "axes") or tuple(range(len(starts)))
        steps = view.integers(4, "steps") or (1,) * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        dim = axis_of(axis, len(x.shape))
        places = range(*slice(start, _end(end, step), step).indices(x.shape[dim])) if step else range(0)
        x = _pick(view, x, dim, places, f"axis{dim}")
    return x


def _end(end: int, step: int) -> int | None:
    """ONNX says "to the very first, going down" with a very negative end, Python with None."""
    return None if step < 0 and end < -BATCH else end


def _pick(view: NodeView, x: Node, dim: int, places: range, part: str) -> Node:
    """The entries of x at `places` along `dim`."""
    if places == range(x.shape[dim]):
        return x
    without_batch_axes(x, (dim,), "takes a part of")
    if not places:
        raise Refusal(f"leaves nothing of dimension {dim} of {show_shape(x.shape)}")
    if places.step > 0:
        return view.build(Slice(dim, places[0], places[-1] + 1, places.step), x, part=part)
    return view.build(Gather(torch.tensor(list(places)), dim), x, part=part)


@lowerings.register("Split", 1)
def split(view: NodeView) -> tuple[Node, ...]:
    """Into the given sizes, or as evenly as it goes with a smaller last part."""
    x = view.data(0)
    dim = axis_of(view.attribute("axis", 0), len(x.shape))
    total, count = x.shape[dim], view.attribute("num_outputs", len(view.outputs))
    part = -(-total // count)
    sizes = listed(view, "split", 1, 13) or tuple(min(part, total - i * part) for i in range(count))
    if sum(sizes) != total or min(sizes) < 1:
        raise Refusal(f"its parts {sizes} do not make up dimension {dim} of {show_shape(x.shape)}")
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(
        _pick(view, x, dim, range(start, start + size), f"part{i}")
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
    )


@lowerings.register("Gather", 1)
def gather(view: NodeView) -> Node:
    """At constant places; indices of rank r put r dimensions in the place of one, so a scalar drops it."""
    x = view.data(0)
    dim = axis_of(view.attribute("axis", 0), len(x.shape))
    index = view.constant(1, "indices")
    size = x.shape[dim]
    places = [int(i) + size * (int(i) < 0) for i in index.reshape(-1)]
    if not all(0 <= i < size for i in places):
        raise Refusal(f"an index is outside dimension {dim} of {show_shape(x.shape)}")
    target = (*x.shape[:dim], *index.shape, *x.shape[dim + 1 :])
    if size > BATCH and places == list(range(size // BATCH)):
        # torch's as_strided, exported at batch 1: all there is of a sample, in order, in a new shape
        return reshaped(view, x, resolve_target(x.shape, target))
    without_batch_axes(x, (dim,), "takes a part of")
    row = range(places[0], places[-1] + 1) if places else range(0)
    if places == list(row):
        picked = _pick(view, x, dim, row, "picked" if index.dim() != 1 else "")
    else:
        picked = view.build(Gather(torch.tensor(places), dim), x, part="picked" if index.dim() != 1 else "")
    return reshaped(view, picked, target)


@lowerings.register("Pad", 2)
def pad(view: NodeView) -> Node:
    """With zeros, mirrored or repeated edges; another constant is added to the zeros afterwards."""
    x = view.data(0)
    rank = len(x.shape)
    pads = listed(view, "pads", 1, 11)
    if pads is None:
        raise Refusal("lacks its pads")
    value = _pad_value(view)
    told = view.integers(3, "axes")
    axes = [axis_of(a, rank) for a in told] if told is not None else list(range(rank))
    before, after = dict(zip(axes, pads, strict=False)), dict(zip(axes, pads[len(axes) :], strict=False))
    padded = tuple(a for a in axes if before[a] or after[a])
    without_batch_axes(x, padded, "pads")
    mode = view.attribute("mode", "constant")
    if mode not in MODES:
        raise Refusal(f"has mode = {mode}, which ONNX does not define")
    if not padded:
        return x
    first = min(padded) if mode == "constant" else min(*padded, max(rank - 1, 0), 2)  # as many as torch needs
    amounts = tuple(n for a in range(rank - 1, first - 1, -1) for n in (before.get(a, 0), after.get(a, 0)))
    node = view.build(Pad(amounts, MODES[mode]), x, part="zeros" if value else "")
    if mode != "constant" or not value:
        return node
    inner = torch.zeros([d if first <= i else 1 for i, d in enumerate(x.shape)])
    return view.build(Affine(None, F.pad(inner, amounts, value=value)), node)


def _pad_value(view: NodeView) -> float:
    """What a constant pad is made of. Raises `Refusal` for infinity, which a weight cannot be."""
    told = view.optional(2, "value") if view.opset >= 11 else None
    value = view.attribute("value", 0.0) if told is None else float(told.reshape(()))
    if not math.isfinite(value):
        raise Refusal(f"pads with {value}")
    return value
