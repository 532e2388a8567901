"""Reductions over axes of each sample; never over the batch.

Source: ONNX operator specification, ReduceMean-1/11/13/18, ReduceSum-1/11/13, GlobalAveragePool-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.errors import Refusal
from converter.graph import Node, Op
from converter.ops._batch import axis_of, without_batch_axes
from converter.view import NodeView, lowerings


@dataclass(frozen=True, eq=False)
class Reduce(Op):
    """One number for the values along `dims`, by torch's `how`; `keep` leaves those axes at size 1."""

    dims: tuple[int, ...]
    keep: bool = True
    how: ClassVar[str]

    def __call__(self, *inputs: Tensor) -> Tensor:
        result: Tensor = getattr(torch, self.how)(inputs[0], dim=self.dims, keepdim=self.keep)
        return result

    def code(self, name: str, *inputs: str) -> str:
        return f"torch.{self.how}({inputs[0]}, dim={self.dims}, keepdim={self.keep})"


@dataclass(frozen=True, eq=False)
class ReduceMean(Reduce):
    """The mean."""

    how: ClassVar[str] = "mean"
    linear: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class ReduceSum(Reduce):
    """The sum."""

    how: ClassVar[str] = "sum"
    linear: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class ReduceMax(Reduce):
    """The largest."""

    how: ClassVar[str] = "amax"
    homogeneous: ClassVar[bool] = True
    monotone: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class ReduceMin(Reduce):
    """The smallest."""

    how: ClassVar[str] = "amin"
    homogeneous: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class ReduceLogSumExp(Reduce):
    """The logarithm of the sum of exp(x)."""

    how: ClassVar[str] = "logsumexp"


@dataclass(frozen=True, eq=False)
class ReduceNorm(Reduce):
    """(Σ |x|^order)^(1/order)."""

    order: float = 2.0
    how: ClassVar[str] = "linalg.vector_norm"
    homogeneous: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(inputs[0], self.order, dim=self.dims, keepdim=self.keep)
        return norm

    def code(self, name: str, *inputs: str) -> str:
        return f"torch.linalg.vector_norm({inputs[0]}, {self.order!r}, dim={self.dims}, keepdim={self.keep})"


KINDS: dict[str, type[Reduce]] = {
    "ReduceMean": ReduceMean,
    "ReduceSum": ReduceSum,
    "ReduceMax": ReduceMax,
    "ReduceMin": ReduceMin,
    "ReduceLogSumExp": ReduceLogSumExp,
}


def axes(view: NodeView, x: Node) -> tuple[int, ...] | None:
    """The reduced axes, from the attribute (before opset 18; ReduceSum 13) or input 1; None for none."""
    rank = len(x.shape)
    told = view.integers(1, "axes") if view.has(1) else tuple(view.attribute("axes", []))
    if not told and view.attribute("noop_with_empty_axes", 0):
        return None
    chosen = tuple(sorted({axis_of(a, rank) for a in told})) if told else tuple(range(rank))
    without_batch_axes(x, chosen, "reduces over")
    return chosen


@lowerings.register("ReduceMean", 1)
@lowerings.register("ReduceSum", 1)
@lowerings.register("ReduceMax", 1)
@lowerings.register("ReduceMin", 1)
@lowerings.register("ReduceLogSumExp", 1)
def reduce(view: NodeView) -> Node:
    """By the function of the node's name."""
    x = view.data(0)
    dims, keep = axes(view, x), bool(view.attribute("keepdims", 1))
    return x if not dims else view.build(KINDS[view.kind](dims, keep), x)


@lowerings.register("ReduceL1", 1)
@lowerings.register("ReduceL2", 1)
def reduce_norm(view: NodeView) -> Node:
    """The sum of magnitudes, or the root of the sum of squares."""
    x = view.data(0)
    dims, keep = axes(view, x), bool(view.attribute("keepdims", 1))
    if not dims:
        raise Refusal("is a norm along no axis")
    return view.build(ReduceNorm(dims, keep, 1.0 if view.kind == "ReduceL1" else 2.0), x)


@lowerings.register("GlobalAveragePool", 1)
def global_average_pool(view: NodeView) -> Node:
    """The mean over every spatial dimension."""
    return _spatial(view, ReduceMean)


@lowerings.register("GlobalMaxPool", 1)
def global_max_pool(view: NodeView) -> Node:
    """The largest over every spatial dimension."""
    return _spatial(view, ReduceMax)


def _spatial(view: NodeView, kind: type[Reduce]) -> Node:
    x = view.data(0)
    dims = tuple(range(2, len(x.shape)))
    without_batch_axes(x, dims, "reduces over")
    return view.build(kind(dims), x) if dims else x
