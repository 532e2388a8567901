"""Operators: the laws of their traits, their emitted form, their shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from converter import ops
from converter.graph import Op, infer_shape
from tests.lowering import random


@dataclass(frozen=True)
class Sample:
    """An op and shapes of inputs it takes."""

    op: Op
    shapes: tuple[tuple[int, ...], ...]


IMAGE = (2, 4, 6, 5)
POSITIVE = torch.tensor([0.5, 2.0, 1.5, 0.1])

SAMPLES = [
    Sample(ops.Affine(random(4, 1, 1), random(1)), (IMAGE,)),
    Sample(ops.Grid(-4), (IMAGE,)),
    Sample(ops.Affine(None, random(4, 1, 1)), (IMAGE,)),
    Sample(ops.Affine(torch.tensor(3.0)), (IMAGE,)),
    Sample(ops.Add(), (IMAGE, (1, 4, 1, 1), IMAGE)),
    Sample(ops.Linear(random(3, 5), random(3)), (IMAGE,)),
    Sample(ops.Linear(random(3, 5)), ((2, 5),)),
    Sample(ops.AlongAxis(random(3, 6), 2), (IMAGE,)),
    Sample(ops.Conv(random(6, 2, 3, 3), random(6), (2, 1), (1, 0), (1, 2), 2), (IMAGE,)),
    Sample(ops.Conv(random(3, 4, 2), None, (1,), (1,), (1,)), ((2, 4, 6),)),
    Sample(ops.Conv(random(3, 4, 2, 1, 2), random(3), (1, 1, 1), (0, 0, 1), (1, 1, 1)), ((2, 4, 3, 3, 3),)),
    Sample(ops.ConvTranspose(random(4, 3, 3, 3), random(6), (2, 2), (1, 0), (1, 0), (1, 1), 2), (IMAGE,)),
    Sample(ops.ConvTranspose(random(4, 3, 2), None, (1,), (0,), (0,), (1,)), ((2, 4, 6),)),
    Sample(ops.BatchNorm(random(4), random(4), random(4), POSITIVE, 1e-5), (IMAGE,)),
    Sample(ops.AvgPool((2, 3), (2, 1), (1, 1), True, False), (IMAGE,)),
    Sample(ops.AvgPool((2,), (2,), (0,)), ((2, 4, 6),)),
    Sample(ops.AvgPool((2, 1, 2), (1, 1, 1), (0, 0, 1)), ((2, 4, 3, 3, 3),)),
    Sample(ops.MaxPool((3, 2), (2, 2), (1, 0), (1, 1), True), (IMAGE,)),
    Sample(ops.MaxPool((2, 2), (1, 1), (0, 0), (1, 2), False, (1, 2, 0, 3)), (IMAGE,)),
    Sample(ops.MaxPool((3,), (1,), (1,), (1,)), ((2, 4, 6),)),
    Sample(ops.MaxPool((2, 2, 2), (1, 1, 1), (0, 0, 0), (1, 1, 1)), ((2, 4, 3, 3, 3),)),
    Sample(ops.Reshape((-1, 24, 5)), (IMAGE,)),
    Sample(ops.Transpose((0, 2, 3, 1)), (IMAGE,)),
    Sample(ops.Slice(2, 1, 6, 2), (IMAGE,)),
    Sample(ops.Slice(0, 0, 1), (IMAGE,)),
    Sample(ops.Gather(torch.tensor([5, 0, 0]), 2), (IMAGE,)),
    Sample(ops.Pad((1, 2, 0, -1)), (IMAGE,)),
    Sample(ops.Pad((1, 2, 1, 0), "reflect"), (IMAGE,)),
    Sample(ops.Concat(1), (IMAGE, (2, 1, 6, 5))),
    Sample(ops.Expand((-1, -1, 3, -1)), ((2, 4, 1, 5),)),
    Sample(ops.ExpandBatch(0), ((1, 3), (2, 7))),
    Sample(ops.Tile((1, 2, 1, 3)), (IMAGE,)),
    Sample(ops.Relu(), (IMAGE,)),
    Sample(ops.Clip(0.0, 0.7), (IMAGE,)),
    Sample(ops.Clip(None, 0.5), (IMAGE,)),
    Sample(ops.LeakyRelu(0.1), (IMAGE,)),
    Sample(ops.PRelu(random(4, 1, 1)), (IMAGE,)),
    Sample(ops.Swish(1.5), (IMAGE,)),
    Sample(ops.ThresholdedRelu(0.3), (IMAGE,)),
    Sample(ops.Smooth("Elu", 0.7), (IMAGE,)),
    Sample(ops.Smooth("Gelu", "tanh"), (IMAGE,)),
    Sample(ops.Smooth("HardSwish"), (IMAGE,)),
    Sample(ops.Softmax(1), (IMAGE,)),
    Sample(ops.LogSoftmax(3), (IMAGE,)),
    Sample(ops.Pointwise("Sigmoid"), (IMAGE,)),
    Sample(ops.Pointwise("Erf"), (IMAGE,)),
    Sample(ops.Mul(), (IMAGE, IMAGE)),
    Sample(ops.Div(), (IMAGE, IMAGE)),
    Sample(ops.Pow(), (IMAGE, ())),
    Sample(ops.Max(), (IMAGE, (5,), IMAGE)),
    Sample(ops.Min(), (IMAGE, (5,))),
    Sample(ops.MatMul(), ((2, 3, 4), (2, 4, 5))),
    Sample(ops.ReduceMean((2, 3)), (IMAGE,)),
    Sample(ops.ReduceSum((1,), False), (IMAGE,)),
    Sample(ops.ReduceMax((2, 3), False), (IMAGE,)),
    Sample(ops.ReduceMin((3,)), (IMAGE,)),
    Sample(ops.ReduceLogSumExp((1,)), (IMAGE,)),
    Sample(ops.ReduceNorm((1, 2), True, 1.0), (IMAGE,)),
    Sample(ops.LayerNorm(random(6, 5), random(6, 5), 1e-5), (IMAGE,)),
    Sample(ops.GroupNorm(random(4), random(4), 2, 1e-5), (IMAGE,)),
    Sample(ops.RmsNorm(random(5), 1e-5), (IMAGE,)),
    Sample(ops.Lrn(3, 0.1, 0.75, 2.0), (IMAGE,)),
    Sample(ops.LpNorm(1.0, 1), (IMAGE,)),
]


def told(sample: Sample) -> str:
    return f"{sample.op.kind}{list(sample.op.settings().values()) or ''}"


every_op = pytest.mark.parametrize("sample", SAMPLES, ids=told)


def values(sample: Sample, seed: int = 0) -> list[Tensor]:
    return [random(*shape, seed=seed + i) for i, shape in enumerate(sample.shapes)]


def subclasses(kind: type) -> Iterator[type]:
    for sub in kind.__subclasses__():
        yield sub
        yield from subclasses(sub)


def test_every_op_kind_has_a_sample() -> None:
    abstract = {"Movement", "Reduce"}
    kinds = {k.__name__ for k in subclasses(Op) if k.__module__.startswith("converter.ops.")} - abstract
    assert kinds == {type(s.op).__name__ for s in SAMPLES}


def near(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.op.linear], ids=told)
@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
@settings(max_examples=8, deadline=None)
def test_linear_of_a_mean_is_the_mean(sample: Sample, seed: int, share: float) -> None:
    x, y = values(sample, seed), values(sample, seed + 500)
    mixed = [share * a + (1 - share) * b for a, b in zip(x, y, strict=True)]
    near(sample.op(*mixed), share * sample.op(*x) + (1 - share) * sample.op(*y))


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.op.homogeneous], ids=told)
@given(seed=st.integers(0, 1000), factor=st.floats(0.01, 50))
@settings(max_examples=8, deadline=None)
def test_homogeneous_lets_a_positive_factor_through(sample: Sample, seed: int, factor: float) -> None:
    x = values(sample, seed)
    near(sample.op(*(factor * v for v in x)) / factor, sample.op(*x))


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.op.monotone], ids=told)
@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_monotone_commutes_with_max(sample: Sample, seed: int) -> None:
    x, y = values(sample, seed), values(sample, seed + 500)
    larger = [torch.maximum(a, b) for a, b in zip(x, y, strict=True)]
    assert torch.equal(sample.op(*larger), torch.maximum(sample.op(*x), sample.op(*y)))


@pytest.mark.parametrize("sample", [s for s in SAMPLES if not s.op.linear], ids=told)
def test_what_does_not_claim_to_be_linear_is_not(sample: Sample) -> None:
    """A trait that is missing costs accuracy: a linear op would needlessly run on sums."""
    x, y = values(sample), values(sample, 500)
    mean = sample.op(*((a + b) / 2 for a, b in zip(x, y, strict=True)))
    assert not torch.allclose(mean, (sample.op(*x) + sample.op(*y)) / 2, rtol=1e-3, atol=1e-4)


@every_op
def test_the_emitted_form_computes_the_same_bit_for_bit(sample: Sample) -> None:
    names = [f"x{i}" for i in range(len(sample.shapes))]
    inputs = values(sample)
    space: dict[str, Any] = {"torch": torch, "F": F, "nn": nn, **dict(zip(names, inputs, strict=True))}
    if sample.op.module():
        layer = eval(sample.op.module(), space)
        layer.load_state_dict(sample.op.tensors())  # strict: the layer has these tensors and no others
    else:
        layer = SimpleNamespace(**sample.op.tensors())
    space["layer"] = layer
    with torch.no_grad():
        emitted = eval(sample.op.code("layer", *names), space)
    want = sample.op(*inputs)
    assert emitted.shape == want.shape
    assert torch.equal(emitted.nan_to_num(), want.nan_to_num())


@every_op
def test_the_inferred_shape_is_that_of_the_value(sample: Sample) -> None:
    assert infer_shape(sample.op, *sample.shapes) == tuple(sample.op(*values(sample)).shape)
