"""RateModel: the mean of the spikes becomes the activation; pooling loses nothing; state is explicit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibrators.maximum import Maximum
from converter.cumulative import telescope, telescope_mean
from converter.encodings.current import Current
from converter.encodings.poisson import Poisson
from converter.errors import ConversionError, UsageError
from converter.graph import Graph, Input, Node
from converter.importer import load
from converter.neurons import Neuron
from converter.neurons.integrate_fire import IntegrateFire
from converter.ops import MaxPool
from converter.passes import apply
from converter.passes.spike import Spike
from converter.plan import Plan
from converter.rate import RateModel
from converter.spiking import State
from tests.models import batchnorm, parse, weight, worst

BODY = """
    c0 = Conv<pads=[1,1,1,1]>(x, w) n0 = BatchNormalization(c0, s, b, m, v) r0 = Relu(n0)
    p0 = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r0)
    c1 = Conv<pads=[1,1,1,1]>(p0, w1) d1 = Conv<strides=[2,2], pads=[1,1,1,1]>(r0, w1)
    a1 = Add(c1, d1) r1 = Relu(a1)
    k1 = Concat<axis=1>(r1, p0) c2 = Conv<strides=[2,2]>(k1, w2) r2 = Clip(c2, lo, hi)
    g = GlobalAveragePool(r2) f = Flatten(g) l = Gemm(f, w3, b3) y = Softmax(l)
"""
WEIGHTS = {
    "w": weight(4, 3, 3, 3, scale=0.3),
    "w1": weight(4, 4, 3, 3, seed=1, scale=0.2),
    "w2": weight(6, 8, 2, 2, seed=2, scale=0.3),
    "w3": weight(6, 5, seed=3, scale=1.0),
    "b3": weight(5, seed=4),
    "lo": torch.tensor(0.0),
    "hi": torch.tensor(6.0),
} | batchnorm(4, seed=5)


def images(batch: int = 6, seed: int = 20) -> Tensor:
    return weight(batch, 3, 8, 8, seed=seed, scale=1.0)


@pytest.fixture(scope="module")
def graph() -> Graph:
    plain, _ = apply(load(parse(BODY, WEIGHTS)))
    return Maximum()(Spike()(plain), lambda: [images()])


def test_the_parts_a_node_plays(graph: Graph) -> None:
    plan = Plan.of(graph)
    assert [n.name for n in plan.static] == ["x", "c0"]
    assert [n.name for n in plan.step] == [n.name for n in graph if n.name not in ("x", "c0", "y")]
    assert [n.name for n in plan.cumulative] == ["p0"]
    assert [n.name for n in plan.head] == ["y"]
    assert [n.name for n in plan.frontier] == ["l"]
    streaming = Plan.of(graph, constant_input=False)
    assert [n.name for n in streaming.static] == []
    assert [n.name for n in streaming.step][:2] == ["x", "c0"]


def test_the_read_out_approaches_the_ann(graph: Graph) -> None:
    x = images()
    (ann,) = graph.run(x)
    curve = RateModel(graph)(x, 1024, at=(16, 128, 1024))
    assert isinstance(curve, Tensor)
    assert curve.shape == (3, 6, 5)
    errors = [worst(step, ann) for step in curve]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_one_run_is_the_whole_curve(graph: Graph) -> None:
    model, x = RateModel(graph, plain=True), images(2)
    curve = model(x, 7)
    state: State | None = None
    for readout in curve:
        (stepped,), state = model.step(x, state)
        assert torch.equal(stepped, readout)
    assert torch.equal(model(x, 7, at=(3, 7)), torch.stack([curve[2], curve[6]]))


def test_samples_do_not_see_each_other_and_nothing_is_left_over(graph: Graph) -> None:
    model, x = RateModel(graph), images(4)
    whole = model(x, 20)
    assert torch.equal(model(x, 20), whole)
    for i in range(4):
        assert torch.allclose(model(x[i : i + 1], 20), whole[:, i : i + 1], atol=1e-5)


def test_spikes_are_binary_and_pooled_spikes_too(graph: Graph) -> None:
    heard: dict[str, list[Tensor]] = {}
    RateModel(graph)(
        images(), 32, listen=lambda node, value: heard.setdefault(node.name, []).append(value.clone())
    )
    threshold = graph["r0"].op.tensors()["threshold"]
    for name in ("r0", "p0"):
        spikes = torch.stack(heard[name]) / threshold
        assert torch.allclose(spikes, spikes.round(), atol=1e-4)
        assert set(spikes.round().unique().tolist()) == {0.0, 1.0}


def test_memory_does_not_grow_with_time(graph: Graph) -> None:
    model, x = RateModel(graph), images(2)

    def held(state: State) -> int:
        return sum(t.numel() for tensors in state.nodes.values() for t in tensors) + sum(
            t.numel() for t in state.sums
        )

    currents, state, sizes = model.currents(x), State(), []
    for _ in range(40):
        _, state = model.advance(currents, state)
        sizes.append(held(state))
    assert len(set(sizes)) == 1


def test_parameters_are_buffers_and_move_and_load(graph: Graph) -> None:
    model, x = RateModel(graph), images(2)
    names = set(model.state_dict())
    assert {"c0.weight", "c0.bias", "r0.threshold", "l.weight"} <= names
    want = model(x, 5)
    other = RateModel(graph)
    doubled = {k: v * 2 if k == "l.weight" else v for k, v in model.state_dict().items()}
    other.load_state_dict(doubled)
    assert not torch.equal(other(x, 5), want)
    assert torch.equal(RateModel(graph)(x, 5), want), "a module never changes the graph it was made from"
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x, 5), want)
    half = other.double()
    assert half(x.double(), 5).dtype == torch.float64


def test_a_model_without_thresholds_is_refused() -> None:
    plain, _ = apply(load(parse("y = Relu(x)", inputs="float[N,4] x")))
    with pytest.raises(ConversionError, match=r"IntegrateFire 'y' \(input Nx4\) has no threshold yet"):
        RateModel(Spike()(plain))


def test_no_steps_is_refused(graph: Graph) -> None:
    with pytest.raises(UsageError, match="timesteps is 0"):
        RateModel(graph)(images(1), 0)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 1),
    dilation=st.integers(1, 2),
    ceil=st.booleans(),
    signed=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_pooled_sums_are_the_pool_of_the_sums_at_every_step(
    kernel: int, stride: int, padding: int, dilation: int, ceil: bool, signed: bool, seed: int
) -> None:
    pad = min(padding, kernel // 2)
    pool = MaxPool((kernel,) * 2, (stride,) * 2, (pad,) * 2, (dilation,) * 2, ceil)
    rng = torch.Generator().manual_seed(seed)
    threshold = torch.tensor([0.5, 2.0]).reshape(2, 1, 1)
    low = -1 if signed else 0
    spikes = torch.randint(low, 2, (12, 1, 2, 7, 7), generator=rng) * threshold
    state, pooled = None, torch.zeros(())
    for t, now in enumerate(spikes, start=1):
        state, out = telescope(pool, state, now)
        pooled = pooled + out
        assert torch.allclose(pooled, pool(spikes[:t].sum(0)), atol=1e-5)
        assert set((out / threshold).unique().tolist()) <= ({-1.0, 0.0, 1.0} if signed else {0.0, 1.0})


def test_pooling_each_step_by_itself_would_be_wrong() -> None:
    """Two neurons that take turns: either fires at half rate, their naive maximum at every step."""
    pool = MaxPool((1, 2), (1, 2), (0, 0), (1, 1))
    turns = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(4, 1).reshape(8, 1, 1, 1, 2)
    state, total = None, 0.0
    for now in turns:
        state, out = telescope(pool, state, now)
        total += float(out)
    assert total == 4
    assert sum(float(pool(now)) for now in turns) == 8


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=20))
def test_any_function_of_the_mean_is_exact_at_every_step(values: list[float]) -> None:
    state, total = None, 0.0
    for t, value in enumerate(values, start=1):
        state, out = telescope_mean(torch.sigmoid, state, t, torch.tensor(value, dtype=torch.float64))
        total += float(out)
        mean = torch.tensor(sum(values[:t]) / t, dtype=torch.float64)
        assert total / t == pytest.approx(float(torch.sigmoid(mean)), abs=1e-9)


def test_analog_ops_in_the_middle_converge_too() -> None:
    body = (
        "a = Gemm(x, w) r = Relu(a) s = Sigmoid(r) t = Mul(r, s) g = Gemm(t, w1) q = Relu(g) y = Gemm(q, w2)"
    )
    weights = {"w": weight(6, 8), "w1": weight(8, 8, seed=1), "w2": weight(8, 3, seed=2)}
    plain, _ = apply(load(parse(body, weights, inputs="float[N,6] x")))
    x = weight(5, 6, seed=7, scale=1.0)
    graph = Maximum()(Spike(keep_analog=("Sigmoid", "Mul"))(plain), lambda: [x])
    curve = RateModel(graph)(x, 800, at=(20, 800))
    assert worst(curve[1], graph.run(x)[0]) < 0.02 < worst(curve[0], graph.run(x)[0]) + 0.02


def test_the_mean_of_poisson_input_is_the_image() -> None:
    x = torch.tensor([[-1.0, -0.25, 0.0, 0.5, 1.0]])
    draw = torch.Generator().manual_seed(0)
    steps = torch.stack([Poisson(peak=1.0).encode(x, draw) for _ in range(4000)])
    assert set(steps.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert torch.allclose(steps.mean(0), x, atol=4 * 0.5 / 4000**0.5)
    assert torch.equal(Current().encode(x, draw), x)


def test_poisson_input_is_drawn_anew_at_each_step_and_repeats_with_its_seed(graph: Graph) -> None:
    x = images(2)
    peak = float(x.abs().max())
    one, same, other = (RateModel(graph, Poisson(peak), seed=s)(x, 6) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    long = RateModel(graph, Poisson(peak))(x, 3000, at=(30, 3000))
    (ann,) = graph.run(x)
    assert worst(long[1], ann) < worst(long[0], ann)


def test_several_outputs_and_a_head_that_reads_several_layers() -> None:
    body = "a = Gemm(x, w) r = Relu(a) b = Gemm(r, w1) q = Relu(b) s = Sigmoid(b) y = Gemm(q, w2)"
    weights = {"w": weight(6, 8), "w1": weight(8, 4, seed=1), "w2": weight(4, 3, seed=2)}
    model = parse(body, weights, inputs="float[N,6] x", outputs="float[N,A] y, float[N,B] s")
    x = weight(5, 6, seed=7, scale=1.0)
    graph = Maximum()(Spike()(apply(load(model))[0]), lambda: [x])
    y, s = RateModel(graph)(x, 600)
    assert (y.shape, s.shape) == ((600, 5, 3), (600, 5, 4))
    for mine, ann in zip((y[-1], s[-1]), graph.run(x), strict=True):
        assert worst(mine, ann) < 0.02


def test_node_names_become_identifiers() -> None:
    x = Node(Input(), (), "1x", (1, 2))
    nodes = [x]
    for name in ("/layer1/conv.0", "class", "forward", "graph", "/layer1/conv_0", "数"):
        nodes.append(Node.of(IntegrateFire(torch.tensor(1.0)), nodes[-1], name=name))
    model = RateModel(Graph((x,), (nodes[-1],)))
    assert list(model.names.values()) == [
        "n1x", "layer1_conv_0", "class_2", "forward_2", "graph_2", "layer1_conv_0_2", "node",
    ]  # fmt: skip
    assert all(isinstance(n.op, Neuron) for n in model.neurons)


def test_a_read_out_after_the_last_step_is_refused(graph: Graph) -> None:
    with pytest.raises(UsageError, match=r"none of the steps \[9\] is among the 4"):
        RateModel(graph)(images(1), 4, at=(9,))


def test_a_delayed_read_out_is_the_mean_of_the_steps_after_the_delay(graph: Graph) -> None:
    """T counts all steps: those of the delay are run, and what they say is the answer of that step alone."""
    x = images(2)
    bare = Graph(graph.inputs, (graph["l"],))
    heard: list[Tensor] = []
    RateModel(bare)(x, 7, listen=lambda n, v: heard.append(v.clone()) if n.name == "l" else None)
    curve = RateModel(bare, delay=3)(x, 7)
    assert isinstance(curve, Tensor)
    for t in (1, 2, 3, 4):
        assert torch.equal(curve[t - 1], heard[t - 1])
    for t in (5, 6, 7):
        assert torch.allclose(curve[t - 1], torch.stack(heard[3:t]).mean(0), atol=1e-6)
    with_head = RateModel(graph, delay=3)(x, 7)
    assert isinstance(with_head, Tensor)
    assert torch.equal(with_head[6], torch.softmax(curve[6], 1))
    assert RateModel(bare, delay=3).latency(7) == 7


def test_there_is_no_answer_within_the_delay(graph: Graph) -> None:
    with pytest.raises(
        UsageError, match="the read-out begins after step 4, so there is no answer after 2, 4"
    ):
        next(RateModel(graph, delay=4).answers(images(1), [8, 4, 2], lambda: lambda node, value: None))
    with pytest.raises(UsageError, match="the delay of the read-out is -1 steps"):
        RateModel(graph, delay=-1)
