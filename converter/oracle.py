"""What onnxruntime says of the same file: the judge of the importer, for one network and real samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converter.errors import ModelError, UsageError
from converter.graph import Graph

TOLERANCE = 1e-4
"""What the order of float32 operations may make, relative to the output's largest magnitude."""


def check(path: str | os.PathLike[str], graph: Graph, x: Tensor, outputs: Sequence[str] = ()) -> float:
    """The largest difference between `graph`, read from `path`, and onnxruntime on samples `x` [batch, …].

    Relative to the largest magnitude of each output; `outputs` as for the import. Raises `ModelError` when it
    exceeds `TOLERANCE`.
    """
    worst = 0.0
    with torch.inference_mode():
        ours = graph.run(x)
    for mine, theirs in zip(ours, answers(path, x, outputs), strict=True):
        difference = float((mine - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))
        worst = max(worst, difference if difference == difference else float("inf"))
    if worst > TOLERANCE:
        raise ModelError(
            f"the imported network is not what onnxruntime computes: its answers differ by {worst:.1e}",
            why=f"relative to their largest magnitude; {TOLERANCE:.0e} is allowed",
            hint="this is a bug in ann2snn, or weights and data at the end of float32's range",
        )
    return worst


def answers(path: str | os.PathLike[str], x: Tensor, outputs: Sequence[str] = ()) -> list[Tensor]:
    """onnxruntime's outputs for `x` [batch, …] in float32, one sample at a time where the file says so."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            widened(path, outputs), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises its own kinds, without a common base
        raise ModelError("onnxruntime does not read this file", why=str(error).splitlines()[0]) from error
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise UsageError(
            f"the comparison with onnxruntime is for networks of one input, this has {len(inputs)}"
        )
    size = 1 if inputs[0].shape[0] == 1 else len(x)
    chunks = [session.run(None, {inputs[0].name: part.numpy()}) for part in x.cpu().split(size)]
    return [torch.from_numpy(np.concatenate(each).astype(np.float32)) for each in zip(*chunks, strict=True)]


def widened(path: str | os.PathLike[str], outputs: Sequence[str] = ()) -> bytes:
    """The model file with every half-precision number as float32, cut at `outputs` if there are any."""
    import onnx
    from onnx import TensorProto, numpy_helper

    half = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    proto = onnx.load(path)

    def widen(tensor: TensorProto) -> None:
        if tensor.data_type in half:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    for tensor in proto.graph.initializer:
        widen(tensor)
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                widen(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in half:
                attribute.i = TensorProto.FLOAT
    del proto.graph.value_info[:]
    if outputs:
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.ValueInfoProto(name=value) for value in _values(proto, outputs))
    for end in (*proto.graph.input, *proto.graph.output):
        if end.type.tensor_type.elem_type in half:
            end.type.tensor_type.elem_type = TensorProto.FLOAT
    data: bytes = proto.SerializeToString()
    return data


def _values(proto: Any, names: Sequence[str]) -> list[str]:
    """The ONNX values meant by value or node names."""
    made = {node.name: node.output[0] for node in proto.graph.node}
    values = {value for node in proto.graph.node for value in node.output}
    return [name if name in values else made[name] for name in names]
