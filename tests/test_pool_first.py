"""pool_first: a max-pool before its activation, where that is exact and costs no second neuron."""

from __future__ import annotations

import pytest
import torch
from onnx import ModelProto
from torch import Tensor

from calibrators.maximum import Maximum
from calibrators.percentile import Percentile
from converter.data import open_source
from converter.exporters.torch import source
from converter.graph import Graph, size_of
from converter.importer import load
from converter.passes import apply
from converter.passes.spike import Spike
from converter.pipeline import Settings, convert
from converter.plan import Plan
from converter.rate import RateModel
from tests.conftest import ROOT
from tests.models import batchnorm, judge, parse, weight, worst

POOL = "MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,0,1,1], ceil_mode=1>"
SMALL = "MaxPool<kernel_shape=[2,2]>"
NUMBERS = {"lo": 0.0, "six": 6.0, "minus": -0.5, "one": 1.0}


def lines(body: str, weights: dict[str, Tensor], inputs: str = "float[N,4,8,8] x") -> list[str]:
    """The network after the pipeline, `name = Kind(inputs)` a line, held against onnxruntime."""
    outputs = "float[N,C,H,W] y" if inputs.count(",") == 3 else "float[N,C,D] y"
    model = parse(body, weights, inputs=inputs, outputs=outputs)
    for node in model.graph.node:
        node.name = node.output[0]
    graph = judged(model)
    return [f"{n.name} = {n.op.kind}({', '.join(i.name for i in n.inputs)})" for n in graph][
        len(graph.inputs) :
    ]


def judged(model: ModelProto) -> Graph:
    graph, _ = apply(load(model))
    x = weight(2, *graph.inputs[0].shape[1:], seed=9, scale=1.0)
    for ours, theirs in zip(graph.run(x), judge(model, x), strict=True):
        assert worst(ours, theirs) < 1e-5
    return graph


def used(body: str, **more: Tensor) -> dict[str, Tensor]:
    """The weights that `body` names: numbers, a kernel `w`, and a batch normalisation."""
    known = {name: torch.tensor(value) for name, value in NUMBERS.items()}
    known |= {"w": weight(4, 4, 1, 1), "v": weight(4, 4, 1, 1, seed=3)} | more
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return {name: value for name, value in known.items() if name in words}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            f"c = Conv(x, w) r = Relu(c) y = {POOL}(r)",
            ["c = Conv(x)", "y = MaxPool(c)", "r = Relu(y)"],
            id="relu",
        ),
        pytest.param(
            f"c = Conv(x, w) r = Clip(c, lo, six) y = {POOL}(r)",
            ["c = Conv(x)", "y = MaxPool(c)", "r = Clip(y)"],
            id="clip",
        ),
        pytest.param(
            f"c = Conv(x, w) r = LeakyRelu<alpha=0.2>(c) y = {POOL}(r)",
            ["c = Conv(x)", "y = MaxPool(c)", "r = LeakyRelu(y)"],
            id="leaky",
        ),
        pytest.param(
            "c = Conv(x, w) r = Relu(c) y = GlobalMaxPool(r)",
            ["c = Conv(x)", "y = ReduceMax(c)", "r = Relu(y)"],
            id="global",
        ),
        pytest.param(
            f"c = Conv(x, w) r = Relu(c) p = {SMALL}(r) y = {POOL}(p)",
            ["c = Conv(x)", "p = MaxPool(c)", "y = MaxPool(p)", "r = Relu(y)"],
            id="pool-after-pool",
        ),
        pytest.param(
            f"c = Conv(x, w) r = Relu(c) p = {POOL}(r) y = Relu(p)",
            ["c = Conv(x)", "p = MaxPool(c)", "y = Relu(p)"],
            id="relu-after-pool-after-relu-are-one",
        ),
        pytest.param(
            f"c = Conv(x, w) r = Relu(c) p = {POOL}(r) y = Clip(p, minus, six)",
            ["c = Conv(x)", "p = MaxPool(c)", "y = Clip(p)"],
            id="clip-after-pool-after-relu-are-one",
        ),
        pytest.param(
            f"c = Conv(x, w) r = Clip(c, minus, one) p = {POOL}(r) y = Conv(p, v)",
            ["c = Conv(x)", "p = MaxPool(c)", "r = Clip(p)", "y = Conv(r)"],
            id="a-clip-not-from-zero-leaves-its-shifts-in-the-weights",
        ),
        pytest.param(
            "a = Conv(x, w) r = Relu(a) b = Conv(x, v) q = Clip(b, lo, one)"
            f"k = Concat<axis=1>(r, q) y = {POOL}(k)",
            [
                *("a = Conv(x)", "y = MaxPool(a)", "r = Relu(y)"),
                *("b = Conv(x)", "y.2 = MaxPool(b)", "q = Clip(y.2)", "k = Concat(r, q)"),
            ],
            id="into-the-branches-of-a-concat",
        ),
    ],
)
def test_a_pool_moves_before_the_activation_that_it_alone_reads(body: str, expected: list[str]) -> None:
    assert lines(body, used(body)) == expected


@pytest.mark.parametrize(
    ("body", "pool_reads"),
    [
        pytest.param(f"r = Relu(x) p = {POOL}(r) q = {POOL}(r) y = Add(p, q)", "r", id="two-pools"),
        pytest.param(
            "r = Relu(x) p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(r) y = Add(p, r)",
            "r",
            id="a-second-reader",
        ),
        pytest.param(f"a = Relu(x) b = Conv(x, w) s = Add(a, b) y = {POOL}(s)", "s", id="a-sum"),
        pytest.param(f"r = Relu(x) c = Conv(r, w) y = {POOL}(c)", "c", id="a-convolution"),
        pytest.param(
            f"r = Relu(x) c = Conv(x, w) k = Concat<axis=1>(r, c) y = {POOL}(k)",
            "k",
            id="a-branch-without-activation",
        ),
        pytest.param(f"r = Relu(x) k = Concat<axis=1>(r, r) y = {POOL}(k)", "k", id="one-activation-twice"),
        pytest.param(
            f"a = Relu(x) b = LeakyRelu(x) k = Concat<axis=2>(a, b) y = {POOL}(k)",
            "k",
            id="windows-across-a-concat",
        ),
        pytest.param(
            "r = Relu(x) y = MaxPool<kernel_shape=[2,2], pads=[1,1,1,1]>(r)", "r", id="a-pool-that-makes-more"
        ),
        pytest.param(f"r = PRelu(x, falling) y = {POOL}(r)", "r", id="a-falling-slope"),
        pytest.param(f"r = PRelu(x, placed) y = {POOL}(r)", "r", id="slopes-that-differ-in-a-window"),
        pytest.param(
            "r = PRelu(x, slopes) y = ReduceMax(r, channels)", "r", id="slopes-that-differ-across-channels"
        ),
        pytest.param(f"r = Relu(x) m = Mul(r, signs) y = {POOL}(m)", "m", id="a-scale-that-turns-over"),
    ],
)
def test_a_pool_stays_where_moving_it_would_not_be_exact_or_take_a_second_neuron(
    body: str, pool_reads: str
) -> None:
    weights = used(
        body,
        falling=torch.tensor([0.5, -0.5, 0.5, 0.5]).reshape(4, 1, 1),
        placed=weight(1, 8, 1).abs(),
        slopes=torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(4, 1, 1),
        signs=torch.tensor([1.0, -1.0, 1.0, 1.0]).reshape(4, 1, 1),
        channels=torch.tensor([1]),
    )
    pools = [line for line in lines(body, weights) if "MaxPool" in line or "ReduceMax" in line]
    assert pools
    assert all(line.endswith(f"({pool_reads})") for line in pools)


def test_parameters_of_channels_lose_the_dimensions_that_the_pool_takes_away() -> None:
    """PRelu over [N, C, H, W] and its slopes [C, 1, 1] become PRelu over [N, C, H] and [C, 1]."""
    body = """
        c = Conv(x, w) r = PRelu(c, slopes) n = BatchNormalization(r, s, b, m, v)
        y = ReduceMax<keepdims=0>(n, last)
    """
    weights = batchnorm(4) | {
        "w": weight(4, 4, 1, 1),
        "slopes": weight(4, 1, 1).abs(),
        "last": torch.tensor([3]),
    }
    weights["s"] = weights["s"].abs()
    model = parse(body, weights, inputs="float[N,4,8,8] x", outputs="float[N,C,H] y")
    graph = judged(model)
    assert [n.op.kind for n in graph] == ["Input", "Conv", "ReduceMax", "PRelu", "Affine"]
    assert [n.shape[1:] for n in graph][2:] == [(4, 8)] * 3


def test_a_concat_loses_them_too() -> None:
    body = "a = Relu(x) b = LeakyRelu(x) k = Concat<axis=3>(a, b) y = ReduceMax<keepdims=0>(k, rows)"
    model = parse(body, {"rows": torch.tensor([2])}, inputs="float[N,4,8,8] x", outputs="float[N,C,W] y")
    graph = judged(model)
    assert [n.op.kind for n in graph][-1] == "Concat"
    assert graph.outputs[0].op.settings() == {"dim": 2}


def test_a_pool_in_one_and_in_three_dimensions() -> None:
    """1-d with dilation, 3-d with overlap; both with their padding at one end."""
    body = "r = Relu(x) y = MaxPool<kernel_shape=[3], dilations=[2], pads=[1,0]>(r)"
    assert lines(body, {}, "float[N,4,9] x") == ["y = MaxPool(x)", "r = Relu(y)"]
    body = "r = Relu(x) y = MaxPool<kernel_shape=[2,3,2], strides=[1,2,1], pads=[0,1,0,0,1,1]>(r)"
    model = parse(body, {}, inputs="float[N,2,4,6,5] x", outputs="float[N,C,D,H,W] y")
    assert [n.op.kind for n in judged(model)] == ["Input", "MaxPool", "Relu"]


BODY = f"""
    c = Conv(x, w) r = Relu(c) p = {POOL}(r) d = Conv(p, v) q = Relu(d) m = MaxPool<kernel_shape=[2,2]>(q)
    e = Conv(m, w) y = Relu(e)
"""


def spiking() -> Graph:
    model = parse(BODY, used(BODY), inputs="float[N,4,8,8] x", outputs="float[N,C,H,W] y")
    for node in model.graph.node:
        node.name = node.output[0]
    images = weight(8, 4, 8, 8, seed=4, scale=1.0)
    return Maximum()(Spike()(apply(load(model))[0]), lambda: [images])


def test_the_first_pool_is_computed_once_and_the_second_telescopes() -> None:
    plan = Plan.of(spiking())
    assert [n.name for n in plan.static] == ["x", "c", "p"]
    assert [n.name for n in plan.cumulative] == ["m"]
    code = source(RateModel(spiking()))
    once, steps = code.partition("def advance(")[::2]
    assert "        p = F.max_pool2d(c, " in once
    assert steps.count("max_pool2d") == 1
    assert 'state["m"], m = telescope(' in steps
    assert [size_of(n.shape) for n in RateModel(spiking()).neurons] == [4 * 5 * 4, 4 * 4 * 3, 4 * 4 * 3]


def test_the_report_says_which_pools_moved() -> None:
    model = ROOT / "converter" / "models" / "digits.onnx"
    data = lambda graph: open_source("digits", expected=graph.inputs[0].shape)  # noqa: E731
    settings = Settings(timesteps=(1,), samples=20, calibration_samples=20)
    said = convert(model, data, [("percentile", Percentile())], settings).report.pooling
    assert said == (
        "MaxPool '/MaxPool_1': the change of the maximum of the summed inputs, lossless",
        "MaxPool '/MaxPool': the change of the maximum of the summed inputs, lossless",
        "MaxPool '/MaxPool_2': moved before the neuron '/Relu_5', exact: "
        "the change of the maximum of the summed inputs, lossless",
    )
