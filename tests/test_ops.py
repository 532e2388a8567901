"""Operators: numbers by hand, the laws of the traits, the emitted form, and onnxruntime as the judge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from math import prod
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn

from converter import ops
from converter.errors import Refusal
from converter.graph import BATCH, Constant, Graph, Input, Node, Op, infer_shape
from converter.ops._batch import resolve_target
from converter.ops.resize import Axis, keys_cubic, mixture, places, tent
from converter.view import NodeView, lowerings

N = BATCH


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- every op kind, once or more


@dataclass(frozen=True)
class Sample:
    """An op and shapes of inputs it takes."""

    op: Op
    shapes: tuple[tuple[int, ...], ...]


IMAGE = (2, 4, 6, 5)
POSITIVE = torch.tensor([0.5, 2.0, 1.5, 0.1])

SAMPLES = [
    Sample(ops.Affine(random(4, 1, 1), random(1)), (IMAGE,)),
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


@every_op
def test_every_tensor_is_a_field_that_can_be_mapped(sample: Sample) -> None:
    same = sample.op.map_tensors(torch.clone)
    assert type(same) is type(sample.op)
    assert {f.name for f in fields(same)} == {f.name for f in fields(sample.op)}


# ---------------------------------------------------------------- what a reshape at batch 1 means


@pytest.mark.parametrize(
    ("source", "literal", "target"),
    [
        ((N, 4, 4, 4), (1, 64), (N, 64)),
        ((N, 4, 4, 4), (1, -1), (N, 64)),
        ((N, 4, 4, 4), (-1, 64), (N, 64)),
        ((N, 4, 4, 4), (0, -1), (N, 64)),
        ((N, 14), (-1, 7), (2 * N, 7)),
        ((N, 4, 4, 4), (64,), (64 * N,)),
        ((N, 4, 4, 4), (N, 64), (N, 64)),
        ((N, 4, 4, 4), (N, -1), (N, 64)),
        ((N, 96, 22, 22), (48, 2, 484), (48 * N, 2, 484)),
        ((2, 48 * N, 484), (2, -1, 48, 22, 22), (2, N, 48, 22, 22)),
        ((3, N, 8), (3, 1, 2, 4), (3, N, 2, 4)),
        ((1, N, 8), (1, 1, 8), (1, N, 8)),
        ((2, 3, 4), (0, -1), (2, 12)),
        ((17, N, 16), (17, 16), (17 * N, 16)),
        ((17, N, 16), (17 * N, 16), (17 * N, 16)),
        ((17 * N, 16), (17, 1, 16), (17, N, 16)),
        ((17, N, 16), (17, 2, 8), (17, 2 * N, 8)),
        ((17, 2 * N, 8), (17, 16), (17 * N, 16)),
        ((2, N), (2,), (2 * N,)),
    ],
)
def test_the_batch_finds_its_place(
    source: tuple[int, ...], literal: tuple[int, ...], target: tuple[int, ...]
) -> None:
    assert resolve_target(source, literal) == target


@pytest.mark.parametrize(
    ("source", "literal", "reason"),
    [
        ((N,), (), "no place"),
        ((N, 4), (4, N), "mix the samples"),
        ((N, 5), (1, 6), "cannot take the shape"),
        ((N, 5), (-1, -1), "cannot take the shape"),
        ((N,), (1, 0), "copies a dimension"),
        ((N, N), (1, 1), "twice"),
    ],
)
def test_a_shape_with_no_place_for_the_batch_is_refused(
    source: tuple[int, ...], literal: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(Refusal, match=reason):
        resolve_target(source, literal)


@given(
    data=st.data(),
    sizes=st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=4),
    batch=st.integers(2, 4),
)
@settings(max_examples=200, deadline=None)
def test_a_batch_is_reshaped_sample_by_sample(data: st.DataObject, sizes: list[int], batch: int) -> None:
    """Wherever the batch is and goes: each sample by itself, at batch 1, gets the literal shape."""
    at = data.draw(st.integers(0, len(sizes) - 1))
    literal = tuple(data.draw(st.permutations([*sizes, 1])))
    source = tuple(N * d if i == at else d for i, d in enumerate(sizes))
    node = lower("Reshape", source, torch.tensor(literal))
    to = next(i for i, d in enumerate(node.shape) if d % N == 0)
    samples = [random(*sizes, seed=i) for i in range(batch)]
    whole = torch.cat(samples, at)
    start = next(n for n in _all_nodes((node,)) if isinstance(n.op, Input))
    value = {start: whole}
    for step in Graph((start,), (node,)):
        value.setdefault(step, step.op(*(value[i] for i in step.inputs)) if step.inputs else whole)
    assert torch.equal(value[node], torch.cat([s.reshape(literal) for s in samples], to))


# ---------------------------------------------------------------- lowering, worked by hand


def lower(
    kind: str, *inputs: tuple[int, ...] | Tensor | None, opset: int = 20, outputs: int = 1, **attributes: Any
) -> Any:
    """The lowering of one ONNX node; a tuple is the shape of a value of the network, a tensor a constant."""
    given = [Node(Input(), (), f"x{k}", i) if isinstance(i, tuple) else i for k, i in enumerate(inputs)]
    view = NodeView(kind, "node", opset, attributes, given, [f"y{i}" for i in range(outputs)])
    return lowerings.find(kind, opset)(view)


def chain(node: Node) -> list[str]:
    """The kinds from the input to this node."""
    return [*(chain(node.inputs[0]) if node.inputs else []), node.op.kind][-9:]


def test_uneven_padding_of_a_convolution_is_a_pad_before_it() -> None:
    node = lower("Conv", (N, 1, 4, 4), torch.ones(1, 1, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
    assert chain(node) == ["Input", "Pad", "Conv"]
    assert node.inputs[0].op.amounts == (0, 1, 0, 1)
    assert node.shape == (N, 1, 2, 2)
    even = lower("Conv", (N, 1, 4, 4), torch.ones(1, 1, 3, 3), pads=[1, 1, 1, 1])
    assert chain(even) == ["Input", "Conv"]


def test_gemm_takes_its_factors_into_the_weights() -> None:
    weight, bias = random(5, 3), random(3)
    node = lower("Gemm", (N, 5), weight, bias, alpha=2.0, beta=-1.0)
    assert isinstance(node.op, ops.Linear)
    assert torch.equal(node.op.weight, 2 * weight.T)
    assert torch.equal(node.op.bias, -bias)


def test_a_constant_on_either_side_of_matmul_is_a_linear() -> None:
    assert chain(lower("MatMul", (N, 5), random(5, 3))) == ["Input", "Linear"]
    assert chain(lower("MatMul", random(3, 5), (N, 5, 2))) == ["Input", "Transpose", "Linear", "Transpose"]
    assert lower("MatMul", (N, 5), random(5)).shape == (N,)


def test_arithmetic_with_a_constant_is_affine() -> None:
    x, c = (N, 3), torch.tensor([1.0, 2.0, 4.0])
    at = torch.tensor([[10.0, 20.0, 30.0]])
    for kind, inputs, want in (
        ("Add", (x, c), [11, 22, 34]),
        ("Sub", (x, c), [9, 18, 26]),
        ("Sub", (c, x), [-9, -18, -26]),
        ("Mul", (c, x), [10, 40, 120]),
        ("Div", (x, c), [10, 10, 7.5]),
        ("Neg", (x,), [-10, -20, -30]),
    ):
        node = lower(kind, *inputs)
        assert isinstance(node.op, ops.Affine)
        assert node.op(at).tolist() == [want]
    with pytest.raises(Refusal, match="zero"):
        lower("Div", x, torch.tensor([1.0, 0.0, 1.0]))


def test_extrema_with_a_number_are_clips() -> None:
    assert lower("Max", (N, 3), torch.tensor(0.0)).op.settings() == {"low": 0.0}
    assert lower("Min", (N, 3), torch.tensor([6.0])).op.settings() == {"high": 6.0}
    assert lower("Max", (N, 3), torch.zeros(3)).op.kind == "Max"


def test_clip_without_an_upper_bound_from_zero_is_a_relu() -> None:
    assert isinstance(lower("Clip", (N, 3), torch.tensor(0.0)).op, ops.Relu)
    six = lower("Clip", (N, 3), opset=6, min=0.0, max=6.0).op
    assert (six.low, six.high) == (0.0, 6.0)
    assert isinstance(lower("Clip", (N, 3), opset=6).op, Input)


def test_hard_sigmoid_is_a_line_cut_off() -> None:
    node = lower("HardSigmoid", (N, 3), alpha=0.25, beta=0.5)
    assert chain(node) == ["Input", "Affine", "Clip"]
    assert Graph((node.inputs[0].inputs[0],), (node,)).run(torch.tensor([[-4.0, 1.0, 4.0]]))[0].tolist() == [
        [0, 0.75, 1]
    ]


def test_one_slope_is_a_leaky_relu_unless_it_falls() -> None:
    assert lower("PRelu", (N, 3), torch.tensor([0.25])).op.settings() == {"alpha": 0.25}
    assert isinstance(lower("LeakyRelu", (N, 3), alpha=-0.5).op, ops.PRelu)


def test_softmax_before_opset_13_is_over_all_that_follows_the_axis() -> None:
    node = lower("Softmax", (N, 2, 3), opset=11)
    assert chain(node) == ["Input", "Reshape", "Softmax", "Reshape"]
    assert node.shape == (N, 2, 3)
    assert lower("Softmax", (N, 2, 3), opset=13).op.dim == 2
    assert lower("Softmax", (N, 5, 1, 1), opset=11).op.dim == 1


@pytest.mark.parametrize("kind", ["Flatten", "Squeeze", "Unsqueeze", "Reshape"])
def test_whatever_only_renames_dimensions_is_a_reshape(kind: str) -> None:
    second = {"Squeeze": [2, 3], "Unsqueeze": [0], "Reshape": [1, 4]}
    inputs = [torch.tensor(second[kind])] if kind in second else []
    node = lower(kind, (N, 4, 1, 1), *inputs)
    assert isinstance(node.op, ops.Reshape)
    assert node.op.shape.count(-1) == 1


def test_a_slice_clamps_its_ends_and_may_run_backwards() -> None:
    def cut(start: int, end: int, step: int) -> list[float]:
        node = lower("Slice", (N, 5), *(torch.tensor([v]) for v in (start, end, 1, step)))
        return node.op(torch.arange(5.0)[None])[0].tolist() if node.inputs else [0, 1, 2, 3, 4]

    assert cut(1, 100, 2) == [1, 3]
    assert cut(-2, 2**63 - 1, 1) == [3, 4]
    assert cut(-1, -(2**63) + 1, -2) == [4, 2, 0]
    assert cut(-100, 100, 1) == [0, 1, 2, 3, 4]
    assert cut(3, -100, -1) == [3, 2, 1, 0]


def test_split_shares_out_evenly_with_a_smaller_rest() -> None:
    parts = lower("Split", (N, 7), axis=1, num_outputs=3, outputs=3)
    assert [p.shape for p in parts] == [(N, 3), (N, 3), (N, 1)]
    parts = lower("Split", (N, 7), torch.tensor([5, 2]), axis=1, outputs=2)
    assert [p.shape for p in parts] == [(N, 5), (N, 2)]


def test_a_gather_of_one_place_drops_the_dimension_and_of_a_range_is_a_slice() -> None:
    scalar = lower("Gather", (N, 4, 3), torch.tensor(-1), axis=1)
    assert scalar.shape == (N, 3)
    assert chain(scalar) == ["Input", "Slice", "Reshape"]
    assert lower("Gather", (N, 4), torch.tensor([1, 2]), axis=1).op.kind == "Slice"
    assert lower("Gather", (N, 4), torch.tensor([2, 1]), axis=1).op.kind == "Gather"
    assert lower("Gather", (N, 4), torch.tensor([[2, 1]]), axis=1).shape == (N, 1, 2)


def test_a_constant_joins_every_sample() -> None:
    node = lower("Concat", torch.ones(1, 1, 3), (N, 4, 3), axis=1)
    assert node.shape == (N, 5, 3)
    assert [i.op.kind for i in node.inputs] == ["ExpandBatch", "Input"]
    assert isinstance(node.inputs[0].inputs[0].op, Constant)


def test_padding_with_a_number_adds_it_to_zeros() -> None:
    node = lower("Pad", (N, 1, 2), torch.tensor([0, 0, 1, 0, 0, 2]), torch.tensor(5.0))
    graph = Graph((node.inputs[0].inputs[0],), (node,))
    assert graph.run(torch.tensor([[[1.0, 2.0]]]))[0].tolist() == [[[5, 1, 2, 5, 5]]]


def test_a_mean_with_uneven_padding_divides_by_what_it_counts() -> None:
    x = torch.tensor([[[3.0, 5.0, 7.0]]])
    for include, want in ((0, [3, 5]), (1, [2, 5])):
        node = lower(
            "AveragePool", (N, 1, 3), kernel_shape=[3], strides=[2], pads=[2, 0], count_include_pad=include
        )
        assert node.shape == (N, 1, 2)
        assert node.op(x).flatten().tolist() == pytest.approx([3 / (3 if include else 1), 5])
        assert want[1] == 5


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"),
    [
        ("ReduceMean", [(N, 3)], {"axes": [0]}),
        ("ReduceSum", [(N, 3)], {}),
        ("Softmax", [(N, 3)], {"axis": 0}),
        ("Concat", [(N, 3), (N, 3)], {"axis": 0}),
        ("Gather", [(N, 3), torch.tensor([0])], {"axis": 0}),
        ("Slice", [(N, 3), torch.tensor([0]), torch.tensor([1])], {}),
        ("Split", [(N, 3)], {"axis": 0, "num_outputs": 2}),
        ("Pad", [(N, 3), torch.tensor([1, 0, 0, 0])], {}),
        ("Tile", [(N, 3), torch.tensor([2, 1])], {}),
        ("LayerNormalization", [(N, 3), torch.ones(3)], {"axis": 0}),
    ],
)
def test_nothing_may_mix_the_samples_of_a_batch(
    kind: str, inputs: list[Any], attributes: dict[str, Any]
) -> None:
    with pytest.raises(Refusal, match="batch"):
        lower(kind, *inputs, **attributes)


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes", "reason"),
    [
        ("Conv", [(N, 1, 4), (1, 1, 3)], {}, "must be constant"),
        ("Conv", [(N, 1, 4, 4), torch.ones(1, 1, 3)], {}, "does not fit"),
        ("BatchNormalization", [(N, 2, 3), *[torch.ones(2)] * 4], {"training_mode": 1}, "training mode"),
        ("BatchNormalization", [(N, 3, 3), *[torch.ones(2)] * 4], {}, "one number a channel"),
        ("MaxPool", [(N, 1, 4)], {"kernel_shape": [7]}, "does not fit"),
        (
            "MaxPool",
            [(N, 1, 7)],
            {"kernel_shape": [1], "strides": [4], "auto_pad": "SAME_UPPER"},
            "runtimes differ",
        ),
        ("MatMul", [(3, N), (N, 3)], {}, "batch"),
        ("MaxPool", [(N, 1, 4)], {}, "no attribute kernel_shape"),
        ("Resize", [(N, 1, 4)], {}, "neither scales nor sizes"),
        ("Resize", [(N, 4), (0,), torch.tensor([2.0, 1.0])], {}, "batch"),
        ("Clip", [(N, 3), torch.tensor(float("nan"))], {}, "NaN"),
        ("LRN", [(N, 4, 3)], {"size": 2}, "even size"),
        ("Pad", [(N, 3), torch.tensor([0, 1, 0, 0]), torch.tensor(float("-inf"))], {}, "inf"),
        ("Squeeze", [(N, 3)], {}, ""),
        ("Transpose", [(N, 3)], {"perm": [0, 5]}, "does not fit"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    kind: str, inputs: list[Any], attributes: dict[str, Any], reason: str
) -> None:
    if kind == "Squeeze":  # nothing of size 1: nothing to do
        assert isinstance(lower(kind, *inputs).op, Input)
        return
    with pytest.raises(Refusal, match=reason):
        lower(kind, *inputs, **attributes)


# ---------------------------------------------------------------- onnxruntime is the judge


def compare(
    kind: str, x: Tensor, *constants: Tensor | None, opset: int = 20, outputs: int = 1, **attributes: Any
) -> None:
    """The lowering on x, at a free batch, against onnxruntime on the same node, 1e-5 of the largest value."""
    names = ["" if c is None else f"c{i}" for i, c in enumerate(constants)]
    node = onnx.helper.make_node(kind, ["x", *names], [f"y{i}" for i in range(outputs)], **attributes)
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [onnx.helper.make_tensor_value_info("x", floats, x.shape)],
        [onnx.helper.make_tensor_value_info(f"y{i}", floats, None) for i in range(outputs)],
        [
            numpy_helper.from_array(c.numpy(), n)
            for c, n in zip(constants, names, strict=True)
            if c is not None
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3
    quiet.intra_op_num_threads = 1
    wanted = onnxruntime.InferenceSession(model.SerializeToString(), quiet).run(None, {"x": x.numpy()})
    made = lower(kind, (N, *x.shape[1:]), *constants, opset=opset, outputs=outputs, **attributes)
    ends = made if isinstance(made, tuple) else (made,)
    start = next(n for n in _all_nodes(ends) if isinstance(n.op, Input))
    for got, want in zip(Graph((start,), ends).verify().run(x), wanted, strict=True):
        assert tuple(got.shape) == want.shape
        torch.testing.assert_close(
            got, torch.from_numpy(want), rtol=0, atol=1e-5 * max(abs(want).max(), 1e-6)
        )


def _all_nodes(ends: tuple[Node, ...]) -> Iterator[Node]:
    for end in ends:
        yield end
        yield from _all_nodes(end.inputs)


sizes = st.integers(1, 4)


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    """Attributes of a window operator in one to three dimensions; every pad smaller than the kernel."""
    rank = draw(st.integers(1, 3))
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, k if auto.startswith("SAME") else 3)) for k in kernel],
        "auto_pad": auto,
    }
    if auto == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
        attributes["dilations"] = draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank))
    return attributes


def image(attributes: dict[str, Any], channels: int, seed: int) -> Tensor:
    rank = len(attributes["kernel_shape"])
    return random(2, channels, *(7 - i for i in range(rank)), seed=seed)


@given(attributes=windows(), group=st.sampled_from([1, 2]), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_convolutions_agree_with_onnxruntime(attributes: dict[str, Any], group: int, seed: int) -> None:
    weight = random(6, 4 // group, *attributes["kernel_shape"], seed=seed)
    compare("Conv", image(attributes, 4, seed), weight, random(6, seed=seed), group=group, **attributes)


@given(attributes=windows(), ceil=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_max_pools_agree_with_onnxruntime(attributes: dict[str, Any], ceil: bool, seed: int) -> None:
    compare("MaxPool", image(attributes, 2, seed), ceil_mode=int(ceil), **attributes)


@given(attributes=windows(), ceil=st.booleans(), include=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_mean_pools_agree_with_onnxruntime(
    attributes: dict[str, Any], ceil: bool, include: bool, seed: int
) -> None:
    x = image(attributes, 2, seed)
    compare("AveragePool", x, ceil_mode=int(ceil), count_include_pad=int(include), **attributes)


@given(
    stride=sizes,
    pads=st.tuples(sizes, sizes),
    kernel=st.integers(2, 4),
    extra=st.integers(0, 1),
    dilation=st.integers(1, 2),
    group=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_transposed_convolutions_agree_with_onnxruntime(
    stride: int, pads: tuple[int, int], kernel: int, extra: int, dilation: int, group: int, seed: int
) -> None:
    before, after = (min(p - 1, kernel - 1) for p in pads)
    weight = random(4, 3, kernel, kernel, seed=seed)
    compare(
        "ConvTranspose",
        random(2, 4, 5, 4, seed=seed),
        weight,
        random(3 * group, seed=seed),
        strides=[stride, 1],
        pads=[before, 0, after, 0],
        group=group,
        dilations=[dilation, 1],
        output_padding=[min(extra, stride - 1), 0],
    )


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_transposed_convolutions_fill_the_shape_asked_for(auto_pad: str) -> None:
    weight = random(2, 3, 3, 3)
    compare("ConvTranspose", random(2, 2, 5, 4), weight, strides=[2, 2], auto_pad=auto_pad)
    compare(
        "ConvTranspose", random(2, 2, 5, 4), weight, strides=[2, 2], output_shape=[10, 8], auto_pad=auto_pad
    )


MODES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]


@pytest.mark.parametrize("transformation", MODES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@given(height=st.integers(2, 12), width=st.integers(2, 12), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_resizing_to_sizes_agrees_with_onnxruntime(
    mode: str, transformation: str, height: int, width: int, seed: int
) -> None:
    x = random(1, 2, 5, 4, seed=seed)
    compare(
        "Resize",
        x,
        None,
        None,
        torch.tensor([1, 2, height, width]),
        mode=mode,
        coordinate_transformation_mode=transformation,
    )


@pytest.mark.parametrize("scales", [(2.0, 3.0), (1.5, 0.6), (0.5, 2.7)])
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resizing_by_scales_rounds_as_onnxruntime(rounding: str, scales: tuple[float, float]) -> None:
    compare(
        "Resize",
        random(2, 3, 6, 8),
        None,
        torch.tensor([1.0, 1.0, *scales]),
        mode="nearest",
        nearest_mode=rounding,
        coordinate_transformation_mode="half_pixel",
    )


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(2.0, 2.0), (3.0, 2.5)])
def test_old_resizes_agree_with_onnxruntime(mode: str, scales: tuple[float, float]) -> None:
    factors = [1.0, 1.0, *scales]
    compare("Upsample", random(2, 3, 4, 5), opset=7, mode=mode, scales=factors)
    compare("Upsample", random(2, 3, 4, 5), torch.tensor(factors), opset=9, mode=mode)
    compare("Resize", random(2, 3, 4, 5), torch.tensor(factors), opset=10, mode=mode)
    compare("Resize", random(2, 3, 8, 6), torch.tensor([1, 1, 0.5, 0.5]), opset=10, mode=mode)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialiased_resizes_agree_with_onnxruntime(mode: str) -> None:
    compare("Resize", random(1, 2, 9, 8), None, None, torch.tensor([1, 2, 4, 3]), mode=mode, antialias=1)


def test_the_tent_and_the_cubic_are_one_at_zero_and_none_at_the_next_pixel() -> None:
    at = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    assert tent(at).tolist() == [0, 1, 0, 0]
    assert keys_cubic(at, -0.75).tolist() == [0, 1, 0, 0]


def test_twice_the_size_mixes_three_quarters_and_a_quarter() -> None:
    axis = Axis(2, 4, 2.0)
    matrix = mixture(axis, places(axis, "half_pixel"), tent, 1)
    assert matrix.tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]


@pytest.mark.parametrize("opset", [7, 11, 13, 18, 20])
@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_softmax_agrees_with_onnxruntime_in_every_version(kind: str, opset: int) -> None:
    compare(kind, random(2, 3, 4), opset=opset)
    compare(kind, random(2, 3, 4), opset=opset, axis=2)


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("Elu", {"alpha": 0.5}),
        ("Celu", {"alpha": 0.5}),
        ("Selu", {}),
        ("Gelu", {}),
        ("Gelu", {"approximate": "tanh"}),
        ("HardSigmoid", {"alpha": 0.3}),
        ("HardSwish", {}),
        ("LeakyRelu", {"alpha": 0.2}),
        ("Mish", {}),
        ("Softplus", {}),
        ("Softsign", {}),
        ("ThresholdedRelu", {"alpha": 0.4}),
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("Erf", {}),
        ("GlobalAveragePool", {}),
        ("GlobalMaxPool", {}),
        ("LRN", {"size": 3, "alpha": 0.5, "bias": 2.0}),
        ("LpNormalization", {"axis": 1, "p": 1}),
        ("Flatten", {"axis": 2}),
        ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}),
        ("DepthToSpace", {"blocksize": 2}),
        ("SpaceToDepth", {"blocksize": 2}),
    ],
)
def test_functions_of_one_value_agree_with_onnxruntime(kind: str, attributes: dict[str, Any]) -> None:
    compare(kind, 3 * random(2, 4, 6, 4), **attributes)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_padding_agrees_with_onnxruntime(mode: str) -> None:
    x, pads = random(2, 3, 5, 4), torch.tensor([0, 0, 1, 2, 0, 0, 2, 1])
    value = torch.tensor(1.5) if mode == "constant" else None
    compare("Pad", x, pads, *([value] if value is not None else []), mode=mode)
    compare("Pad", x, opset=7, mode=mode, pads=pads.tolist())
    compare("Pad", x, torch.tensor([1, 2]), None, torch.tensor([-1]), mode=mode)


def test_normalisations_agree_with_onnxruntime() -> None:
    x, c = random(2, 4, 5, 3), random(4)
    compare("BatchNormalization", x, c, random(4, seed=1), random(4, seed=2), POSITIVE, epsilon=1e-3)
    compare("LayerNormalization", x, random(5, 3), random(5, 3, seed=1), axis=2)
    compare("InstanceNormalization", x, c, random(4, seed=1), epsilon=1e-3)


def test_reductions_agree_with_onnxruntime_before_and_after_their_axes_became_an_input() -> None:
    for kind in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceLogSumExp"):
        compare(kind, random(2, 3, 4), opset=11, axes=[1, -1])
        compare(kind, random(2, 3, 4), torch.tensor([-2]), opset=18, keepdims=0)


def test_a_product_with_leading_dimensions_agrees_with_onnxruntime() -> None:
    compare("MatMul", random(2, 3, 4), random(4, 5))
    compare("MatMul", random(2, 3, 4), random(1, 4, 5))
    compare("MatMul", random(2, 3, 4), random(4))
    compare("Gemm", random(2, 4), random(5, 4), random(1, 5), transB=1, alpha=0.5, beta=2.0)
    compare("Gemm", random(2, 4), random(4, 5), torch.tensor(3.0))


def test_replacing_a_field_keeps_the_rest() -> None:
    conv = ops.Conv(random(2, 3, 1, 1), None, (1, 1), (0, 0), (1, 1))
    assert replace(conv, bias=torch.ones(2)).weight is conv.weight
    assert prod(infer_shape(conv, (1, 3, 2, 2))) == 8
