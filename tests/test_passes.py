"""Passes: text model in, expected operators out, the same outputs as onnxruntime; idempotent."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from onnx import ModelProto
from torch import Tensor

from converter.errors import ModelError, Unsupported
from converter.graph import Graph
from converter.importer import load
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.negative_slope import NegativeSlope
from converter.passes import PIPELINE, apply
from converter.passes.spike import Spike
from tests.models import batchnorm, judge, parse, weight, worst


def kinds(graph: Graph) -> dict[str, int]:
    """How many of each operator, inputs left out."""
    counted = Counter(n.op.kind for n in graph)
    del counted["Input"]
    return dict(counted)


def folded(model: ModelProto) -> Graph:
    """The model after the pipeline, checked against onnxruntime at batch 1 and 2."""
    graph, _ = apply(load(model))
    for batch in (1, 2):
        inputs = [weight(batch, *node.shape[1:], seed=9, scale=1.0) for node in graph.inputs]
        for ours, theirs in zip(graph.run(*inputs), judge(model, *inputs), strict=True):
            assert worst(ours, theirs) < 1e-5
    return graph


BN = "BatchNormalization(%s, s, b, m, v)"
CONV = "Conv<pads=[1,1,1,1]>(%s, w)"


@pytest.mark.parametrize(
    ("body", "weights", "expected"),
    [
        pytest.param(
            f"c = {CONV % 'x'} y = {BN % 'c'}",
            {"w": weight(4, 3, 3, 3)} | batchnorm(4),
            {"Conv": 1},
            id="after-conv",
        ),
        pytest.param(
            "c = Conv<group=3>(x, w) y = BatchNormalization<epsilon=0.1>(c, s, b, m, v)",
            {"w": weight(6, 1, 3, 3)} | batchnorm(6),
            {"Conv": 1},
            id="after-depthwise-with-its-own-epsilon",
        ),
        pytest.param(
            f"c = ConvTranspose<group=1>(x, w) y = {BN % 'c'}",
            {"w": weight(3, 4, 2, 2)} | batchnorm(4),
            {"ConvTranspose": 1},
            id="after-transposed",
        ),
        pytest.param(
            f"k = Concat<axis=1>(x, x) c = ConvTranspose<group=2>(k, w) y = {BN % 'c'}",
            {"w": weight(6, 2, 2, 2)} | batchnorm(4),
            {"Concat": 1, "ConvTranspose": 1},
            id="after-transposed-in-groups",
        ),
        pytest.param(
            f"p = Relu(x) b3 = {BN % 'p'} y = Conv(b3, w)",
            {"w": weight(4, 3, 3, 3)} | batchnorm(3),
            {"Relu": 1, "Conv": 1},
            id="before-conv-without-padding",
        ),
        pytest.param(
            f"p = Relu(x) b3 = {BN % 'p'} y = {CONV % 'b3'}",
            {"w": weight(4, 3, 3, 3)} | batchnorm(3),
            {"Relu": 1, "Conv": 1, "Affine": 1},
            id="before-padded-conv-leaves-a-map",
        ),
        pytest.param(
            f"p = MaxPool<kernel_shape=[2,2]>(x) b3 = {BN % 'p'} y = Conv(b3, w)",
            {"w": weight(4, 3, 3, 3)} | batchnorm(3),
            {"MaxPool": 1, "Conv": 1},
            id="after-max-pool-with-a-negative-scale",
        ),
        pytest.param(
            f"c = Concat<axis=1>(x, x) b6 = {BN % 'c'} r = Relu(b6) y = Conv(r, w)",
            {"w": weight(4, 6, 3, 3)} | batchnorm(6),
            {"Concat": 1, "Affine": 1, "Relu": 1, "Conv": 1},
            id="after-concat-before-relu-stays-a-scale",
        ),
        pytest.param(
            f"b3 = {BN % 'x'} y = Conv(b3, w)",
            {"w": weight(4, 3, 3, 3)} | batchnorm(3),
            {"Conv": 1},
            id="on-the-input",
        ),
    ],
)
def test_batch_normalisation_goes_into_its_neighbour(
    body: str, weights: dict[str, Tensor], expected: dict[str, int]
) -> None:
    assert kinds(folded(parse(body, weights, outputs="float[N,C,H,W] y"))) == expected


def test_after_a_gemm_batch_normalisation_goes_into_its_rows() -> None:
    model = parse(
        f"g = Gemm<transB=1, alpha=0.5>(x, w, c) y = {BN % 'g'}",
        {"w": weight(4, 5), "c": weight(4)} | batchnorm(4),
        inputs="float[N,5] x",
    )
    assert kinds(folded(model)) == {"Linear": 1}


def test_constants_added_and_multiplied_go_into_the_weights() -> None:
    weights = {
        "w": weight(4, 3, 3, 3),
        "k": torch.tensor(127.0),
        "d": torch.tensor(128.0),
        "a": weight(4, 1, 1),
        "f": weight(1, 4, 1, 1),
    }
    model = parse(
        "s = Sub(x, k) n = Div(s, d) c = Conv(n, w) p = Add(c, a) y = Mul(p, f)",
        weights,
        outputs="float[N,C,H,W] y",
    )
    assert kinds(folded(model)) == {"Conv": 1}


def test_a_bias_as_cntk_writes_it_goes_into_the_matrix() -> None:
    model = parse(
        "r = Reshape(x, s) m = MatMul(r, w) y = Add(m, b)",
        {"s": torch.tensor([1, 192]), "w": weight(192, 10), "b": weight(1, 10)},
        inputs="float[1,3,8,8] x",
    )
    graph, _ = apply(load(model))
    assert kinds(graph) == {"Reshape": 1, "Linear": 1}
    assert graph.batch is None
    x = weight(2, 3, 8, 8, seed=3)
    each = torch.cat([judge(model, x[i : i + 1])[0] for i in range(2)])
    assert worst(graph.run(x)[0], each) < 1e-5


def test_a_shift_of_a_sum_goes_into_the_addend_that_has_a_bias() -> None:
    body = "c = Conv<pads=[1,1,1,1]>(x, w) s = Add(x, c) y = Add(s, k)"
    model = parse(body, {"w": weight(3, 3, 3, 3), "k": weight(3, 1, 1)}, outputs="float[N,C,H,W] y")
    assert kinds(folded(model)) == {"Conv": 1, "Add": 1}
    spatial = parse(body, {"w": weight(3, 3, 3, 3), "k": weight(3, 8, 8)}, outputs="float[N,C,H,W] y")
    assert kinds(folded(spatial)) == {"Conv": 1, "Add": 1, "Affine": 1}


def test_a_shift_after_a_max_pool_goes_before_it_where_a_bias_takes_it() -> None:
    body = "c = Conv(x, w) p = MaxPool<kernel_shape=[2,2]>(c) y = Add(p, k)"
    channel = parse(body, {"w": weight(4, 3, 3, 3), "k": weight(4, 1, 1)}, outputs="float[N,C,H,W] y")
    assert kinds(folded(channel)) == {"Conv": 1, "MaxPool": 1}
    place = parse(body, {"w": weight(4, 3, 3, 3), "k": weight(4, 5, 5)}, outputs="float[N,C,H,W] y")
    assert kinds(folded(place)) == {"Conv": 1, "MaxPool": 1, "Affine": 1}
    body = "c = Conv(x, w) a = Add(x, c) g = GlobalMaxPool(a) y = Add(g, k)"
    added = parse(body, {"w": weight(3, 3, 1, 1), "k": weight(3, 1, 1)}, outputs="float[N,C,H,W] y")
    assert kinds(folded(added)) == {"Conv": 1, "Add": 1, "ReduceMax": 1}


def test_a_shift_by_place_is_folded_also_where_the_batch_is_not_in_front() -> None:
    """As transformers lay out their tokens: [token, batch, feature]; each token has its own shift."""
    model = parse(
        "t = Transpose<perm=[1,0,2]>(x) s = Add(t, k) m = MatMul(s, w) y = Transpose<perm=[1,0,2]>(m)",
        {"k": weight(5, 1, 6), "w": weight(6, 4, seed=1)},
        inputs="float[N,5,6] x",
        outputs="float[N,A,B] y",
    )
    assert kinds(folded(model)) == {"Transpose": 2, "Linear": 1, "Affine": 1}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("r = Relu(x) y = Clip(r, lo, six)", {"Clip": 1}),
        ("c = Clip(x, lo, six) r = Relu(c) y = Clip(r, lo, three)", {"Clip": 1}),
        ("r = Relu(x) y = Relu(r)", {"Relu": 1}),
        ("y = Clip(x, lo)", {"Relu": 1}),
        ("y = Clip(x, minus, three)", {"Affine": 2, "Clip": 1}),
        ("y = Clip(x, , three)", {"Affine": 2, "Relu": 1}),
        ("y = HardSigmoid(x)", {"Affine": 1, "Clip": 1}),
        ("c = Clip(x, minus, three) y = Clip(c, minus, six)", {"Affine": 2, "Clip": 1}),
        ("y = Clip(x, lo, minus)", {"Affine": 2, "Clip": 1}),
    ],
)
def test_chains_of_clips_become_one_that_starts_at_zero(body: str, expected: dict[str, int]) -> None:
    numbers = {"lo": 0.0, "six": 6.0, "three": 3.0, "minus": -1.0}
    weights = {name: torch.tensor(value) for name, value in numbers.items() if name in body}
    assert kinds(folded(parse(body, weights, inputs="float[N,20] x"))) == expected


def test_folding_into_a_shared_node_leaves_its_other_reader_alone() -> None:
    body = "c = Conv(x, w) a = Mul(c, f) y = Concat<axis=1>(a, c)"
    weights = {"w": weight(4, 3, 3, 3), "f": torch.tensor(3.0)}
    graph = folded(parse(body, weights, outputs="float[N,C,H,W] y"))
    assert kinds(graph) == {"Conv": 2, "Concat": 1}
    assert [n.name for n in graph] == ["x", "c", "c.2", "y"]


def test_layouts_that_change_nothing_go() -> None:
    body = """
        a = Transpose<perm=[0,2,3,1]>(x) b = Transpose<perm=[0,3,1,2]>(a)
        c = Reshape(b, s) d = Reshape(c, t) e = Identity(d) y = Mul(e, one)
    """
    weights = {"s": torch.tensor([0, -1]), "t": torch.tensor([-1, 3, 64]), "one": torch.tensor(1.0)}
    assert kinds(folded(parse(body, weights, outputs="float[N,A,B] y"))) == {"Reshape": 1}


def test_every_pass_is_idempotent_and_verified() -> None:
    body = f"b3 = {BN % 'x'} c = {CONV % 'b3'} r = Relu(c) k = Clip(r, lo, six) y = Concat<axis=1>(k, c)"
    weights = {"w": weight(4, 3, 3, 3), "lo": torch.tensor(0.0), "six": torch.tensor(6.0)} | batchnorm(3)
    graph, _ = apply(load(parse(body, weights, outputs="float[N,C,H,W] y")))
    for once in PIPELINE:
        assert once(graph) is graph, once.__name__


def test_the_driver_names_the_pass_that_broke_the_graph() -> None:
    graph = load(parse("y = Relu(x)", inputs="float[N,4] x"))

    def lose(graph: Graph) -> Graph:
        from dataclasses import replace

        return graph.map(lambda n: replace(n, shape=(*n.shape[:1], 9)) if n.name == "y" else n)

    with pytest.raises(ModelError, match=r"after the pass lose: .* is said to be Nx9"):
        apply(graph, (lose,))


def test_activations_become_neurons_with_their_ceiling_and_slope() -> None:
    body = "a = Relu(x) b = Clip(a, lo, six) c = LeakyRelu<alpha=0.25>(b) y = PRelu(c, slope)"
    weights = {"lo": torch.tensor(0.0), "six": torch.tensor(6.0), "slope": torch.tensor([0.1, 0.2, 0.3, 0.4])}
    graph, _ = apply(load(parse(body, weights, inputs="float[N,4] x")))
    spiking = Spike(IntegrateFire(initial=0.25))(graph)
    first, second, third = (n.op for n in spiking if n.op.kind != "Input")
    assert isinstance(first, IntegrateFire)
    assert (first.ceiling, first.initial) == (6.0, 0.25)
    assert isinstance(second, NegativeSlope)
    assert isinstance(third, NegativeSlope)
    x = weight(3, 4, scale=5.0)
    assert torch.equal(spiking.run(x)[0], graph.run(x)[0])


def test_what_cannot_spike_is_refused_all_at_once_and_kept_on_request() -> None:
    body = "a = Relu(x) b = Sigmoid(a) c = Tanh(b) d = Relu(c) y = Softmax(d)"
    graph, _ = apply(load(parse(body, inputs="float[N,4] x")))
    with pytest.raises(Unsupported) as caught:
        Spike()(graph)
    assert "net has 2 nodes that cannot be converted" in str(caught.value)
    assert [where for where, _ in caught.value.refusals] == [
        "Sigmoid 'b' (input Nx4)",
        "Tanh 'c' (input Nx4)",
    ]
    assert "--keep-analog Sigmoid --keep-analog Tanh" in caught.value.hint
    assert kinds(Spike(keep_analog=("Sigmoid", "Tanh"))(graph)) == {
        "IntegrateFire": 2,
        "Sigmoid": 1,
        "Tanh": 1,
        "Softmax": 1,
    }


def test_a_network_without_an_activation_is_not_passed_off_as_converted() -> None:
    graph = load(parse("y = Gemm(x, w)", {"w": weight(4, 2)}, inputs="float[N,4] x"))
    with pytest.raises(Unsupported, match="net has nothing to convert"):
        Spike()(graph)
