"""Small ONNX models for tests, as text where text is shorter, and the independent judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor


def parse(
    body: str,
    weights: Mapping[str, Tensor | np.ndarray] | None = None,
    *,
    inputs: str = "float[N,3,8,8] x",
    outputs: str = "float[N,M] y",
    opset: int = 20,
) -> ModelProto:
    """A model from lines of ONNX text such as `y = Relu(x)`, with its weights."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> net ({inputs}) => ({outputs}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name, value in (weights or {}).items():
        array = value.numpy() if isinstance(value, Tensor) else value
        model.graph.initializer.append(numpy_helper.from_array(np.array(array, order="C"), name))
    return model


def judge(model: ModelProto | Path, *inputs: Tensor) -> list[Tensor]:
    """The outputs as onnxruntime computes them, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    feeds = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(np.asarray(o)) for o in session.run(None, feeds)]


def weight(*shape: int, seed: int = 0, scale: float = 0.5) -> Tensor:
    """Random weights, the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def batchnorm(channels: int, seed: int = 0) -> dict[str, Tensor]:
    """Parameters s, b, m, v of a batch normalisation that does something, one negative scale among them."""
    scale = weight(channels, seed=seed, scale=1.0)
    return {
        "s": scale.abs() * torch.tensor([-1.0] + [1.0] * (channels - 1)),
        "b": weight(channels, seed=seed + 1),
        "m": weight(channels, seed=seed + 2),
        "v": weight(channels, seed=seed + 3).abs() + 0.1,
    }


def worst(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of b's largest magnitude."""
    assert a.shape == b.shape, f"{tuple(a.shape)} is not {tuple(b.shape)}"
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
