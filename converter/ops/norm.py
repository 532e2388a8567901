"""Normalisations. BatchNorm has fixed statistics and is linear; the others take theirs from each sample.

Source: ONNX operator specification, BatchNormalization-7/9/14/15, LayerNormalization-17,
InstanceNormalization-6, GroupNormalization-18/21, RMSNormalization-23, LRN-1, LpNormalization-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from converter.errors import Refusal
from converter.graph import Node, Op
from converter.ops._batch import axis_of, parameter, without_batch_axes
from converter.view import NodeView, lowerings


@dataclass(frozen=True, eq=False)
class BatchNorm(Op):
    """y = scale · (x − mean) / √(var + epsilon) + bias, each [channels], channels in dimension 1."""

    scale: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    epsilon: float
    linear: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.batch_norm(inputs[0], self.mean, self.var, self.scale, self.bias, eps=self.epsilon)

    def code(self, name: str, *inputs: str) -> str:
        fields = f"{name}.mean, {name}.var, {name}.scale, {name}.bias"
        return f"F.batch_norm({inputs[0]}, {fields}, eps={self.epsilon!r})"


@dataclass(frozen=True, eq=False)
class LayerNorm(Op):
    """weight · (x − mean) / √(variance + epsilon) + bias over the last dimensions, those of `weight`."""

    weight: Tensor
    bias: Tensor | None
    epsilon: float

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.layer_norm(inputs[0], self.weight.shape, self.weight, self.bias, self.epsilon)

    def module(self) -> str:
        return f"nn.LayerNorm({tuple(self.weight.shape)}, eps={self.epsilon!r}, bias={self.bias is not None})"

    def code(self, name: str, *inputs: str) -> str:
        return f"{name}({inputs[0]})"


@dataclass(frozen=True, eq=False)
class GroupNorm(Op):
    """weight · (x − mean) / √(variance + epsilon) + bias over each of `groups` blocks of channels."""

    weight: Tensor
    bias: Tensor
    groups: int
    epsilon: float

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.group_norm(inputs[0], self.groups, self.weight, self.bias, self.epsilon)

    def module(self) -> str:
        return f"nn.GroupNorm({self.groups}, {len(self.weight)}, eps={self.epsilon!r})"

    def code(self, name: str, *inputs: str) -> str:
        return f"{name}({inputs[0]})"


@dataclass(frozen=True, eq=False)
class RmsNorm(Op):
    """weight · x / √(mean of x² + epsilon) over the last dimensions, those of `weight`."""

    weight: Tensor
    epsilon: float

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.rms_norm(inputs[0], self.weight.shape, self.weight, self.epsilon)

    def module(self) -> str:
        return f"nn.RMSNorm({tuple(self.weight.shape)}, eps={self.epsilon!r})"

    def code(self, name: str, *inputs: str) -> str:
        return f"{name}({inputs[0]})"


@dataclass(frozen=True, eq=False)
class Lrn(Op):
    """x / (bias + alpha · mean of x² over `size` neighbouring channels)^beta; beyond the ends x is 0."""

    size: int
    alpha: float
    beta: float
    bias: float

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.local_response_norm(inputs[0], self.size, self.alpha, self.beta, self.bias)

    def code(self, name: str, *inputs: str) -> str:
        settings = f"{self.size}, {self.alpha!r}, {self.beta!r}, {self.bias!r}"
        return f"F.local_response_norm({inputs[0]}, {settings})"


@dataclass(frozen=True, eq=False)
class LpNorm(Op):
    """x over its norm of order `p` along `dim`; 0 where that is 0."""

    p: float
    dim: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.normalize(inputs[0], self.p, self.dim)

    def code(self, name: str, *inputs: str) -> str:
        return f"F.normalize({inputs[0]}, {self.p!r}, {self.dim})"


@lowerings.register("BatchNormalization", 7)
def batch_normalization(view: NodeView) -> Node:
    """With the statistics of training; the training form is refused."""
    x = view.data(0)
    view.attribute("momentum", 0.9)  # only training looks at it
    if view.attribute("training_mode", 0):
        raise Refusal("is in training mode (statistics of the batch)", "export the model in eval mode")
    what = ("scale", "bias", "mean", "variance")
    scale, bias, mean, var = (parameter(view, i + 1, w) for i, w in enumerate(what))
    if len(x.shape) < 2 or any(t.shape != x.shape[1:2] for t in (scale, bias, mean, var)):
        raise Refusal("its scale, bias, mean and variance are not one number a channel")
    if bool((var < 0).any()):
        raise Refusal("has a negative variance")
    return view.build(BatchNorm(scale, bias, mean, var, view.attribute("epsilon", 1e-5)), x)


@lowerings.register("LayerNormalization", 17)
def layer_normalization(view: NodeView) -> Node:
    """Over the dimensions from `axis` on."""
    x = view.data(0)
    shape = _last(view, x)
    weight = parameter(view, 1, "scale").expand(shape).contiguous()
    bias = parameter(view, 2, "bias").expand(shape).contiguous() if view.has(2) else None
    return view.build(LayerNorm(weight, bias, view.attribute("epsilon", 1e-5)), x)


@lowerings.register("RMSNormalization", 23)
def rms_normalization(view: NodeView) -> Node:
    """Over the dimensions from `axis` on."""
    x = view.data(0)
    weight = parameter(view, 1, "scale").expand(_last(view, x)).contiguous()
    return view.build(RmsNorm(weight, view.attribute("epsilon", 1e-5)), x)


def _last(view: NodeView, x: Node) -> tuple[int, ...]:
    axis = axis_of(view.attribute("axis", -1), len(x.shape))
    view.attribute("stash_type", 1)  # the precision of the statistics; ours is float32
    without_batch_axes(x, tuple(range(axis, len(x.shape))), "normalises over")
    return x.shape[axis:]


@lowerings.register("InstanceNormalization", 6)
def instance_normalization(view: NodeView) -> Node:
    """A GroupNorm of one channel a group."""
    x = view.data(0)
    weight, bias = parameter(view, 1, "scale"), parameter(view, 2, "bias")
    without_batch_axes(x, tuple(range(1, len(x.shape))), "normalises over")
    return view.build(GroupNorm(weight, bias, x.shape[1], view.attribute("epsilon", 1e-5)), x)


@lowerings.register("GroupNormalization", 18)
def group_normalization(view: NodeView) -> Node:
    """Scale and bias are one number a group before opset 21, one a channel since."""
    x = view.data(0)
    groups = view.required("num_groups")
    view.attribute("stash_type", 1)
    without_batch_axes(x, tuple(range(1, len(x.shape))), "normalises over")
    weight, bias = parameter(view, 1, "scale"), parameter(view, 2, "bias")
    if view.opset < 21:
        each = x.shape[1] // groups
        weight, bias = weight.repeat_interleave(each), bias.repeat_interleave(each)
    return view.build(GroupNorm(weight, bias, groups, view.attribute("epsilon", 1e-5)), x)


@lowerings.register("LRN", 1)
def lrn(view: NodeView) -> Node:
    """An even size would be off centre and is refused."""
    x = view.data(0)
    size = view.required("size")
    if size % 2 == 0:
        raise Refusal(f"has an even size, {size}")
    without_batch_axes(x, (1,), "normalises over")
    alpha, beta = view.attribute("alpha", 1e-4), view.attribute("beta", 0.75)
    return view.build(Lrn(size, alpha, beta, view.attribute("bias", 1.0)), x)


@lowerings.register("LpNormalization", 1)
def lp_normalization(view: NodeView) -> Node:
    """Order 1 or 2 along one axis."""
    x = view.data(0)
    dim = axis_of(view.attribute("axis", -1), len(x.shape))
    without_batch_axes(x, (dim,), "normalises over")
    return view.build(LpNorm(float(view.attribute("p", 2)), dim), x)
