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
    """x in the shape `target`, its batch (if any) explicit as a multiple of `BATCH`; x itself if it is so."""
    if target == x.shape:
        return x
    places = batch_axes(target)
    if len(places) > 1:
        raise Refusal(f"the shape {show_shape(target)} holds the batch twice")
    if prod(target) != prod(x.shape):
        raise Refusal(f"{show_shape(x.shape)} does not hold as many values as {show_shape(target)}")
    return view.build(Reshape(tuple(-1 if i in places else d for i, d in enumerate(target))), x, part=part)


def transposed(view: NodeView, x: Node, order: tuple[int, ...], part: str = "") -> Node:
    """x with its dimensions in this order; x itself if they are."""
    return x if order == tuple(range(len(order))) else view.build(Transpose(order), x, part=part)


def swapped(view: NodeView, x: Node, part: str = "") -> Node:
    """x with its last two dimensions exchanged."""
    rank = len(x.shape)
    return transposed(view, x, (*range(rank - 2), rank - 1, rank - 2), part)


def resolve_target(source: Shape, literal: Shape, *, zero_copies: bool = True) -> Shape:
    """The shape a Reshape to `literal` (0 copies, −1 is the rest) gives on `source`, its batch explicit.

    A `literal` without batch on a source with one comes from an export at batch 1. It is solved at batch 1;
    the batch then goes to the dimension j of which it is the outer factor, where prod(target[:j]) equals the
    number of values before the batch in the source. Of several (they differ by dimensions of size 1) one of
    size 1 is taken, if possible at the same place. Raises `Refusal` when there is none or the sizes differ.
    """
    places = batch_axes(source)
    if not places or any(d >= BATCH for d in literal):
        return _solve(source, literal, zero_copies)
    if len(places) > 1:
        raise Refusal(f"its input {show_shape(source)} holds the batch twice")
    at = places[0]
    single = tuple(d // BATCH if i == at else d for i, d in enumerate(source))
    target = _solve(single, literal, zero_copies)
    outer = prod(source[:at])
    fitting = [j for j in range(len(target)) if prod(target[:j]) == outer]
    if not fitting:
        raise Refusal(
            f"the batch of {show_shape(source)} has no place in the fixed shape {show_shape(target)}",
            "export the model with a dynamic batch dimension",
        )
    best = min(fitting, key=lambda j: (target[j] != 1, j != at, j))
    return tuple(d * BATCH if j == best else d for j, d in enumerate(target))


def _solve(source: Shape, literal: Shape, zero_copies: bool) -> Shape:
    if zero_copies and any(d == 0 and i >= len(source) for i, d in enumerate(literal)):
        raise Refusal(f"the shape {literal} copies a dimension that {show_shape(source)} does not have")
    target = [source[i] if d == 0 and zero_copies else d for i, d in enumerate(literal)]
    rest = prod(d for d in target if d != -1)
    if target.count(-1) == 1 and rest and prod(source) % rest == 0:
        target[target.index(-1)] = prod(source) // rest
    if prod(target) != prod(source) or min(target, default=0) < 0:
        raise Refusal(f"{show_shape(source)} cannot take the shape {literal}")
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
