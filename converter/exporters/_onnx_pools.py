"""Pools and reductions in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from converter import ops
from converter.exporters._onnx import Writer
from converter.exporters._onnx_forms import ends, form, of, reduced
from converter.graph import Node
from converter.ops.reduce import Reduce


def _reach(
    size: Sequence[int],
    op: ops.MaxPool | ops.AvgPool,
    dilation: Sequence[int],
    outputs: Sequence[int],
    before: Sequence[int],
) -> list[int]:
    """The padding at the end that the last windows reach: with it, windows are counted alike by everyone."""
    axes = zip(size, op.kernel, op.stride, dilation, outputs, before, strict=True)
    return [max((o - 1) * s + (k - 1) * d + 1 - n - b, 0) for n, k, s, d, o, b in axes]


@form(ops.MaxPool)
def max_pool(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Padding is −∞, told explicitly, also where torch rounds the number of windows up.

    onnxruntime takes no padding as wide as the kernel, holes left out: the least number stands there instead.
    """
    op, rank, (x,) = of(node, ops.MaxPool), len(node.shape) - 2, inputs
    first, _ = ends(op.pad, rank)
    before = [a + b for a, b in zip(first, op.padding, strict=True)]
    after = _reach(node.inputs[0].shape[2:], op, op.dilation, node.shape[2:], before)
    if any(max(b, a) >= k for b, a, k in zip(before, after, op.kernel, strict=True)):
        least = w.number(float(np.finfo(np.float32).min))
        x = w.add("Pad", x, w.integers(0, 0, *before, 0, 0, *after), least)
        before, after = [0] * rank, [0] * rank
    told = {"kernel_shape": op.kernel, "strides": op.stride, "dilations": op.dilation}
    return w.add("MaxPool", x, **told, pads=[*before, *after])


@form(ops.AvgPool)
def avg_pool(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Zeros that are counted are put there first; padding itself is not counted."""
    op, rank, (x,) = of(node, ops.AvgPool), len(node.shape) - 2, inputs
    size, before = list(node.inputs[0].shape[2:]), list(op.padding)
    if op.include_pad and any(before):
        x = w.add("Pad", x, w.integers(*(2 * [0, 0, *before])))
        size, before = [n + 2 * b for n, b in zip(size, before, strict=True)], [0] * rank
    after = _reach(size, op, [1] * rank, node.shape[2:], before)
    told = {"kernel_shape": op.kernel, "strides": op.stride, "pads": [*before, *after]}
    return w.add("AveragePool", x, **told, count_include_pad=0)


@form(Reduce)
def reduce(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """The operator of the same name."""
    op = of(node, Reduce)
    return reduced(w, type(op).__name__, inputs[0], op.dims, keep=op.keep)


@form(ops.ReduceNorm)
def reduce_norm(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Of order 1 or 2."""
    op = of(node, ops.ReduceNorm)
    return reduced(w, f"ReduceL{int(op.order)}", inputs[0], op.dims, keep=op.keep)
