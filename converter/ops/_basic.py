"""The few operators that many ONNX operators come down to: the canonical forms of the graph.

They stand in one private module because the families beside it lower to them and do not import each other.
All but `Clip` are linear, so they act on every time step alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.errors import Refusal
from converter.graph import BATCH, Node, Op, Shape, batch_axes, show_shape
from converter.view import NodeView, without_batch


@dataclass(frozen=True, eq=False)
class Affine(Op):
    """y = x · scale + shift, both broadcast against x; either may be absent."""

    scale: Tensor | None = None
    shift: Tensor | None = None
    linear: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        value = inputs[0] if self.scale is None else inputs[0] * self.scale
        return value if self.shift is None else value + self.shift

    def code(self, name: str, *inputs: str) -> str:
        scaled = inputs[0] if self.scale is None else f"{inputs[0]} * {name}.scale"
        return scaled if self.shift is None else f"{scaled} + {name}.shift"


@dataclass(frozen=True, eq=False)
class Add(Op):
    """The sum of all inputs, from left to right, broadcast against each other."""

    linear: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        total = inputs[0]
        for value in inputs[1:]:
            total = total + value
        return total

    def code(self, name: str, *inputs: str) -> str:
        return " + ".join(inputs)


@dataclass(frozen=True, eq=False)
class Clip(Op):
    """min(max(x, low), high); a bound that is None is infinite."""

    low: float | None = None
    high: float | None = None
    monotone: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        return torch.clamp(inputs[0], min=self.low, max=self.high)

    def code(self, name: str, *inputs: str) -> str:
        return f"torch.clamp({inputs[0]}, min={self.low}, max={self.high})"


@dataclass(frozen=True, eq=False)
class Linear(Op):
    """y[…, o] = bias[o] + sum over i of weight[o, i] · x[…, i], on the last dimension."""

    weight: Tensor
    bias: Tensor | None = None
    linear: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weight, self.bias)

    def module(self) -> str:
        out, in_ = self.weight.shape
        return f"nn.Linear({in_}, {out}, bias={self.bias is not None})"

    def code(self, name: str, *inputs: str) -> str:
        return f"{name}({inputs[0]})"


@dataclass(frozen=True, eq=False)
class AlongAxis(Op):
    """y[…, o, …] = sum over i of matrix[o, i] · x[…, i, …] along `dim`: interpolation, uneven averaging."""

    matrix: Tensor
    dim: int
    linear: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0].movedim(self.dim, -1), self.matrix).movedim(-1, self.dim)

    def code(self, name: str, *inputs: str) -> str:
        return f"F.linear({inputs[0]}.movedim({self.dim}, -1), {name}.matrix).movedim(-1, {self.dim})"


@dataclass(frozen=True, eq=False)
class _Movement(Op):
    """Values are only moved, repeated or left out, so every trait holds."""

    linear: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = True
    monotone: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class Reshape(_Movement):
    """The same values in another shape; at most one entry is −1, standing where the batch is."""

    shape: Shape

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0].reshape(self.shape)

    def code(self, name: str, *inputs: str) -> str:
        return f"{inputs[0]}.reshape({self.shape})"


@dataclass(frozen=True, eq=False)
class Transpose(_Movement):
    """Output dimension i is input dimension order[i]."""

    order: tuple[int, ...]

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0].permute(self.order)

    def code(self, name: str, *inputs: str) -> str:
        return f"{inputs[0]}.permute({self.order})"


@dataclass(frozen=True, eq=False)
class Slice(_Movement):
    """x[start:stop:step] along `dim`, with 0 ≤ start ≤ stop ≤ size and step ≥ 1."""

    dim: int
    start: int
    stop: int
    step: int = 1

    def __call__(self, *inputs: Tensor) -> Tensor:
        index = [slice(None)] * self.dim + [slice(self.start, self.stop, self.step)]
        return inputs[0][tuple(index)]

    def code(self, name: str, *inputs: str) -> str:
        step = f":{self.step}" if self.step != 1 else ""
        return f"{inputs[0]}[{':, ' * self.dim}{self.start}:{self.stop}{step}]"


@dataclass(frozen=True, eq=False)
class Gather(_Movement):
    """y[…, j, …] = x[…, index[j], …] along `dim`; `index` int64 [j], not negative."""

    index: Tensor
    dim: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0].index_select(self.dim, self.index)

    def code(self, name: str, *inputs: str) -> str:
        return f"{inputs[0]}.index_select({self.dim}, {name}.index)"


@dataclass(frozen=True, eq=False)
class Pad(_Movement):
    """Zeros, the mirror image, or the edge around x; `amounts` as F.pad takes them, last dimension first.

    A negative amount cuts off. `mode` is constant (zeros), reflect, replicate or circular.
    """

    amounts: tuple[int, ...]
    mode: str = "constant"

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.pad(inputs[0], self.amounts, self.mode)

    def code(self, name: str, *inputs: str) -> str:
        mode = f", {self.mode!r}" if self.mode != "constant" else ""
        return f"F.pad({inputs[0]}, {self.amounts}{mode})"


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
        raise Refusal(f"{doing} the batch dimension of {show_shape(x.shape)}, so samples of a batch would mix")


def reshaped(view: NodeView, x: Node, target: Shape, part: str = "") -> Node:
    """x in the shape `target`, whose batch (if any) is explicit as a multiple of `BATCH`; x itself if it is so."""
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
