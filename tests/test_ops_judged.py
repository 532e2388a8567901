"""Operators against onnxruntime, the independent judge: over their attributes, versions and dimensions."""

from __future__ import annotations

from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor

from converter.graph import Graph, Input
from converter.ops.resize import Axis, keys_cubic, mixture, places, tent
from tests.lowering import N, all_nodes, lower, random

POSITIVE = torch.tensor([0.5, 2.0, 1.5, 0.1])


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
    start = next(n for n in all_nodes(ends) if isinstance(n.op, Input))
    for got, want in zip(Graph((start,), ends).verify().run(x), wanted, strict=True):
        assert tuple(got.shape) == want.shape
        torch.testing.assert_close(
            got, torch.from_numpy(want), rtol=0, atol=1e-5 * max(abs(want).max(), 1e-6)
        )


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


@pytest.mark.parametrize("scales", [(2.0, 3.0), (1.5, 0.6), (0.5, 2.7), (0.7, 1.3)])
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resizing_by_scales_rounds_as_onnxruntime(rounding: str, scales: tuple[float, float]) -> None:
    compare(
        "Resize",
        random(2, 3, 10, 10),
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
