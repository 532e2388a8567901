"""First spikes: at most one a neuron; closed form, steps and events agree; continuous time is the ANN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.presets import PRESETS
from calibrators.auto import Auto
from calibrators.least_squares import LeastSquares, least_squares
from calibrators.maximum import Maximum
from calibrators.statistics import Histogram
from converter.encodings.poisson import Poisson
from converter.errors import Unsupported, UsageError
from converter.events import arrive, simulate
from converter.first_spike import FirstSpikeModel, StepByStep, spike_of
from converter.graph import BATCH, Graph, Input, Node, size_of
from converter.importer import load
from converter.kernels import KERNELS, decode, encode, kernel_thresholds, quantise
from converter.metrics import measure
from converter.neurons import Neuron
from converter.neurons.first_spike import FirstSpike
from converter.operations import fan_out_of
from converter.ops import Conv, ConvTranspose, Linear
from converter.passes import apply, pipeline_for
from converter.passes.spike import Spike
from converter.pipelined import PipelinedModel
from converter.schedules import model_of, words
from converter.unroll import run_of, unroll
from tests.models import parse, weight
from tests.random_networks import network as random_network
from tests.test_fuzz import GENES, images

DISCRETE = tuple(FirstSpike(form=form, coder=coder) for form in KERNELS for coder in ("round", "floor"))
CONTINUOUS = FirstSpike(form="linear", continuous=True)

BRANCHES = """
    c0 = Conv<pads=[1,1,1,1]>(x, w) r0 = Relu(c0)
    p0 = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r0)
    c1 = Conv<pads=[1,1,1,1]>(p0, w1) n1 = BatchNormalization(c1, s, b, m, v) r1 = Clip(n1, zero, six)
    c2 = Conv<pads=[1,1,1,1]>(r1, w1) a1 = Add(c2, p0) r2 = Relu(a1) k1 = Concat<axis=1>(r2, p0)
    c3 = Conv<group=2, strides=[2,2]>(k1, w2) r3 = Relu(c3) q = AveragePool<kernel_shape=[1,1]>(r3)
    g = GlobalAveragePool(q) f = Flatten(g) y = Gemm<transB=1>(f, w3, b3)
"""
WEIGHTS = {
    "w": weight(4, 3, 3, 3),
    "w1": weight(4, 4, 3, 3, seed=1, scale=0.3),
    "w2": weight(6, 4, 2, 2, seed=2),
    "w3": weight(5, 6, seed=3, scale=1.0),
    "b3": weight(5, seed=4),
    "s": torch.tensor([1.0, -0.5, 2.0, 1.0]),
    "b": weight(4, seed=5),
    "m": weight(4, seed=6),
    "v": weight(4, seed=7).abs() + 0.1,
    "zero": torch.tensor(0.0),
    "six": torch.tensor(1.5),
}


def spiking(body: str, weights: dict[str, Tensor], inputs: str, neuron: Neuron, **others: Any) -> Graph:
    """A first-spike network with thresholds from three random samples."""
    graph, _ = apply(load(parse(body, weights, inputs=inputs, **others)), pipeline_for(neuron))
    shape = [3, *graph.inputs[0].shape[1:]]
    return Maximum()(Spike(neuron)(graph), lambda: [weight(*shape, seed=9, scale=1.0)])


def branches(neuron: Neuron) -> FirstSpikeModel:
    graph = spiking(BRANCHES, WEIGHTS, "float[N,3,8,8] x", neuron)
    return FirstSpikeModel(graph).double()


IMAGES = weight(4, 3, 8, 8, seed=5, scale=1.0).double()


def spikes_once(model: FirstSpikeModel, x: Tensor, window: int) -> dict[str, Tensor]:
    """When each neuron spikes; what is asserted of every run: once in the window, or not at all."""
    _, times = model.spikes(x, window)
    assert times.keys() == {node.name for node in model.neurons}
    for node in model.neurons:
        at = times[node.name]
        assert at.numel() == len(x) * size_of(node.shape)  # one time for each neuron: it cannot spike twice
        assert bool(((at >= 0) & (at <= (1 if model.continuous else window))).all())
        fires = spike_of(node).fires(at, window)
        carried = spike_of(node).worth(at, window)
        assert torch.equal(carried != 0, fires)
    return times


# Kernels


def test_base_2_by_hand() -> None:
    """θ₀ = 8, τ = 1, T = 4: steps carry 8, 4, 2, 1. Thresholds: these over √2, or (floor) these."""
    z, theta = torch.tensor([20.0, 8.0, 5.7, 5.6, 3.0, 0.71, 0.7, 0.0, -3.0]), torch.tensor(8.0)
    assert encode(z, theta, 1, 4).tolist() == [0, 0, 0, 1, 1, 3, 4, 4, 4]
    assert quantise(z, theta, 1, 4).tolist() == [8, 8, 8, 4, 4, 1, 0, 0, 0]
    assert encode(z, theta, 1, 4, "floor").tolist() == [0, 0, 1, 1, 2, 4, 4, 4, 4]


def test_linear_by_hand() -> None:
    """θ₀ = 4, T = 4: steps carry 4, 3, 2, 1, nothing is 0; rounded to the nearest, halves up."""
    neuron = FirstSpike(torch.tensor(4.0), form="linear")
    current = torch.tensor([9.0, 3.5, 3.4, 2.0, 0.5, 0.4, -1.0])
    assert neuron.times(current, 4).tolist() == [0, 0, 1, 2, 3, 4, 4]
    assert neuron.window(current, 4).tolist() == [4, 4, 3, 2, 1, 0, 0]


def test_continuous_time_by_hand() -> None:
    """θ₀ = 2, a window of 1.5 · 2: 3 spikes at once, 1.5 halfway, 0 never; above 3 is clipped."""
    neuron = FirstSpike(torch.tensor([0.5, 2.0]), form="linear", continuous=True)
    current = torch.tensor([3.0, 1.5, 0.0, -1.0, 5.0])[:, None]
    assert neuron.times(current, 1)[:, 0].tolist() == [0, 0.5, 1, 1, 0]
    assert neuron.window(current, 1)[:, 0].tolist() == [3, 1.5, 0, 0, 3]
    ceiled = FirstSpike(torch.tensor(2.0), form="linear", continuous=True, ceiling=2.5)
    assert ceiled.window(torch.tensor([2.4, 2.6]), 1).tolist() == pytest.approx([2.4, 2.5])


@given(
    seed=st.integers(0, 1000),
    window=st.integers(1, 64),
    tau=st.sampled_from([0.7, 2.0, 4.0, 8.0]),
    scale=st.floats(1e-3, 1e3),
    neuron=st.sampled_from(DISCRETE),
    double=st.booleans(),
)
def test_a_spike_comes_at_the_first_step_that_reaches_it(
    seed: int, window: int, tau: float, scale: float, neuron: FirstSpike, double: bool
) -> None:
    """Found by quotient and comparison as by trying step after step, exact powers and ties included."""
    kind = torch.float64 if double else torch.float32
    falling = kernel_thresholds(neuron.form, window, tau, neuron.coder).to(kind)
    theta = torch.tensor(scale, dtype=kind)
    z = torch.cat([weight(50, seed=seed, scale=scale).to(kind), theta * falling])
    at = torch.full(z.shape, window)
    for step in reversed(range(window)):
        at = torch.where(z >= theta * falling[step], step, at)
    code = FirstSpike(
        theta, form=neuron.form, coder=neuron.coder, tau=tau if neuron.form == "base-2" else None
    )
    assert torch.equal(code.times(z, window), at)
    steps = torch.arange(window + 1)
    assert torch.equal(code.times(code.worth(steps, window), window), steps), "what is decoded encodes alike"


@given(values=st.lists(st.floats(0.03, 1.0), min_size=1, max_size=20), window=st.sampled_from([12, 24, 48]))
def test_how_far_a_code_errs(values: list[float], window: int) -> None:
    z, theta, tau = (
        torch.tensor(values, dtype=torch.float64),
        torch.tensor(1.0, dtype=torch.float64),
        window / 6,
    )
    near = quantise(z, theta, tau, window) / z
    assert bool(((near <= 2 ** (0.5 / tau) + 1e-12) & (near >= 2 ** (-0.5 / tau) - 1e-12)).all())
    floor = quantise(z, theta, tau, window, "floor") / z
    assert bool(((floor <= 1 + 1e-12) & (floor > 2 ** (-1 / tau) - 1e-12)).all())
    linear = FirstSpike(theta, form="linear").window(z, window)
    assert float((linear - z).abs().max()) <= 0.5 / window + 1e-12
    assert torch.equal(
        decode(encode(z, theta, tau, window), theta, tau, window), quantise(z, theta, tau, window)
    )


# Networks


@pytest.mark.parametrize("neuron", DISCRETE, ids=lambda n: f"{n.form}-{n.coder}")
def test_closed_form_steps_and_events_agree(neuron: FirstSpike) -> None:
    model = branches(neuron)
    for window in (2, 7, 16):
        times = spikes_once(model, IMAGES, window)
        trains = dict[str, Tensor]()
        fire = StepByStep(window)

        def remember(
            node: Node,
            currents: Tensor,
            fire: StepByStep = fire,
            trains: dict[str, Tensor] = trains,
        ) -> Tensor:
            trains[node.name] = fire(node, currents)
            return trains[node.name]

        (stepped,) = unroll(model.graph, IMAGES, window, remember)
        assert torch.allclose(stepped, model(IMAGES, window), rtol=0, atol=1e-12)
        for name, train in trains.items():
            fired = train != 0
            assert int(fired.sum(0).max()) <= 1, "a neuron spikes at most once"
            never = torch.full_like(times[name], window)
            assert torch.equal(torch.where(fired.any(0), fired.int().argmax(0), never), times[name])
        events = simulate(model, IMAGES, window)
        assert torch.allclose(events.readout[0], model(IMAGES, window), rtol=0, atol=1e-12)


def test_the_earliest_spike_of_a_window_wins() -> None:
    """What a max-pool passes on, step by step, is the first of its spikes, when that comes."""
    model, window = branches(FirstSpike()), 12
    times = spikes_once(model, IMAGES, window)["r0"].double()
    values = dict[str, Tensor]()

    def listen(node: Node, given: Any) -> None:
        values.setdefault(node.name, given[0])

    unroll(model.graph, IMAGES, window, StepByStep(window), listen)
    pooled = values["c1"]  # its input: [steps, batch, …]
    first = -torch.nn.functional.max_pool2d(-times, 3, 2, 1)
    fired = pooled.abs() > 1e-9
    assert int(fired.sum(0).max()) == 1
    assert torch.equal(torch.where(fired.any(0), fired.int().argmax(0), window), first.long())


@settings(max_examples=25, derandomize=True, deadline=None)
@given(genes=GENES, window=st.integers(2, 12), neuron=st.sampled_from(DISCRETE))
def test_random_networks_step_by_step(genes: list[int], window: int, neuron: FirstSpike) -> None:
    proto, shape = random_network(genes, dynamic=True)
    folded, _ = apply(load(proto), pipeline_for(neuron))
    assume(any(node.op.kind in ("Relu", "Clip") for node in folded))
    assume(not any(node.op.kind in ("LeakyRelu", "PRelu") for node in folded))
    x = images(None, shape)
    graph = Maximum()(Spike(neuron, ("Mul", "Div"))(folded), lambda: [x])
    model = FirstSpikeModel(graph).double()
    assume(all(node.shape[:1] == (BATCH,) for node in model.plan.step))  # what `unroll` needs
    nearest = [1.0]
    _, currents = model.window(x.double(), window)
    for node in model.neurons:  # near a tie, the order of a sum decides
        falling = kernel_thresholds(neuron.form, window, neuron.reach(window), neuron.coder)
        ratio = currents[node.name] / spike_of(node).calibrated()
        nearest.append(float((ratio.unsqueeze(-1) - falling).abs().min()))
    assume(min(nearest) > 1e-9)
    spikes_once(model, x.double(), window)
    stepped = unroll(model.graph, x.double(), window, StepByStep(window))
    answer = model(x.double(), window)
    for mine, want in zip(stepped, answer if isinstance(answer, tuple) else (answer,), strict=True):
        assert torch.allclose(mine, want, rtol=1e-9, atol=1e-9)


@settings(max_examples=25, derandomize=True, deadline=None)
@given(genes=GENES)
def test_in_continuous_time_random_networks_are_their_anns(genes: list[int]) -> None:
    """Inputs of either sign, negative weights and biases, pools, branches: the same numbers."""
    proto, shape = random_network(genes, dynamic=True)
    folded, _ = apply(load(proto), pipeline_for(CONTINUOUS))
    assume(any(node.op.kind in ("Relu", "Clip") for node in folded))
    assume(not any(node.op.kind in ("LeakyRelu", "PRelu") for node in folded))
    x = images(None, shape)
    model = FirstSpikeModel(Maximum()(Spike(CONTINUOUS, ("Mul", "Div"))(folded), lambda: [x])).double()
    spikes_once(model, x.double(), 1)
    want = model.graph.run(x.double())
    answer = model(x.double(), 1)
    for mine, plain in zip(answer if isinstance(answer, tuple) else (answer,), want, strict=True):
        assert torch.allclose(mine, plain, rtol=1e-9, atol=1e-9)


def test_an_activation_beyond_its_window_is_clipped_and_counted() -> None:
    """Calibrated at 1, the window reaches to 1.5: 3 says 1.5, and half of the activations are clipped."""
    graph = spiking("h = Relu(x) y = Gemm(h, w)", {"w": torch.eye(1)}, "float[N,1] x", CONTINUOUS)
    graph = Maximum()(graph, lambda: [torch.ones(1, 1)])
    found = measure(FirstSpikeModel(graph), graph, [(torch.tensor([[3.0], [1.4]]), None)], [1])
    assert found.layers[0].clipped == 0.5
    assert FirstSpikeModel(graph)(torch.tensor([[3.0], [1.4]]), 1).tolist() == [[1.5], [pytest.approx(1.4)]]


EXACT = [("resnet20", 50), ("resnet44", 20), ("mnist_cntk", 100), ("convnet_maxpool", 100), ("squeezenet", 5)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), EXACT)
def test_trained_networks_in_continuous_time_answer_as_their_anns(
    shared: Path, name: str, count: int
) -> None:
    preset = PRESETS[name]
    ann = load(preset.model).verify()
    data = preset.source(ann)
    graph, _ = apply(ann, pipeline_for(CONTINUOUS))
    chosen = data.parts.get("test", range(len(data)))
    calibration = data.parts.get("train", chosen)[-200:] if name != "squeezenet" else chosen[-20:]
    held = [x for x, _ in data.batches(calibration, 20)]
    x, _ = next(data.batches(chosen[:count], count))
    with torch.inference_mode():
        model = FirstSpikeModel(
            Auto(timesteps=1, schedule="pipelined")(Spike(CONTINUOUS)(graph), lambda: held)
        )
        spikes_once(model, x, 1)
        answer, want = model(x, 1), ann.run(x)[0]
    assert isinstance(answer, Tensor)
    apart = (answer - want).flatten(1).norm(dim=1) / want.flatten(1).norm(dim=1)
    assert float(apart.max()) < 1e-4
    assert torch.equal(answer.flatten(1).argmax(1), want.flatten(1).argmax(1))


# Events


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (Conv(weight(6, 4, 3, 2), weight(6), (2, 1), (1, 0), (1, 2), 1), (4, 7, 9)),
        (Conv(weight(6, 2, 3, 3), None, (1, 1), (1, 1), (1, 1), 2), (4, 5, 5)),
        (Conv(weight(4, 1, 3), None, (2,), (2,), (1,), 4), (4, 9)),
        (ConvTranspose(weight(4, 3, 3, 3), weight(6), (2, 2), (1, 1), (1, 0), (1, 1), 2), (4, 4, 5)),
        (Linear(weight(6, 5), weight(6)), (3, 5)),
    ],
    ids=["strided", "grouped", "depthwise", "transposed", "linear"],
)
def test_spike_by_spike_the_same_membranes_and_every_synapse_counted(
    op: Conv | ConvTranspose | Linear, shape: tuple[int, ...]
) -> None:
    """Against torch's own convolution; and against fan-out, which counts by the transpose of the synapse."""
    x = weight(3, *shape, seed=3).double()
    x = torch.where(weight(3, *shape, seed=4) > 0.2, x, 0.0)
    with_zero = op.map_tensors(lambda t: t.double())
    weights = with_zero.tensors()["weight"]
    weights[weights.abs() < 0.1] = 0.0
    want = with_zero(x)
    found, touched = arrive(with_zero, x, want.shape[1:])  # type: ignore[arg-type]
    assert torch.allclose(found, want, rtol=0, atol=1e-12)
    node = Node(with_zero, (Node(Input(), (), "x", (BATCH, *shape)),), "op", (BATCH, *want.shape[1:]))
    assert touched == int((fan_out_of(node) * (x != 0)).sum())


def test_operations_by_hand_and_as_the_report_counts_them() -> None:
    """Two of three neurons spike, one of them onto a weight that is zero: 2 + 1 synapses of six."""
    body = "h = Relu(x) y = Gemm(h, w)"
    weights = {"w": torch.tensor([[1.0, 2.0], [0.0, 4.0], [5.0, 6.0]])}
    graph = Maximum()(
        spiking(body, weights, "float[N,3] x", FirstSpike(form="linear")), lambda: [torch.ones(1, 3)]
    )
    model, x = FirstSpikeModel(graph), torch.tensor([[1.0, 0.5, -1.0]])
    run = simulate(model, x, 4)
    assert (sum(run.accumulates.values()), sum(run.events.values())) == (3, 2)
    found = measure(model, graph, [(x, None)], [4])
    assert found.metrics["synaptic_operations"]["Effective_ACs"] == 3
    assert found.metrics["ann_macs"] == 5
    assert (found.curve[0].spikes_per_neuron, found.layers[0].error) == (2 / 3, 0.0)


def test_the_report_counts_what_the_simulator_touches() -> None:
    model = FirstSpikeModel(spiking(BRANCHES, WEIGHTS, "float[N,3,8,8] x", FirstSpike()))
    run = simulate(model, IMAGES.float(), 12)
    found = measure(model, model.graph, [(IMAGES.float(), None)], [12])
    counted = found.metrics["synaptic_operations"]["Effective_ACs"]
    assert sum(run.accumulates.values()) / len(IMAGES) == pytest.approx(counted)
    assert found.curve[0].spikes_per_neuron <= 1


# Calibrators and time


def test_calibrators_see_the_same_windows_and_the_least_squares_of_this_code() -> None:
    x = IMAGES.float()
    for neuron in (FirstSpike(), FirstSpike(form="linear")):
        graph = spiking(BRANCHES, WEIGHTS, "float[N,3,8,8] x", neuron)
        steps, fire = run_of("pipelined", 6, graph)
        (answer,) = unroll(graph, x, steps, fire)
        assert torch.allclose(answer, FirstSpikeModel(graph)(x, 6), atol=1e-6)  # type: ignore[arg-type]
        fitted = LeastSquares(6)(graph, lambda: [x])
        (want,) = graph.run(x)

        def error(g: Graph, want: Tensor = want) -> float:
            return float((FirstSpikeModel(g)(x, 6) - want).norm())  # type: ignore[operator]

        assert error(fitted) < error(graph)


def test_least_squares_of_base_2_by_hand() -> None:
    """All activations are 1, the largest too, and steps halve: a scale of 1 says it with no error at all."""
    histogram = Histogram(False)
    histogram.update(torch.cat([torch.ones(100, 1), torch.full((1, 1), 1.9)]))
    scale = float(least_squares(histogram, FirstSpike(tau=1.0, coder="floor"), 8))
    # 1.9 is one value of a hundred: the scale that says 1 best (in the middle of its bin) is 1 or twice it
    assert scale in (pytest.approx(1.0, rel=0.02), pytest.approx(2.0, rel=0.06))


def test_two_latencies_and_an_image_a_window() -> None:
    """r1 waits for r0, r2 for r1: three in a row, and r3. No two may fire together here."""
    model = branches(FirstSpike())
    assert (model.latency(8), model.latency_in_turn(8)) == (8 * 4, 8 * 4)
    assert words(model)[:2] == (
        "windows of T steps, 4 layers of neurons in a row: an answer after 4·T steps, an image every T",
        "one layer after the other, no two at a time: after 4·T steps",
    )
    fork = "a = Relu(x) b = Relu(x) y = Add(a, b)"
    wide = FirstSpikeModel(spiking(fork, {}, "float[N,2] x", FirstSpike(), outputs="float[N,2] y"))
    assert (wide.latency(8), wide.latency_in_turn(8)) == (8, 16)


def test_an_image_that_is_drawn_at_each_step_takes_a_window() -> None:
    """A constant image is there at once, with all that the first layer integrates; spikes take T steps."""
    graph = branches(FirstSpike(offset=3)).graph
    assert FirstSpikeModel(graph).latency(8) == 3 * 3 + 8
    drawn = FirstSpikeModel(graph, Poisson())
    assert (drawn.latency(8), drawn.latency_in_turn(8)) == (8 + 3 * 3 + 8, 8 + 4 * 8)
    assert words(drawn)[0].endswith("an answer after 2·T + 9 steps, an image every T")


# What it cannot be


def test_a_negative_slope_has_no_first_spike() -> None:
    body = "a = LeakyRelu<alpha=0.1>(x) b = Relu(a) y = PRelu(b, s)"
    graph, _ = apply(load(parse(body, {"s": torch.full((2,), -0.5)}, inputs="float[N,2] x")))
    with pytest.raises(Unsupported, match="2 nodes that cannot be converted") as caught:
        Spike(FirstSpike())(graph)
    assert "LeakyRelu 'a' (input Nx2): a first spike says 0 or more, this activation says less" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": "cubic"}, "there is no first-spike kernel 'cubic'"),
        ({"coder": "up"}, "there is no first-spike coder 'up'"),
        ({"form": "linear", "tau": 2.0}, "tau is 2; it is of the kernel base-2 alone"),
        ({"tau": -1.0}, "tau is -1; it is of the kernel base-2 alone, and above 0"),
        ({"continuous": True}, "continuous time has the linear kernel"),
        ({"form": "linear", "continuous": True, "slack": 0.5}, "the slack is 0.5"),
    ],
)
def test_a_code_there_is_not(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        FirstSpike(**options)


def test_a_window_too_small_for_the_range_is_refused() -> None:
    """τ = 8 and 4 steps: the last of them carries 2^(−3/8) of the first, 77 %."""
    model = branches(FirstSpike(tau=8.0))
    with pytest.raises(UsageError, match="a window of 4 steps is too small for the range") as caught:
        model(IMAGES, 4)
    assert "its smallest value is 77 % of its largest" in str(caught.value)
    assert "--window 9 or more" in str(caught.value)
    assert model(IMAGES, 9).shape == (4, 5)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="a window of 1 step is too small"):
        branches(FirstSpike())(IMAGES, 1)
    with pytest.raises(UsageError, match="time is continuous, there is no window of 8 steps"):
        branches(CONTINUOUS)(IMAGES, 8)


def test_first_spikes_have_one_model() -> None:
    graph = spiking("y = Relu(x)", {}, "float[N,2] x", FirstSpike())
    assert isinstance(model_of(graph, schedule="pipelined"), FirstSpikeModel)
    with pytest.raises(UsageError, match="spikes once a window, it has the schedule pipelined"):
        model_of(graph, schedule="stream")
    plain = Maximum()(Spike()(load(parse("y = Relu(x)", inputs="float[N,2] x"))), lambda: [torch.ones(1, 2)])
    assert type(model_of(plain, schedule="pipelined")) is PipelinedModel
    with pytest.raises(UsageError, match="has no first-spike neurons"):
        FirstSpikeModel(plain)
