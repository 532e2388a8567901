"""Activations. Relu and Clip from 0 are what a spiking neuron can be; the others are said to be analog.

Source: ONNX operator specification; Relu-6/13/14, Clip-6/11/12/13, LeakyRelu-6/16, PRelu-7/9/16,
Elu-6, Selu-6, Celu-12, HardSigmoid-6, HardSwish-14, Mish-18, Gelu-20, Swish-24.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.errors import Refusal
from converter.graph import Node, Op
from converter.ops._basic import Affine, Clip
from converter.ops._batch import parameter
from converter.view import NodeView, lowerings


@dataclass(frozen=True, eq=False)
class Relu(Op):
    """max(x, 0)."""

    homogeneous: ClassVar[bool] = True
    monotone: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.relu(inputs[0])

    def code(self, name: str, *inputs: str) -> str:
        return f"F.relu({inputs[0]})"


@dataclass(frozen=True, eq=False)
class LeakyRelu(Op):
    """x where x ≥ 0, else alpha · x, with 0 ≤ alpha ≤ 1 or more; a negative alpha is a PRelu."""

    alpha: float
    homogeneous: ClassVar[bool] = True
    monotone: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.leaky_relu(inputs[0], self.alpha)

    def code(self, name: str, *inputs: str) -> str:
        return f"F.leaky_relu({inputs[0]}, {self.alpha!r})"


@dataclass(frozen=True, eq=False)
class PRelu(Op):
    """x where x ≥ 0, else slope · x; `slope` broadcasts against x."""

    slope: Tensor
    homogeneous: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        return torch.where(inputs[0] >= 0, inputs[0], inputs[0] * self.slope)

    def code(self, name: str, *inputs: str) -> str:
        return f"torch.where({inputs[0]} >= 0, {inputs[0]}, {inputs[0]} * {name}.slope)"


@dataclass(frozen=True, eq=False)
class Smooth(Op):
    """A curved activation of torch.nn.functional.

    `function` is its ONNX name, and the kind of the node; `argument` its one parameter, if it has one.
    """

    function: str
    argument: float | str | None = None

    @property
    def kind(self) -> str:
        return self.function

    def __call__(self, *inputs: Tensor) -> Tensor:
        name, keyword = SMOOTH[self.function]
        given = {keyword: self.argument} if keyword else {}
        result: Tensor = getattr(F, name)(inputs[0], **given)
        return result

    def code(self, name: str, *inputs: str) -> str:
        function, keyword = SMOOTH[self.function]
        given = f", {keyword}={self.argument!r}" if keyword else ""
        return f"F.{function}({inputs[0]}{given})"


SMOOTH = {
    "Celu": ("celu", "alpha"),
    "Elu": ("elu", "alpha"),
    "Gelu": ("gelu", "approximate"),
    "HardSwish": ("hardswish", ""),
    "LogSigmoid": ("logsigmoid", ""),
    "Mish": ("mish", ""),
    "Softplus": ("softplus", ""),
    "Softsign": ("softsign", ""),
}


@dataclass(frozen=True, eq=False)
class ThresholdedRelu(Op):
    """x where x > alpha, else 0."""

    alpha: float

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.threshold(inputs[0], self.alpha, 0.0)

    def code(self, name: str, *inputs: str) -> str:
        return f"F.threshold({inputs[0]}, {self.alpha!r}, 0.0)"


@dataclass(frozen=True, eq=False)
class Swish(Op):
    """x · sigmoid(alpha · x)."""

    alpha: float = 1.0

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * torch.sigmoid(self.alpha * inputs[0])

    def code(self, name: str, *inputs: str) -> str:
        return f"{inputs[0]} * torch.sigmoid({self.alpha!r} * {inputs[0]})"


@lowerings.register("Relu", 6)
def relu(view: NodeView) -> Node:
    """max(x, 0)."""
    return view.build(Relu(), view.data(0))


@lowerings.register("Clip", 6)
def clip(view: NodeView) -> Node:
    """Bounds as attributes before opset 11, as inputs since; absent, infinite or float32's largest: none."""
    low, high = view.attribute("min", -math.inf), view.attribute("max", math.inf)
    if view.opset >= 11:
        bounds = [view.optional(i, what) for i, what in ((1, "lower bound"), (2, "upper bound"))]
        low, high = (
            default if bound is None else float(bound.reshape(()))
            for bound, default in zip(bounds, (low, high), strict=True)
        )
    if math.isnan(low) or math.isnan(high):
        raise Refusal("one of its bounds is NaN")
    largest = torch.finfo(torch.float32).max
    if low <= -largest and high >= largest:
        return view.data(0)
    op = Clip(low if low > -largest else None, high if high < largest else None)
    return view.build(Relu() if low == 0 and op.high is None else op, view.data(0))


@lowerings.register("LeakyRelu", 6)
def leaky_relu(view: NodeView) -> Node:
    """x or alpha · x."""
    return _leaky(view, view.attribute("alpha", 0.01))


def _leaky(view: NodeView, alpha: float) -> Node:
    return view.build(LeakyRelu(alpha) if alpha >= 0 else PRelu(torch.tensor(alpha)), view.data(0))


@lowerings.register("PRelu", 7)
def prelu(view: NodeView) -> Node:
    """One slope for all is a LeakyRelu."""
    slope = parameter(view, 1, "slope")
    return _leaky(view, float(slope)) if slope.numel() == 1 else view.build(PRelu(slope), view.data(0))


@lowerings.register("HardSigmoid", 6)
def hard_sigmoid(view: NodeView) -> Node:
    """clip(alpha · x + beta, 0, 1), which spikes."""
    alpha, beta = view.attribute("alpha", 0.2), view.attribute("beta", 0.5)
    line = view.build(Affine(torch.tensor(alpha), torch.tensor(beta)), view.data(0), part="line")
    return view.build(Clip(0.0, 1.0), line)


@lowerings.register("Elu", 6)
@lowerings.register("Celu", 12)
def elu(view: NodeView) -> Node:
    """Exponential below 0."""
    return view.build(Smooth(view.kind, view.attribute("alpha", 1.0)), view.data(0))


@lowerings.register("Selu", 6)
def selu(view: NodeView) -> Node:
    """gamma · elu(x)."""
    alpha = view.attribute("alpha", 1.67326319217681884765625)
    gamma = view.attribute("gamma", 1.05070102214813232421875)
    return view.build(Affine(torch.tensor(gamma)), view.build(Smooth("Elu", alpha), view.data(0), part="elu"))


@lowerings.register("Gelu", 20)
def gelu(view: NodeView) -> Node:
    """x · Φ(x), exact or by tanh."""
    return view.build(Smooth("Gelu", view.attribute("approximate", "none")), view.data(0))


@lowerings.register("HardSwish", 14)
@lowerings.register("Mish", 18)
@lowerings.register("Softplus", 1)
@lowerings.register("Softsign", 1)
def smooth(view: NodeView) -> Node:
    """The function of the node's name."""
    return view.build(Smooth(view.kind), view.data(0))


@lowerings.register("ThresholdedRelu", 10)
def thresholded_relu(view: NodeView) -> Node:
    """x above alpha."""
    return view.build(ThresholdedRelu(view.attribute("alpha", 1.0)), view.data(0))


@lowerings.register("Swish", 24)
def swish(view: NodeView) -> Node:
    """x · sigmoid(alpha · x)."""
    return view.build(Swish(view.attribute("alpha", 1.0)), view.data(0))
