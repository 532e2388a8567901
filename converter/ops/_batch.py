"""Axes, shapes and the batch: what a fixed shape means when the batch is free, and what may not touch it.

A model exported at batch 1 says Reshape to [1, 256]; here that means [N, 256].
"""

from __future__ import annotations

from math import prod

from torch import Tensor

from converter.errors import Refusal
from converter.graph import BATCH, Node, Shape, batch_axes, show_shape
from converter.ops._basic import Reshape, Transpose
from converter.view import NodeView, without_batch


def parameter(view: NodeView, index: int, what: str) -> Tensor:
    """A constant that becomes a weight: float32, the batch it was expanded over (if any) back at 1."""
    return without_batch(view.constant(index, what)).float()


def axis_of(axis: int, rank: int) -> int:
    """A possibly negative axis as 0 … rank − 1. Raises `Refusal` when out of range."""
    if not -rank <= axis < max(rank, 1):
        raise Refusal(f"axis {axis} is not an axis of a tensor of rank {rank}")
    return axis % rank if rank else 0


def without_batch_axes(x: Node, axes: tuple[int, ...], doing: str) -> None:
    """Raise `Refusal` when one of `axes` holds the batch: samples would mix."""
    if set(axes) & set(batch_axes(x.shape)):
        raise Refusal(f"{doing} the batch dimension of {show_shape(x.shape)}: samples of a batch would mix")


def reshaped(view: NodeView, x: Node, target: Shape, part: str = "") -> Node:
    """x in the shape `target`, its batch (if any) explicit as a multiple of `BATCH`; x itself if it is so.

    Each sample is reshaped by itself. Where the batch must move to a place that the order in memory does not
    give it, it is brought to the front and from there to its place.
    """
    if target == x.shape:
        return x
    if prod(target) != prod(x.shape):
        raise Refusal(f"{show_shape(x.shape)} does not hold as many values as {show_shape(target)}")
    old, new = _batch_axis(x.shape), _batch_axis(target)
    if old is None or new is None:
        return view.build(Reshape(target), x, part=part)
    before, ahead = prod(x.shape[:old]), prod(target[:new])
    values = prod(x.shape) // BATCH
    if before != ahead and before > 1:
        x = view.build(Reshape((before, -1, values // before)), x, part=f"{part}open")
        x = view.build(Transpose((1, 0, 2)), x, part=f"{part}first")
    if before != ahead and ahead > 1:
        x = view.build(Reshape((-1, ahead, values // ahead)), x, part=f"{part}split")
        x = view.build(Transpose((1, 0, 2)), x, part=f"{part}place")
    return view.build(Reshape(tuple(-1 if i == new else d for i, d in enumerate(target))), x, part=part)


def _batch_axis(shape: Shape) -> int | None:
    places = batch_axes(shape)
    if len(places) > 1:
        raise Refusal(f"the shape {show_shape(shape)} holds the batch twice")
    return places[0] if places else None


def transposed(view: NodeView, x: Node, order: tuple[int, ...], part: str = "") -> Node:
    """x with its dimensions in this order; x itself if they are."""
    return x if order == tuple(range(len(order))) else view.build(Transpose(order), x, part=part)


def swapped(view: NodeView, x: Node, part: str = "") -> Node:
    """x with its last two dimensions exchanged."""
    rank = len(x.shape)
    return transposed(view, x, (*range(rank - 2), rank - 1, rank - 2), part)


def resolve_target(source: Shape, literal: Shape, *, zero_copies: bool = True) -> Shape:
    """The shape a Reshape to `literal` (0 copies, −1 is the rest) gives on `source`, its batch explicit.

    The batch is always the outer factor of the dimension that holds it. A `literal` that has no batch, on a
    source that has, comes from an export at batch 1: it is solved at batch 1, then the batch is placed, see
    `_place`. Raises `Refusal` when sizes differ, or where an explicit batch would mix samples.
    """
    at = _batch_axis(source)
    if at is None:
        return _solve(source, literal, zero_copies)
    if any(d >= BATCH for d in literal):
        target = _solve(source, literal, zero_copies)
        new = _batch_axis(target)
        if new is None or not _keeps_samples(source, at, target, new):
            raise Refusal(f"{show_shape(source)} to {show_shape(target)} would mix the samples of a batch")
        return target
    target = _solve(tuple(d // BATCH if i == at else d for i, d in enumerate(source)), literal, zero_copies)
    if not target:
        raise Refusal(f"the batch of {show_shape(source)} has no place in a single number")
    place = _place(target, prod(source[:at]), at)
    return tuple(d * BATCH if i == place else d for i, d in enumerate(target))


def _place(target: Shape, outer: int, at: int) -> int:
    """Where the batch goes that had `outer` values before it, in dimension `at`, and now is not written.

    First choice: a dimension of size 1 where the order in memory has the batch. Second: another of size 1.
    Third: a larger one where the order in memory has it. The last dimension, of features, only where it fits;
    else the first dimension.
    """
    last = len(target) - 1
    fits = [prod(target[:i]) == outer for i in range(len(target))]
    ones = [i for i, d in enumerate(target) if d == 1]
    choices = (
        [i for i in ones if fits[i]],
        [i for i in ones if i < last],
        [i for i in range(len(target)) if fits[i] and i < last],
    )
    found = next((c for c in choices if c), [0])
    return min(found, key=lambda i: (i != at, i))


def _keeps_samples(source: Shape, old: int, target: Shape, new: int) -> bool:
    """Whether the batch in `target` can be that in `source`, in order of memory, as a factor of either."""

    def strides(shape: Shape, axis: int) -> set[int]:
        factor = shape[axis] // BATCH
        return {prod(shape[:axis]) * d for d in range(1, factor + 1) if factor % d == 0}

    return bool(strides(source, old) & strides(target, new))


def _solve(source: Shape, literal: Shape, zero_copies: bool) -> Shape:
    if zero_copies and any(d == 0 and i >= len(source) for i, d in enumerate(literal)):
        raise Refusal(f"the shape {literal} copies a dimension that {show_shape(source)} does not have")
    target = [source[i] if d == 0 and zero_copies else d for i, d in enumerate(literal)]
    rest = prod(d for d in target if d != -1)
    if target.count(-1) == 1 and rest and prod(source) % rest == 0:
        target[target.index(-1)] = prod(source) // rest
    if prod(target) != prod(source) or min(target, default=0) < 0:
        raise Refusal(f"{show_shape(source)} cannot take the shape {show_shape(literal)}")
    return tuple(target)


def integers(view: NodeView, index: int, what: str) -> tuple[int, ...]:
    """Constant integers that must be there."""
    values = view.integers(index, what)
    if values is None:
        raise Refusal(f"lacks its {what} (input {index})")
    return values


def listed(view: NodeView, name: str, index: int, since: int) -> tuple[int, ...] | None:
    """Integers that are an attribute before opset `since` and an input from then on; None when absent."""
    if view.opset >= since:
        return view.integers(index, name)
    told = view.attribute(name, None)
    return None if told is None else tuple(told)
