"""Normalisations in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from converter import ops
from converter.exporters._onnx import Writer
from converter.exporters._onnx_forms import form, needs, of, reduced
from converter.graph import BATCH, Node


@form(ops.BatchNorm)
def batch_norm(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """With the statistics of training."""
    op = of(node, ops.BatchNorm)
    fields = {"scale": op.scale, "bias": op.bias, "mean": op.mean, "var": op.var}
    given = [w.weight(value, f"{w.scope}.{name}") for name, value in fields.items()]
    return w.add("BatchNormalization", *inputs, *given, epsilon=op.epsilon)


@form(ops.LayerNorm)
def layer_norm(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Over the last dimensions."""
    needs(w, "LayerNormalization", 17)
    op = of(node, ops.LayerNorm)
    bias = [] if op.bias is None else [w.weight(op.bias, f"{w.scope}.bias")]
    given = [w.weight(op.weight, f"{w.scope}.weight"), *bias]
    return w.add("LayerNormalization", *inputs, *given, axis=-op.weight.dim(), epsilon=op.epsilon)


@form(ops.GroupNorm)
def group_norm(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Before opset 21, where its scale is that of a group, the normalisation of instances of blocks."""
    op, (x,) = of(node, ops.GroupNorm), inputs
    given = [w.weight(op.weight, f"{w.scope}.weight"), w.weight(op.bias, f"{w.scope}.bias")]
    if op.groups == len(op.weight):
        return w.add("InstanceNormalization", x, *given, epsilon=op.epsilon)
    if w.opset >= 21:
        return w.add("GroupNormalization", x, *given, num_groups=op.groups, epsilon=op.epsilon)
    one, zero = (w.weight(np.full(op.groups, n, dtype=np.float32)) for n in (1, 0))
    size = prod(node.shape[1:]) // op.groups
    blocks = w.add("Reshape", x, w.integers(_front(node), op.groups, size))
    normal = w.add("InstanceNormalization", blocks, one, zero, epsilon=op.epsilon)
    back = w.add("Reshape", normal, w.integers(_front(node), *node.shape[1:]))
    each = (-1, *[1] * (len(node.shape) - 2))
    scaled = w.add("Mul", back, w.weight(op.weight.reshape(each)))
    return w.add("Add", scaled, w.weight(op.bias.reshape(each)))


def _front(node: Node) -> int:
    return -1 if node.shape[0] == BATCH else node.shape[0]


@form(ops.RmsNorm)
def rms_norm(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Before opset 23, where it became an operator, by its equation."""
    op, (x,) = of(node, ops.RmsNorm), inputs
    weight = w.weight(op.weight, f"{w.scope}.weight")
    if w.opset >= 23:
        return w.add("RMSNormalization", x, weight, axis=-op.weight.dim(), epsilon=op.epsilon)
    dims = tuple(range(len(node.shape) - op.weight.dim(), len(node.shape)))
    mean = reduced(w, "ReduceMean", w.add("Mul", x, x), dims, keep=True)
    root = w.add("Sqrt", w.add("Add", mean, w.number(op.epsilon)))
    return w.add("Mul", w.add("Div", x, root), weight)


@form(ops.LpNorm)
def lp_norm(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Of order 1 or 2."""
    op = of(node, ops.LpNorm)
    return w.add("LpNormalization", *inputs, p=int(op.p), axis=op.dim)
