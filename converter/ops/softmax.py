"""Softmax and its logarithm: shares that sum to one along an axis.

Source: ONNX operator specification, Softmax-1/11/13; before 13 over all dimensions from `axis` on.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from converter.graph import Node, Op
from converter.ops._batch import axis_of, reshaped, without_batch_axes
from converter.view import NodeView, lowerings


@dataclass(frozen=True, eq=False)
class Softmax(Op):
    """exp(x) over its sum along `dim`."""

    dim: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        return torch.softmax(inputs[0], self.dim)

    def code(self, name: str, *inputs: str) -> str:
        return f"torch.softmax({inputs[0]}, {self.dim})"


@dataclass(frozen=True, eq=False)
class LogSoftmax(Op):
    """x − log of the sum of exp(x) along `dim`."""

    dim: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        return torch.log_softmax(inputs[0], self.dim)

    def code(self, name: str, *inputs: str) -> str:
        return f"torch.log_softmax({inputs[0]}, {self.dim})"


@lowerings.register("Softmax", 1)
def softmax(view: NodeView) -> Node:
    """Along one axis since opset 13; before, over all dimensions from `axis` on."""
    x = view.data(0)
    kind = Softmax if view.kind == "Softmax" else LogSoftmax
    axis = axis_of(view.attribute("axis", -1 if view.opset >= 13 else 1), len(x.shape))
    inner = x.shape[axis + 1 :]
    if view.opset >= 13 or prod(inner) == 1:
        without_batch_axes(x, (axis,), "normalises over")
        return view.build(kind(axis), x)
    without_batch_axes(x, tuple(range(axis, len(x.shape))), "normalises over")
    flat = reshaped(view, x, (*x.shape[:axis], prod(x.shape[axis:])), "flat")
    return reshaped(view, view.build(kind(axis), flat, part="normal"), x.shape)


lowerings.register("LogSoftmax", 1)(softmax)
