"""Weighted sums: Conv, ConvTranspose, Linear (Gemm, MatMul by a constant), and Affine (· scale + shift).

All are linear in the sense of the graph (affine, so they act on each time step): these are the synapses.
Source: ONNX operator specification, Conv-1/11, ConvTranspose-1/11, Gemm-7/9/11, MatMul-1/9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.errors import Refusal
from converter.graph import Node, Op, show_shape
from converter.ops._basic import Add, Affine, Linear, Pad
from converter.ops._batch import parameter, reshaped, swapped, without_batch_axes
from converter.ops._window import amounts, padding, spatial, window
from converter.packed import Packed
from converter.view import NodeView, lowerings

CONV = (None, F.conv1d, F.conv2d, F.conv3d)
CONV_TRANSPOSE = (None, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@dataclass(frozen=True, eq=False)
class Conv(Op):
    """y[n, o] = bias[o] + sum over i, k of weight[o, i, k] · x[n, i, stride·p + dilation·k − padding].

    `weight` [out, in / groups, k…], `bias` [out] or None; 1-d, 2-d or 3-d after the weight's rank.
    """

    weight: Tensor
    bias: Tensor | None = None
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    packed: Packed | None = None
    linear: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        convolve = CONV[self.weight.dim() - 2]
        assert convolve is not None
        return convolve(
            inputs[0], self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def module(self) -> str:
        out, per_group, *kernel = self.weight.shape
        return (
            f"nn.Conv{len(kernel)}d({per_group * self.groups}, {out}, {tuple(kernel)}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None})"
        )

    def code(self, name: str, *inputs: str) -> str:
        return f"{name}({inputs[0]})"


@dataclass(frozen=True, eq=False)
class ConvTranspose(Op):
    """The transpose of Conv: x[n, i, p] adds weight[i, o, k] · x to y[n, o, stride·p + dilation·k − padding].

    `weight` [in, out / groups, k…], `bias` [out] or None; `output_padding` more outputs at the end.
    """

    weight: Tensor
    bias: Tensor | None = None
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    packed: Packed | None = None
    linear: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        convolve = CONV_TRANSPOSE[self.weight.dim() - 2]
        assert convolve is not None
        return convolve(
            inputs[0],
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )

    def module(self) -> str:
        in_, per_group, *kernel = self.weight.shape
        return (
            f"nn.ConvTranspose{len(kernel)}d({in_}, {per_group * self.groups}, {tuple(kernel)}, "
            f"stride={self.stride}, padding={self.padding}, output_padding={self.output_padding}, "
            f"groups={self.groups}, bias={self.bias is not None}, dilation={self.dilation})"
        )

    def code(self, name: str, *inputs: str) -> str:
        return f"{name}({inputs[0]})"


@dataclass(frozen=True, eq=False)
class MatMul(Op):
    """The matrix product of two values of the network; leading dimensions broadcast."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        return torch.matmul(inputs[0], inputs[1])

    def code(self, name: str, *inputs: str) -> str:
        return f"torch.matmul({inputs[0]}, {inputs[1]})"


def _weight(view: NodeView, x: Node) -> tuple[Tensor, Tensor | None]:
    weight = parameter(view, 1, "weight")
    if weight.dim() != len(x.shape) or weight.dim() > 5:
        shape = show_shape(tuple(weight.shape))
        raise Refusal(f"its weight {shape} does not fit its input {show_shape(x.shape)}")
    return weight, parameter(view, 2, "bias") if view.has(2) else None


@lowerings.register("Conv", 1)
def conv(view: NodeView) -> Node:
    """Uneven padding becomes a Pad before the convolution."""
    x = view.data(0)
    weight, bias = _weight(view, x)
    at = window(view, x, tuple(weight.shape[2:]))
    before = at.before
    if not at.symmetric:
        x, before = view.build(Pad(amounts(at.before, at.after)), x, part="pad"), (0,) * len(before)
    groups = view.attribute("group", 1)
    return view.build(Conv(weight, bias, at.stride, before, at.dilation, groups), x)


@lowerings.register("ConvTranspose", 1)
def conv_transpose(view: NodeView) -> Node:
    """Padding cuts the result; where the ends differ, output_padding or a negative Pad evens them out."""
    x = view.data(0)
    weight, bias = _weight(view, x)
    size, kernel = spatial(x), tuple(weight.shape[2:])
    rank = len(size)
    if tuple(view.attribute("kernel_shape", list(kernel))) != kernel:
        raise Refusal(f"its kernel_shape is not that of its weight, {kernel}")
    stride = tuple(view.attribute("strides", [1] * rank))
    dilation = tuple(view.attribute("dilations", [1] * rank))
    extra = tuple(view.attribute("output_padding", [0] * rank))
    groups = view.attribute("group", 1)
    whole = tuple(
        s * (n - 1) + e + (k - 1) * d + 1
        for n, s, e, k, d in zip(size, stride, extra, kernel, dilation, strict=True)
    )
    before, after = _cut(view, size, kernel, stride, dilation, whole)
    extra = tuple(e + b - a for e, b, a in zip(extra, before, after, strict=True))
    if min(before) >= 0 and all(0 <= e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        return view.build(ConvTranspose(weight, bias, stride, before, extra, dilation, groups), x)
    extra = tuple(e - b + a for e, b, a in zip(extra, before, after, strict=True))
    if min(before + after) < 0:
        raise Refusal(f"its output is larger than what its windows reach, {whole}")
    none = (0,) * rank
    uncut = view.build(ConvTranspose(weight, bias, stride, none, extra, dilation, groups), x, part="uncut")
    return view.build(Pad(amounts(tuple(-b for b in before), tuple(-a for a in after))), uncut)


def _cut(
    view: NodeView,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    whole: tuple[int, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How much of the `whole` result is cut at either end: pads, or what output_shape and auto_pad leave."""
    mode = view.attribute("auto_pad", "NOTSET")
    told: list[int] = view.attribute("output_shape", [])
    wanted = tuple(told[-len(size) :])
    if not wanted and mode in ("NOTSET", "VALID"):
        return padding(view, size, kernel, stride, dilation)
    view.attribute("pads", [])  # output_shape and SAME overrule it
    wanted = wanted or tuple(n * s for n, s in zip(size, stride, strict=True))
    total = [w - o for w, o in zip(whole, wanted, strict=True)]
    less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return (less, more) if mode == "SAME_UPPER" else (more, less)


@lowerings.register("Gemm", 7)
def gemm(view: NodeView) -> Node:
    """alpha · A' · B' + beta · C: with constant B a Linear, the factors in its weight and bias."""
    alpha, beta = view.attribute("alpha", 1.0), view.attribute("beta", 1.0)
    left, right = view.attribute("transA", 0), view.attribute("transB", 0)
    x = view.data(0)
    x = swapped(view, x, "a") if left else x
    if not view.known(1):
        y = view.data(1)
        product = view.build(MatMul(), x, swapped(view, y, "b") if right else y, part="product")
        scaled = view.build(Affine(torch.tensor(alpha)), product, part="alpha") if alpha != 1 else product
        return _add_last(view, scaled, beta)
    weight = parameter(view, 1, "weight")
    weight = alpha * (weight if right else weight.T)
    bias = parameter(view, 2, "bias") if view.known(2) else None
    if bias is not None and bias.numel() in (1, len(weight)) and bias.numel() == bias.shape[-1:].numel():
        vector = (beta * bias.reshape(-1)).expand(len(weight))
        return view.build(Linear(weight.contiguous(), vector.contiguous()), x)
    product = view.build(Linear(weight.contiguous()), x, part="product" if view.has(2) else "")
    return _add_last(view, product, beta)


def _add_last(view: NodeView, product: Node, beta: float) -> Node:
    if not view.has(2):
        return product
    if view.known(2):
        return view.build(Affine(None, beta * parameter(view, 2, "addend")), product)
    addend = view.data(2)
    addend = view.build(Affine(torch.tensor(beta)), addend, part="beta") if beta != 1 else addend
    return view.build(Add(), product, addend)


@lowerings.register("MatMul", 1)
def matmul(view: NodeView) -> Node:
    """A constant matrix on either side makes a Linear; else the product of two values."""
    if view.known(1) and (matrix := _matrix(parameter(view, 1, "matrix"), view.data(0))) is not None:
        x = view.data(0)
        if matrix.dim() == 2:
            return view.build(Linear(matrix.T.contiguous()), x)
        product = view.build(Linear(matrix.reshape(1, -1)), x, part="product")
        return reshaped(view, product, product.shape[:-1])
    if view.known(0) and len(view.data(1).shape) > 1:
        matrix = _matrix(parameter(view, 0, "matrix"), view.data(1))
        if matrix is not None and matrix.dim() == 2:
            product = view.build(Linear(matrix), swapped(view, view.data(1), "turned"), part="product")
            return swapped(view, product)
    left, right = view.data(0), view.data(1)
    without_batch_axes(left, (len(left.shape) - 1,), "sums over")
    return view.build(MatMul(), left, right)


def _matrix(constant: Tensor, x: Node) -> Tensor | None:
    """`constant` as a matrix or vector, when it is one but for leading dimensions of 1 that x has too."""
    if constant.dim() > len(x.shape):
        return None
    while constant.dim() > 2 and constant.shape[0] == 1:
        constant = constant[0]
    return constant if constant.dim() <= 2 else None
