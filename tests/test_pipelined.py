"""Windows: a layer integrates one, fires in the next; the network is its clip-quantised ANN, exactly."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibrators import with_ranges
from calibrators.bias_correction import BiasCorrection
from calibrators.maximum import Maximum
from converter.encodings.poisson import Poisson
from converter.errors import UsageError
from converter.graph import Graph, Node, Op
from converter.importer import load
from converter.metrics import measure
from converter.neurons import Neuron
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.leaky import Leaky
from converter.neurons.multi_level import MultiLevel
from converter.neurons.negative_slope import NegativeSlope
from converter.neurons.signed import Signed
from converter.passes import apply
from converter.passes.spike import Spike
from converter.pipelined import PipelinedModel
from converter.rate import RateModel
from converter.schedules import check, model_of, words
from converter.stateful import Kernel, State, Stateful
from converter.unroll import run_of, unroll
from converter.window import Window, stages, waits
from tests.models import parse, weight
from tests.random_networks import network as random_network
from tests.test_fuzz import GENES, images

NEURONS = (IntegrateFire(), Signed(), MultiLevel(levels=3))


def quantised(neuron: Neuron, x: Tensor, timesteps: int) -> Tensor:
    """θ/n · clip(⌊n·x/θ + ½⌋, 0, n) with θ the range of the neuron, n the levels of a window.

    The neuron of a negative slope counts to −n as well, and each of its counts below zero is worth the slope.
    """
    step, levels = neuron.calibrated() / timesteps, neuron.parts * timesteps
    low = -levels if isinstance(neuron, NegativeSlope) else 0
    counted = (x / step + 0.5).floor().clamp(low, levels)
    return step * (neuron(counted) if isinstance(neuron, NegativeSlope) else counted)


@dataclass(frozen=True, eq=False)
class Quantised(Op):
    """The closed form as an op, which notes how near to a tie it was ever asked: there, rounding decides."""

    neuron: Neuron
    timesteps: int
    nearest: list[float] = field(default_factory=list)

    def __call__(self, *inputs: Tensor) -> Tensor:
        if inputs[0].device.type != "meta":
            place = inputs[0] * self.timesteps / self.neuron.calibrated() + 0.5
            self.nearest.append(float((place - place.round()).abs().min()))
        return quantised(self.neuron, inputs[0], self.timesteps)


def closed_form(graph: Graph, timesteps: int, nearest: list[float]) -> Graph:
    """The ANN with the closed form for each activation."""
    return graph.map(
        lambda n: replace(n, op=Quantised(n.op, timesteps, nearest)) if isinstance(n.op, Neuron) else n
    )


def spiking(
    body: str, weights: dict[str, Tensor], inputs: str, neuron: Neuron = NEURONS[0], **settings: Any
) -> Graph:
    """A spiking network with thresholds from two random samples."""
    plain, _ = apply(load(parse(body, weights, inputs=inputs, **settings)))
    graph = Spike(neuron, keep_analog=("Sigmoid",))(plain)
    shape = [2, *graph.inputs[0].shape[1:]]
    return Maximum()(graph, lambda: [weight(*shape, seed=9, scale=1.0)])


# One layer


def test_a_window_by_hand() -> None:
    """θ = 1, T = 4, start ½: currents 0.3, 0.4, −1, 7 are charges 1.2, 1.6, −4, 28: 1, 2, 0, 4 spikes."""
    window = Window(IntegrateFire(torch.tensor(1.0)), 4)
    assert window(torch.tensor([0.3, 0.4, -1.0, 7.0])).tolist() == [0.25, 0.5, 0.0, 1.0]


@given(
    sixteenths=st.lists(st.integers(-200, 200), min_size=1, max_size=30),
    timesteps=st.integers(1, 12),
    threshold=st.sampled_from([0.5, 1.0, 4.0]),
    kind=st.sampled_from([*NEURONS, NegativeSlope(slope=torch.tensor(0.25, dtype=torch.float64))]),
)
def test_a_window_is_the_clip_quantised_activation_ties_included(
    sixteenths: list[int], timesteps: int, threshold: float, kind: Neuron
) -> None:
    """Currents in sixteenths and thresholds of powers of two: nothing is rounded but the mean at the end."""
    x = torch.tensor(sixteenths, dtype=torch.float64) / 16
    neuron = replace(kind, threshold=torch.tensor(threshold, dtype=torch.float64))
    said = Window(neuron, timesteps)(x)
    assert torch.allclose(said, quantised(neuron, x, timesteps), rtol=0, atol=1e-12)


# Networks

BRANCHES = """
    c0 = Conv<pads=[1,1,1,1]>(x, w) r0 = Relu(c0)
    p0 = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r0)
    c1 = Conv<pads=[1,1,1,1]>(p0, w1) r1 = Relu(c1)
    c2 = Conv<pads=[1,1,1,1]>(r1, w1) l1 = LeakyRelu<alpha=0.2>(c2)
    a1 = Add(l1, p0) s1 = Sigmoid(a1) k1 = Concat<axis=1>(s1, p0) c3 = Conv(k1, w2) r2 = Relu(c3)
    f = Flatten(r2) g = Gemm(f, w3) y = Softmax(g)
"""
WEIGHTS = {
    "w": weight(4, 3, 3, 3),
    "w1": weight(4, 4, 3, 3, seed=1, scale=0.2),
    "w2": weight(5, 8, 2, 2, seed=2),
    "w3": weight(45, 3, seed=3),
}


@pytest.mark.parametrize("neuron", NEURONS, ids=lambda n: n.kind)
def test_branches_pools_and_analog_ops_keep_the_closed_form(neuron: Neuron) -> None:
    graph = spiking(BRANCHES, WEIGHTS, "float[N,3,8,8] x", neuron, outputs="float[N,M] y")
    x = weight(5, 3, 8, 8, seed=5, scale=1.0).double()
    model = PipelinedModel(graph).double()
    for timesteps in (1, 3, 8):
        nearest: list[float] = []
        (want,) = closed_form(model.graph, timesteps, nearest).run(x)
        assert min(nearest) > 1e-9
        assert torch.allclose(model(x, timesteps), want, rtol=0, atol=1e-12)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(genes=GENES, timesteps=st.integers(1, 6), neuron=st.sampled_from(NEURONS))
def test_random_networks_are_their_clip_quantised_anns(
    genes: list[int], timesteps: int, neuron: Neuron
) -> None:
    proto, shape = random_network(genes, dynamic=True)
    folded, _ = apply(load(proto))
    assume(any(node.op.kind in ("Relu", "Clip", "LeakyRelu", "PRelu") for node in folded))
    x = images(None, shape)
    model = PipelinedModel(Maximum()(Spike(neuron, ("Mul", "Div"))(folded), lambda: [x])).double()
    nearest: list[float] = []
    outputs = closed_form(model.graph, timesteps, nearest).run(x.double())
    assume(min(nearest) > 1e-9)
    readout = model(x.double(), timesteps)
    for mine, want in zip(readout if isinstance(readout, tuple) else (readout,), outputs, strict=True):
        assert torch.allclose(mine, want, rtol=1e-9, atol=1e-9)


def test_what_is_heard_of_a_window_is_what_it_says() -> None:
    """Step by step, the spikes sum to the means that made the answer, and the pooled ones to their pools."""
    graph = spiking(BRANCHES, WEIGHTS, "float[N,3,8,8] x", outputs="float[N,M] y")
    model, x = PipelinedModel(graph).double(), weight(2, 3, 8, 8, seed=5, scale=1.0).double()
    want = dict[str, Tensor]()
    closed_form(model.graph, 8, []).run(x, listen=lambda n, v: want.setdefault(n.name, v))
    heard = dict[str, list[Tensor]]()
    ((time, (answer,), _),) = model.answers(
        x, [8], lambda: lambda n, v: heard.setdefault(n.name, []).append(v)
    )
    assert time == 8
    assert torch.equal(answer, model(x, 8))
    assert {"r0", "r1", "l1", "r2", "a1", "s1", "k1"} <= heard.keys()
    for name, values in heard.items():
        assert len(values) == 8, name
        assert torch.allclose(torch.stack(values).mean(0), want[name], rtol=0, atol=1e-9), name
    threshold = graph["r0"].op.tensors()["threshold"].double()
    fired = torch.stack(heard["r0"]) / threshold
    assert set(fired.unique().tolist()) == {0.0, 1.0}
    assert bool((fired.diff(dim=0) <= 0).all()), "a charge that is there at once is fired off at once"


@pytest.mark.parametrize("neuron", NEURONS, ids=lambda n: n.kind)
def test_calibrators_see_the_same_windows(neuron: Neuron) -> None:
    graph = spiking(BRANCHES, WEIGHTS, "float[N,3,8,8] x", neuron, outputs="float[N,M] y")
    x, spikes = weight(3, 3, 8, 8, seed=5), dict[str, Tensor]()
    steps, fire = run_of("pipelined", 6, graph)

    def remember(node: Node, currents: Tensor) -> Tensor:
        spikes[node.name] = fire(node, currents).mean(0)
        return fire(node, currents)

    (answer,) = unroll(graph, x, steps, remember)
    assert torch.allclose(answer, PipelinedModel(graph)(x, 6), atol=1e-5)
    heard = dict[str, list[Tensor]]()
    list(PipelinedModel(graph).answers(x, [6], lambda: lambda n, v: heard.setdefault(n.name, []).append(v)))
    for name, mean in spikes.items():
        assert torch.allclose(torch.stack(heard[name]).mean(0), mean, atol=1e-5), name
    assert run_of("stream", 6, graph)[0] == 6


def test_bias_correction_by_hand() -> None:
    """The first layer says 1 of 1.5, its threshold; the second is to say 1.5, of that 1: half is missing.

    With levels of ½ (θ = 2, T = 4) the shift is exactly that, and in the bias before the second layer.
    """
    graph = spiking(
        "h = Relu(x) g = Gemm(h, w) k = Relu(g) y = Gemm(k, w)", {"w": torch.eye(1)}, "float[N,1] x"
    )
    thresholds = {"h": torch.tensor(1.0), "k": torch.tensor(2.0)}
    graph = with_ranges(graph, {graph[name]: value for name, value in thresholds.items()})
    x = torch.full((8, 1), 1.5)
    assert PipelinedModel(graph)(x[:1], 4).tolist() == [[1.0]]
    corrected = BiasCorrection(timesteps=4, schedule="pipelined")(graph, lambda: [x])
    assert corrected["g"].op.tensors()["bias"].tolist() == [0.5]
    assert PipelinedModel(corrected)(x[:1], 4).tolist() == [[1.5]]
    with pytest.raises(UsageError, match="no schedule 'never'"):
        BiasCorrection(schedule="never")


# Time


def chain(layers: int) -> Graph:
    """Neurons in a row on one value."""
    body, last = "", "x"
    for i in range(layers):
        body, last = f"{body} h{i} = Relu({last}) g{i} = Gemm(h{i}, w)", f"g{i}"
    return spiking(f"{body} y = Gemm({last}, w)", {"w": torch.eye(2)}, "float[N,2] x")


@pytest.mark.parametrize("layers", [1, 3])
def test_an_answer_takes_a_window_for_the_image_and_one_for_each_layer(layers: int) -> None:
    model = PipelinedModel(chain(layers))
    assert model.stages == layers
    assert model.latency(8) == 8 * (layers + 1)
    assert RateModel(chain(layers)).latency(8) == 8


def test_a_shorter_branch_waits_for_the_longer_one() -> None:
    graph = spiking(BRANCHES, WEIGHTS, "float[N,3,8,8] x", outputs="float[N,M] y")
    found = {node.name: stage for node, stage in stages(graph).items()}
    assert [found[n] for n in ("x", "c0", "r0", "p0", "r1", "l1", "a1", "k1", "r2", "y")] == [
        0, 0, 1, 0, 2, 3, 3, 3, 4, 4,
    ]  # fmt: skip
    assert [(w.source.name, w.reader.name, w.windows) for w in waits(graph)] == [
        ("r0", "a1", 2),
        ("r0", "k1", 2),
    ]
    assert words(PipelinedModel(graph)) == (
        "windows of T steps, 4 layers of neurons in a row: an answer after 5·T steps, an image every T",
        f"2 shorter branches wait in buffers, up to 2 windows: {2 * 2 * 4 * 4 * 4} values a step in all",
    )


def test_each_length_is_a_run_of_its_own_and_counted_by_hand() -> None:
    """Currents 0.5 and 1, thresholds 1: of T = 1, 2, 4 steps the first fires 1, 1, 2 times, the other always.

    Each spike of the first reaches two weights of the read-out, of the second one (the other is zero).
    """
    plain, _ = apply(
        load(
            parse(
                "h = Relu(x) y = Gemm(h, w)",
                {"w": torch.tensor([[1.0, 2.0], [0.0, 4.0]])},
                inputs="float[N,2] x",
            )
        )
    )
    graph = Maximum(per_channel=False)(Spike()(plain), lambda: [torch.ones(1, 2)])
    told: list[int] = []
    samples = [(torch.tensor([[0.5, 1.0]]), torch.tensor([1]))]
    found = measure(PipelinedModel(graph), graph, samples, (4, 1, 2), told.append)
    assert [(p.timesteps, p.latency, p.spikes_per_neuron) for p in found.curve] == [
        (1, 2, 1.0),
        (2, 4, 1.5),
        (4, 8, 3.0),
    ]
    assert found.curve[2].output_error == 0
    assert found.metrics["synaptic_operations"]["Effective_ACs"] == 2 * 2 + 4 * 1
    assert (found.layers[0].firing_rate, found.layers[0].error) == (0.75, 0.0)
    assert sum(told) == 4


def test_poisson_input_comes_in_over_the_window_and_repeats_with_its_seed() -> None:
    graph, x = chain(2), torch.rand(3, 2)
    one, same, other = (PipelinedModel(graph, Poisson(2.0), seed=s)(x, 6) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    model = PipelinedModel(graph, Poisson(2.0))
    drawn = torch.stack([next_[0] for next_, _ in zip(model.encoded(x), range(6), strict=False)])
    assert torch.equal(model(x, 6), PipelinedModel(graph)(drawn.mean(0), 6))
    heard: list[Tensor] = []
    list(model.answers(x, [6], lambda: lambda n, v: heard.append(v) if n.name == "x" else None))
    assert torch.equal(torch.stack(heard), drawn)


# What it cannot be


@dataclass(frozen=True, eq=False)
class Mending(Stateful):
    """Something that works step by step."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def init(self) -> State:
        return ()

    @property
    def kernel(self) -> Kernel:
        return lambda state, value: (state, value)


def test_what_loses_a_window_or_works_step_by_step_is_refused() -> None:
    hard = spiking("y = Relu(x)", {}, "float[N,2] x", IntegrateFire(reset="hard"))
    with pytest.raises(UsageError, match=r"IntegrateFire 'y' \(input Nx2\) resets to zero"):
        PipelinedModel(hard)
    leaky = spiking("y = Relu(x)", {}, "float[N,2] x", Leaky(leak=0.9))
    with pytest.raises(UsageError, match=r"Leaky 'y' \(input Nx2\) leaks"):
        PipelinedModel(leaky)
    PipelinedModel(spiking("y = Relu(x)", {}, "float[N,2] x", Leaky(leak=1.0)))
    graph = chain(1)
    mended = Node.of(Mending(), graph.outputs[0], name="mended")
    with pytest.raises(UsageError, match=r"Mending 'mended'.* works step by step"):
        model_of(replace(graph, outputs=(mended,)), schedule="pipelined")


@pytest.mark.parametrize(
    ("schedule", "delay", "timesteps", "said"),
    [
        ("sometimes", 0, (1,), "there is no schedule 'sometimes'"),
        ("pipelined", 2, (8,), "the schedule pipelined has no delay of the read-out, 2 was given"),
        ("stream", 2, (1, 8, 2), "the read-out begins after step 2, so there is no answer after 1, 2"),
        ("pipelined", 0, (0, 8), "timesteps is 0; a simulation takes at least 1"),
    ],
)
def test_time_that_cannot_be_shared_so_is_refused(
    schedule: str, delay: int, timesteps: tuple[int, ...], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        check(schedule, delay, timesteps)
