"""Sums, products, extrema and functions of one number, element by element, inputs broadcast.

With a constant they are an `Affine` (linear); between values of the network only the sum is linear.
Source: ONNX operator specification, Add/Sub/Mul/Div-7/13/14, Sum/Max/Min/Mean-6/8/13, Pow-7/12/13/15.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.errors import Refusal
from converter.graph import Node, Op
from converter.ops._basic import Add, Affine, Clip
from converter.ops._batch import parameter
from converter.view import NodeView, lowerings

NEGATIVE = torch.tensor(-1.0)


@dataclass(frozen=True, eq=False)
class Mul(Op):
    """The product of two values of the network."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * inputs[1]

    def code(self, name: str, *inputs: str) -> str:
        return f"{inputs[0]} * {inputs[1]}"


@dataclass(frozen=True, eq=False)
class Div(Op):
    """The quotient of two values of the network."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0] / inputs[1]

    def code(self, name: str, *inputs: str) -> str:
        return f"{inputs[0]} / {inputs[1]}"


@dataclass(frozen=True, eq=False)
class Pow(Op):
    """The first input to the power of the second."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        return torch.pow(inputs[0], inputs[1])

    def code(self, name: str, *inputs: str) -> str:
        return f"torch.pow({inputs[0]}, {inputs[1]})"


@dataclass(frozen=True, eq=False)
class Max(Op):
    """The largest of all inputs."""

    homogeneous: ClassVar[bool] = True
    monotone: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        largest = inputs[0]
        for value in inputs[1:]:
            largest = torch.maximum(largest, value)
        return largest

    def code(self, name: str, *inputs: str) -> str:
        return _nested("torch.maximum", inputs)


@dataclass(frozen=True, eq=False)
class Min(Op):
    """The smallest of all inputs."""

    homogeneous: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        smallest = inputs[0]
        for value in inputs[1:]:
            smallest = torch.minimum(smallest, value)
        return smallest

    def code(self, name: str, *inputs: str) -> str:
        return _nested("torch.minimum", inputs)


def _nested(function: str, inputs: tuple[str, ...]) -> str:
    text = inputs[0]
    for value in inputs[1:]:
        text = f"{function}({text}, {value})"
    return text


@lowerings.register("Add", 7)
@lowerings.register("Sum", 6)
def add(view: NodeView) -> Node:
    """The values of the network are added, then the sum of the constants as a shift."""
    nodes = [view.data(i) for i in range(len(view.values)) if not view.known(i)]
    constants = [parameter(view, i, "addend") for i in range(len(view.values)) if view.known(i)]
    total = nodes[0] if len(nodes) == 1 else view.build(Add(), *nodes, part="sum" if constants else "")
    return view.build(Affine(None, sum(constants, torch.zeros(()))), total) if constants else total


@lowerings.register("Sub", 7)
def subtract(view: NodeView) -> Node:
    """a − b = a + (−1) · b."""
    if view.known(1):
        return view.build(Affine(None, -parameter(view, 1, "subtrahend")), view.data(0))
    if view.known(0):
        return view.build(Affine(NEGATIVE, parameter(view, 0, "minuend")), view.data(1))
    return view.build(Add(), view.data(0), view.build(Affine(NEGATIVE), view.data(1), part="negative"))


@lowerings.register("Neg", 6)
def negate(view: NodeView) -> Node:
    """The value times −1."""
    return view.build(Affine(NEGATIVE), view.data(0))


@lowerings.register("Mul", 7)
def multiply(view: NodeView) -> Node:
    """By a constant a scale."""
    for constant, value in ((1, 0), (0, 1)):
        if view.known(constant):
            return view.build(Affine(parameter(view, constant, "factor")), view.data(value))
    return view.build(Mul(), view.data(0), view.data(1))


@lowerings.register("Div", 7)
def divide(view: NodeView) -> Node:
    """By a constant a scale. Raises `Refusal` where the constant is zero."""
    if not view.known(1):
        return view.build(Div(), view.data(0), view.data(1))
    divisor = parameter(view, 1, "divisor")
    if not bool(divisor.all()):
        raise Refusal("divides by a constant that is zero in places")
    return view.build(Affine(1 / divisor), view.data(0))


@lowerings.register("Mean", 6)
def mean(view: NodeView) -> Node:
    """The sum over the number of inputs."""
    count = len(view.values)
    return view.build(Affine(torch.tensor(1 / count)), view.build(Add(), *_all(view), part="sum"))


@lowerings.register("Max", 6)
def maximum(view: NodeView) -> Node:
    """With one number a Clip from below (so Max(x, 0) is found to be a Relu)."""
    return _extremum(view, Max(), lambda bound: Clip(bound, None), max)


@lowerings.register("Min", 6)
def minimum(view: NodeView) -> Node:
    """With one number a Clip from above."""
    return _extremum(view, Min(), lambda bound: Clip(None, bound), min)


def _extremum(
    view: NodeView, op: Op, clip: Callable[[float], Op], choose: Callable[[list[float]], float]
) -> Node:
    nodes = [view.data(i) for i in range(len(view.values)) if not view.known(i)]
    known = [parameter(view, i, "bound") for i in range(len(view.values)) if view.known(i)]
    if len(nodes) == 1 and all(k.numel() == 1 and k.dim() <= len(nodes[0].shape) for k in known):
        bounds = [float(k) for k in known]
        return view.build(clip(choose(bounds)), nodes[0]) if bounds else nodes[0]
    return view.build(op, *_all(view))


def _all(view: NodeView) -> list[Node]:
    return [view.data(i) for i in range(len(view.values))]


@lowerings.register("Pow", 7)
def power(view: NodeView) -> Node:
    """Of two values; a constant exponent stays a constant of the graph, and a square is a product."""
    if view.known(1):
        exponent = parameter(view, 1, "exponent")
        if exponent.numel() == 1 and float(exponent) == 2 and exponent.dim() <= len(view.data(0).shape):
            return view.build(Mul(), view.data(0), view.data(0))
    return view.build(Pow(), view.data(0), view.data(1))


@dataclass(frozen=True, eq=False)
class Pointwise(Op):
    """A function of one number, applied to each: `function` is its ONNX name, and the kind of the node."""

    function: str

    @property
    def kind(self) -> str:
        return self.function

    def __call__(self, *inputs: Tensor) -> Tensor:
        return FUNCTIONS[self.function](inputs[0])

    def code(self, name: str, *inputs: str) -> str:
        return f"torch.{FUNCTIONS[self.function].__name__}({inputs[0]})"


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Log": torch.log,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}


def pointwise(view: NodeView) -> Node:
    """The function of the node's name."""
    return view.build(Pointwise(view.kind), view.data(0))


for _name in FUNCTIONS:
    lowerings.register(_name, 6)(pointwise)
