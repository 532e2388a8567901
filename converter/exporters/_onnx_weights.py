"""Convolutions and matrices in ONNX; weights with codes as int8 and a scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from converter import ops
from converter.exporters._onnx import Writer
from converter.exporters._onnx_forms import form, of
from converter.graph import Node


@form(ops.Linear)
def linear(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Gemm on a matrix; else MatMul on the last dimension.

    Its weights stay floats: of int8 ones and MatMul onnxruntime 1.31 makes MatMulNBits, which is less exact.
    """
    op = of(node, ops.Linear)
    bias = [] if op.bias is None else [w.weight(op.bias, f"{w.scope}.bias")]
    if len(node.shape) == 2:
        return w.add("Gemm", *inputs, stored(w, op), *bias, transB=1)
    product = w.add("MatMul", *inputs, w.weight(op.weight.T, f"{w.scope}.weight"))
    return w.add("Add", product, *bias) if bias else product


@form(ops.Conv)
def conv(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """The same padding at both ends."""
    op = of(node, ops.Conv)
    return w.add("Conv", *inputs, *_synapses(w, op), **_windows(op, op.weight.shape[2:]), group=op.groups)


@form(ops.ConvTranspose)
def conv_transpose(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """The same padding at both ends, and what the result has more at the end."""
    op = of(node, ops.ConvTranspose)
    told = _windows(op, op.weight.shape[2:])
    extra = list(op.output_padding or [0] * (op.weight.dim() - 2))
    return w.add("ConvTranspose", *inputs, *_synapses(w, op), **told, output_padding=extra, group=op.groups)


def _synapses(w: Writer, op: ops.Conv | ops.ConvTranspose) -> list[str]:
    bias = [] if op.bias is None else [w.weight(op.bias, f"{w.scope}.bias")]
    return [stored(w, op), *bias]


def _windows(op: ops.Conv | ops.ConvTranspose, kernel: Sequence[int]) -> dict[str, Any]:
    rank = len(kernel)
    return {
        "kernel_shape": list(kernel),
        "strides": list(op.stride or [1] * rank),
        "dilations": list(op.dilation or [1] * rank),
        "pads": [*(op.padding or [0] * rank), *(op.padding or [0] * rank)],
    }


def stored(w: Writer, op: ops.Conv | ops.ConvTranspose | ops.Linear) -> str:
    """The weight: int8 codes times a scale for each channel where that is what it is, else as it is."""
    packed, axis = op.packed, 1 if isinstance(op, ops.ConvTranspose) else 0
    if packed is not None and len(packed.scale) == op.weight.shape[axis]:
        along = [-1 if i == axis else 1 for i in range(op.weight.dim())]
        values = packed.codes.float() * packed.scale.reshape(along)
        if packed.codes.dtype == torch.int8 and torch.equal(values, op.weight.cpu()):
            codes, scale = (
                w.weight(packed.codes, f"{w.scope}.codes"),
                w.weight(packed.scale, f"{w.scope}.scale"),
            )
            return w.add("DequantizeLinear", codes, scale, axis=axis)
    return w.weight(op.weight, f"{w.scope}.weight")
