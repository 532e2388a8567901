"""Pools: the largest, or the mean, of each window.

Padding is never seen by a maximum, and by a mean only with count_include_pad.
Source: ONNX operator specification, MaxPool-1/8/10/11/12, AveragePool-7/10/11/19.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.errors import Refusal
from converter.graph import Node, Op
from converter.ops._basic import AlongAxis
from converter.ops._window import Window, amounts, window
from converter.view import NodeView, lowerings


@dataclass(frozen=True, eq=False)
class MaxPool(Op):
    """The largest of each window; 1-d, 2-d or 3-d after the length of `kernel`.

    `pad` is padding with −∞ before the pool, as F.pad takes it, where the two ends differ.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil: bool = False
    pad: tuple[int, ...] = ()
    homogeneous: ClassVar[bool] = True
    monotone: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        x = F.pad(inputs[0], self.pad, value=float("-inf")) if self.pad else inputs[0]
        pool = cast("Callable[..., Tensor]", (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(self.kernel) - 1])
        return pool(x, self.kernel, self.stride, self.padding, self.dilation, self.ceil)

    def code(self, name: str, *inputs: str) -> str:
        x = f"F.pad({inputs[0]}, {self.pad}, value=float('-inf'))" if self.pad else inputs[0]
        return (
            f"F.max_pool{len(self.kernel)}d({x}, {self.kernel}, {self.stride}, {self.padding}, "
            f"{self.dilation}, ceil_mode={self.ceil})"
        )


@dataclass(frozen=True, eq=False)
class AvgPool(Op):
    """The mean of each window; `include_pad` counts the zeros of the padding."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil: bool = False
    include_pad: bool = True
    linear: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        pool = cast("Callable[..., Tensor]", (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(self.kernel) - 1])
        return pool(inputs[0], self.kernel, self.stride, self.padding, self.ceil, self.include_pad)

    def code(self, name: str, *inputs: str) -> str:
        return (
            f"F.avg_pool{len(self.kernel)}d({inputs[0]}, {self.kernel}, {self.stride}, {self.padding}, "
            f"ceil_mode={self.ceil}, count_include_pad={self.include_pad})"
        )


def _as_torch(at: Window, ceil_modes: tuple[bool, ...]) -> Window | None:
    """The same windows with even padding and one of `ceil_modes`, as torch wants them; None if impossible."""
    if any(b > k // 2 for b, k in zip(at.before, at.kernel, strict=True)):
        return None
    for ceil in ceil_modes:
        even = replace(at, after=at.before, ceil=ceil)
        if even.outputs == at.outputs:
            return even
    return None


@lowerings.register("MaxPool", 1)
def max_pool(view: NodeView) -> Node:
    """Even padding where torch can; else explicit padding, just as much as the windows reach."""
    x = view.data(0)
    at = window(view, x)
    if at.blind:
        raise Refusal("one of its windows lies wholly in the padding, so nothing in it is the largest")
    view.attribute("storage_order", 0)  # orders the indices, which are a second output
    even = _as_torch(at, (False, True))
    if even is not None:
        return view.build(MaxPool(at.kernel, at.stride, at.before, at.dilation, even.ceil), x)
    reach = tuple(max(n, 0) for n in at.needed)
    none = (0,) * len(at.kernel)
    return view.build(MaxPool(at.kernel, at.stride, none, at.dilation, False, amounts(at.before, reach)), x)


@lowerings.register("AveragePool", 7)
def average_pool(view: NodeView) -> Node:
    """torch's pool where it has the same windows and divisors; else a mean along each axis in turn."""
    x = view.data(0)
    at = window(view, x)
    include = bool(view.attribute("count_include_pad", 0))
    padded = any(at.before + at.after)
    modes = (at.ceil,) if include and padded else (False, True)
    even = _as_torch(at, modes) if set(at.dilation) == {1} and not (include and not at.symmetric) else None
    if even is not None:
        whole = include or not (padded or even.ceil)  # every window lies inside: torch's own default
        return view.build(AvgPool(at.kernel, at.stride, at.before, even.ceil, whole), x)
    for axis in range(len(at.kernel)):
        x = view.build(AlongAxis(averaging(at, axis, include), axis + 2), x, part=f"axis{axis + 2}")
    return x


def averaging(at: Window, axis: int, include_pad: bool) -> Tensor:
    """[outputs, inputs] of one axis: each row 1 / (number of counted taps) where the window's taps fall.

    The mean over a window is the mean along each axis in turn, since its taps are a product of axes.
    """
    size, before, after = at.size[axis], at.before[axis], at.after[axis]
    matrix = torch.zeros(at.outputs[axis], size)
    for output, row in enumerate(matrix):
        start = output * at.stride[axis] - before
        taps = [start + k * at.dilation[axis] for k in range(at.kernel[axis])]
        inside = [t for t in taps if 0 <= t < size]
        counted = [t for t in taps if -before <= t < size + after] if include_pad else inside
        row[inside] = 1 / max(len(counted), 1)
    return matrix
