"""onnxruntime as the judge of one imported network: cut networks, half precision, fixed batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from converter.errors import ModelError, UsageError
from converter.importer import load
from converter.oracle import TOLERANCE, check
from tests.models import parse, weight

X = torch.rand(5, 8, generator=torch.Generator().manual_seed(1))
BODY = "a = MatMul(x, w) b = Relu(a) y = MatMul(b, v)"
WEIGHTS = {"w": weight(8, 6), "v": weight(6, 3)}


def saved(folder: Path, inputs: str = "float[N,8] x", outputs: str = "float[N,3] y") -> Path:
    onnx.save(parse(BODY, WEIGHTS, inputs=inputs, outputs=outputs), folder / "net.onnx")
    return folder / "net.onnx"


@pytest.mark.parametrize("inputs", ["float[N,8] x", "float[1,8] x"])
def test_what_was_read_right_agrees(tmp_path: Path, inputs: str) -> None:
    path = saved(tmp_path, inputs, inputs.replace("8] x", "3] y"))
    assert check(path, load(path), X) < 1e-6


def test_what_was_read_wrong_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    factor = 1 + 2 * TOLERANCE
    wrong = load(path).map(lambda n: replace(n, op=n.op.map_tensors(lambda t: factor**0.5 * t)))
    with pytest.raises(ModelError, match="is not what onnxruntime computes: its answers differ by 2"):
        check(path, wrong, X)


def test_a_network_that_is_cut_is_compared_at_the_cut(tmp_path: Path) -> None:
    path = saved(tmp_path)
    cut = load(path, outputs=["b"])
    assert cut.run(X)[0].shape == (5, 6)
    assert check(path, cut, X, ["b"]) < 1e-6


def test_half_precision_is_compared_in_float32(tmp_path: Path) -> None:
    """float16 keeps 11 bits: computed in it, the answers would differ by about 1e-3."""
    model = parse(BODY, inputs="float16[N,8] x", outputs="float16[N,3] y")
    for name, value in WEIGHTS.items():
        model.graph.initializer.append(numpy_helper.from_array(value.half().numpy(), name))
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT16}
    onnx.save(model, tmp_path / "half.onnx")
    assert check(tmp_path / "half.onnx", load(tmp_path / "half.onnx"), X) < 1e-6


def test_two_inputs_are_beyond_it(tmp_path: Path) -> None:
    onnx.save(parse("y = Add(x, z)", inputs="float[N,8] x, float[N,8] z"), tmp_path / "two.onnx")
    with pytest.raises(UsageError, match="for networks of one input, this has 2"):
        check(tmp_path / "two.onnx", load(saved(tmp_path)), X)
