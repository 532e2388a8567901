"""Each ONNX operator in the graph's few canonical forms, by hand, and what is refused with which reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from converter import ops
from converter.errors import Refusal
from converter.graph import Constant, Graph, Input
from tests.lowering import N, chain, lower, random


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


def test_gathering_all_of_a_sample_that_was_flattened_at_batch_1_is_a_reshape() -> None:
    node = lower("Gather", (16 * N,), torch.arange(16).reshape(1, 16, 1, 1))
    assert node.op.kind == "Reshape"
    assert node.shape == (N, 16, 1, 1)


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
    """Windows (pad, pad, 3) and (3, 5, 7): the first is 3 / 1, or 3 / 3 when the padding counts."""
    x = torch.tensor([[[3.0, 5.0, 7.0]]])
    for include, want in ((0, [3, 5]), (1, [1, 5])):
        window = {"kernel_shape": [3], "strides": [2], "pads": [2, 0]}
        node = lower("AveragePool", (N, 1, 3), count_include_pad=include, **window)
        assert node.op.kind == "AlongAxis"
        assert node.op(x).flatten().tolist() == want


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
        ("Transpose", [(N, 3)], {"perm": [0, 5]}, "does not fit"),
        (
            "MaxPool",
            [(N, 3, 1)],
            {"kernel_shape": [2], "dilations": [2], "pads": [1, 1]},
            "wholly in the padding",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    kind: str, inputs: list[Any], attributes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Refusal, match=reason):
        lower(kind, *inputs, **attributes)
