"""Early firing: a layer begins `offset` steps after the one before, and compares with what has arrived."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibrators import with_ranges
from calibrators.bias_correction import BiasCorrection
from calibrators.maximum import Maximum
from converter.errors import Unsupported, UsageError
from converter.events import simulate
from converter.first_spike import FirstSpikeModel, StepByStep, spike_of
from converter.graph import BATCH, Graph, Node
from converter.importer import load
from converter.kernels import kernel_thresholds, kernel_values
from converter.metrics import batch_that_fits, measure
from converter.neurons import Neuron
from converter.neurons.first_spike import FirstSpike
from converter.ops import Linear
from converter.passes import apply, pipeline_for
from converter.passes.spike import Spike
from converter.schedules import words
from converter.unroll import run_of, unroll
from converter.window import stages
from tests.models import parse, weight
from tests.random_networks import network as random_network
from tests.test_first_spike import BRANCHES, DISCRETE, IMAGES, WEIGHTS, branches, spikes_once, spiking
from tests.test_fuzz import GENES, images


def by_the_clock(
    model: FirstSpikeModel, x: Tensor, window: int
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """One clock for all: at each step every layer whose window is on compares, then sends what it fires.

    What is sent at a step is there at the next; one that skips layers waits `offset` steps for each.
    """
    stage, offset = stages(model.graph), model.code.begins(window)
    sent: dict[Node, Tensor] = {}
    """Of each neuron the step of the clock at which it has spiked, or the largest number there is."""

    def membrane(reader: Node, clock: int) -> Tensor:
        """What has arrived for `reader` before this step of the clock."""
        have = dict(zip(model.graph.inputs, (x,), strict=True))
        for node in model.graph:
            if node in have:
                continue
            if isinstance(node.op, Neuron):
                if node in sent:
                    waited = (stage[reader.inputs[0]] - stage[node]) * offset
                    have[node] = torch.where(sent[node] + waited < clock, carried(node), 0.0)
            elif all(i in have for i in node.inputs):
                have[node] = node.op(*(have[i] for i in node.inputs))
        return have[reader.inputs[0]]

    def carried(node: Node) -> Tensor:
        op, at = spike_of(node), sent[node] - (stage[node] - 1) * offset
        worth = kernel_values(op.form, window, op.reach(window)).to(x)
        return op.calibrated() * worth[at.clamp(max=window)]

    never = 1 << 40
    for clock in range(model.latency(window)):
        for node in model.neurons:
            step = clock - (stage[node] - 1) * offset
            if not 0 <= step < window:
                continue
            op = spike_of(node)
            falling = kernel_thresholds(op.form, window, op.reach(window), op.coder).to(x)
            now = membrane(node, clock)
            fires = now >= op.calibrated() * falling[step]
            before = sent.get(node, torch.full(now.shape, never))
            sent[node] = torch.where(fires & (before == never), clock, before)
    have = dict(zip(model.graph.inputs, (x,), strict=True))
    for node in model.graph:
        if isinstance(node.op, Neuron):
            have[node] = carried(node)
        elif node not in have:
            have[node] = node.op(*(have[i] for i in node.inputs))
    times = {n.name: (sent[n] - (stage[n] - 1) * offset).clamp(max=window) for n in model.neurons}
    return tuple(have[o] for o in model.graph.outputs), times


def chain(offset: int | None) -> FirstSpikeModel:
    """a says x, b = ReLU(2a₁ − a₂ + ½), both of scale 4, linear; the answer is b."""
    code = FirstSpike(form="linear", coder="floor", offset=offset)
    weights = {"w": torch.tensor([[2.0], [-1.0]]), "b": torch.tensor([0.5])}
    body = "a = Relu(x) u = Gemm(a, w, b) h = Relu(u) y = Identity(h)"
    graph, _ = apply(load(parse(body, weights, inputs="float[N,2] x")), pipeline_for(code))
    fired = Spike(code)(graph)
    return FirstSpikeModel(
        with_ranges(fired, {n: torch.tensor(4.0) for n in fired if isinstance(n.op, Neuron)})
    )


def test_early_firing_by_hand() -> None:
    """T = 4, steps carry 4, 3, 2, 1, rounded down; b should say 2a₁ − a₂ + ½; step k sees those before S + k.

    (3, 1): at steps 1 and 3. S = 2: step 0 has 6½ and says 4, as all of it, 5½, would. S = 1: step 1 has
    6½ and says 3. (2, 1): at steps 2 and 3. All is 3½, which says 3. S = 2: step 1 has 4½ and says 3, too.
    S = 1: 4½ are there at step 2 only, which says 2. (1, 1): at step 3; 1½ says 1, and is there at step 3.
    """
    x = torch.tensor([[3.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
    told = {offset: chain(offset).spikes(x, 4) for offset in (None, 2, 1)}
    assert {offset: times["h"][:, 0].tolist() for offset, (_, times) in told.items()} == {
        None: [0, 1, 3],
        2: [0, 1, 3],
        1: [1, 2, 3],
    }
    assert told[1][0][0][:, 0].tolist() == [3, 2, 1]


def test_a_spike_once_sent_stays() -> None:
    """a₁ = 4 at step 0, a₂ = 3 with −3 at step 1: b has 4½, and has spiked, before it has −4½."""
    x, weight = torch.tensor([[4.0, 3.0]]), torch.tensor([[1.0, -3.0]])
    assert [with_weight(chain(offset), weight)(x, 4).tolist() for offset in (1, 2)] == [[[4.0]], [[0.0]]]  # type: ignore[union-attr]


def with_weight(model: FirstSpikeModel, weight: Tensor) -> FirstSpikeModel:
    """The same network with another matrix."""

    def rule(node: Node) -> Node:
        return replace(node, op=replace(node.op, weight=weight)) if isinstance(node.op, Linear) else node

    return FirstSpikeModel(model.graph.map(rule))


@pytest.mark.parametrize("neuron", DISCRETE, ids=lambda n: f"{n.form}-{n.coder}")
@pytest.mark.parametrize("offset", [1, 3, 6, 7])
def test_views_and_the_clock_and_events_and_calibrators_agree(neuron: FirstSpike, offset: int) -> None:
    model, window = branches(replace(neuron, offset=offset)), 7
    times = spikes_once(model, IMAGES, window)
    (answer,), clocked = by_the_clock(model, IMAGES, window)
    readout = model(IMAGES, window)
    assert isinstance(readout, Tensor)
    assert torch.allclose(readout, answer, rtol=0, atol=1e-12)
    for name, at in times.items():
        assert torch.equal(at, clocked[name]), name
    events = simulate(model, IMAGES, window)
    assert torch.allclose(events.readout[0], readout, rtol=0, atol=1e-12)
    steps, fire = run_of("pipelined", window, model.graph)
    assert steps == window - offset + 1
    (seen,) = unroll(model.graph, IMAGES, steps, fire)
    assert torch.allclose(seen, readout, rtol=0, atol=1e-12)


@settings(max_examples=12, derandomize=True, deadline=None)
@given(genes=GENES, window=st.integers(2, 6), share=st.floats(0.01, 1.0), neuron=st.sampled_from(DISCRETE))
def test_random_networks_by_the_clock(
    genes: list[int], window: int, share: float, neuron: FirstSpike
) -> None:
    code = replace(neuron, offset=max(1, round(share * window)))
    proto, shape = random_network(genes, dynamic=True)
    folded, _ = apply(load(proto), pipeline_for(code))
    assume(any(node.op.kind in ("Relu", "Clip") for node in folded))
    assume(not any(node.op.kind in ("LeakyRelu", "PRelu") for node in folded))
    x = images(None, shape)
    graph = Maximum()(Spike(code, ("Mul", "Div"))(folded), lambda: [x])
    assume(all(node.shape[:1] == (BATCH,) for node in graph if node.shape))
    model = FirstSpikeModel(graph).double()
    times = spikes_once(model, x.double(), window)
    want, clocked = by_the_clock(model, x.double(), window)
    same = all(torch.equal(times[name], clocked[name]) for name in times)
    _, currents = model.window(x.double(), window)
    near = 1.0
    for node in model.neurons:  # near a tie, the order of a sum decides
        falling = kernel_thresholds(code.form, window, code.reach(window), code.coder)
        ratio = currents[node.name] / spike_of(node).calibrated()
        near = min(near, float((ratio.unsqueeze(-1) - falling).abs().min()))
    assert same or near < 1e-9
    assume(same)
    answer = model(x.double(), window)
    for mine, clock in zip(answer if isinstance(answer, tuple) else (answer,), want, strict=True):
        assert torch.allclose(mine, clock, rtol=1e-9, atol=1e-9)


def test_an_offset_of_a_window_is_no_offset_bit_for_bit() -> None:
    for neuron in DISCRETE:
        plain, offset = (
            FirstSpikeModel(spiking(BRANCHES, WEIGHTS, "float[N,3,8,8] x", code))
            for code in (neuron, replace(neuron, offset=9))
        )
        x = IMAGES.float()
        assert torch.equal(plain(x, 9), offset(x, 9))  # type: ignore[arg-type]
        (one, times), (other, again) = plain.spikes(x, 9), offset.spikes(x, 9)
        assert torch.equal(one[0], other[0])
        assert all(torch.equal(times[name], again[name]) for name in times)
        mended = [
            BiasCorrection(9, schedule="pipelined")(m.graph, lambda: [IMAGES.float()])
            for m in (plain, offset)
        ]
        for a, b in zip(*mended, strict=True):
            assert all(torch.equal(t, b.op.tensors()[name]) for name, t in a.op.tensors().items())


def test_time_and_cost_of_windows_that_overlap() -> None:
    """Four layers in a row, 3 steps apart: 3·3 steps before the last window, of 8 steps."""
    model = branches(FirstSpike(offset=3))
    assert model.latency(8) == 3 * 3 + 8
    assert words(model) == (
        "windows of T steps, 4 layers of neurons in a row: an answer after T + 9 steps, an image every T",
        "they overlap: each layer begins to fire 3 steps after the one before, on what has arrived by then",
        "2 shorter branches wait in buffers, up to 6 steps: 192 values a step in all",
    )
    assert batch_that_fits(model.graph, 10**9, 8) == batch_that_fits(branches(FirstSpike()).graph, 10**9) // 6


def test_every_spike_is_counted_once_whenever_it_comes() -> None:
    """Through a max-pool too, of whose spikes the earliest alone goes on, by the simulator and the report."""
    body = """
        c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c)
        p = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r)
        d = Conv<pads=[1,1,1,1]>(p, w1) s = Relu(d) f = Flatten(s) y = Gemm<transB=1>(f, w2)
    """
    weights = {"w": WEIGHTS["w"], "w1": WEIGHTS["w1"], "w2": weight(5, 64)}
    model = FirstSpikeModel(spiking(body, weights, "float[N,3,8,8] x", FirstSpike(offset=2)))
    run = simulate(model, IMAGES.float(), 8)
    found = measure(model, model.graph, [(IMAGES.float(), None)], [8])
    counted = found.metrics["synaptic_operations"]["Effective_ACs"]
    assert sum(run.accumulates.values()) / len(IMAGES) == pytest.approx(counted)
    assert (found.curve[0].latency, found.curve[0].spikes_per_neuron <= 1) == (2 + 8, True)


def test_bias_correction_mends_what_late_spikes_do() -> None:
    """On the samples that were looked at, the answer comes nearer to the ANN's."""
    x = torch.cat([IMAGES.float()] * 2)
    graph = spiking(BRANCHES, WEIGHTS, "float[N,3,8,8] x", FirstSpike(offset=2))
    (want,) = graph.run(x)

    def error(g: Graph) -> float:
        return float((FirstSpikeModel(g)(x, 12) - want).norm())  # type: ignore[operator]

    assert error(BiasCorrection(12, schedule="pipelined")(graph, lambda: [x])) < error(graph)


def test_what_an_offset_cannot_be() -> None:
    with pytest.raises(UsageError, match="the offset is 0 steps; it is 1 or more"):
        FirstSpike(offset=0)
    with pytest.raises(UsageError, match="continuous time has no steps"):
        FirstSpike(form="linear", continuous=True, offset=2)
    with pytest.raises(UsageError, match="a window of 4 steps is over before the next layer fires, 6 after"):
        branches(FirstSpike(offset=6))(IMAGES, 4)
    model = branches(FirstSpike(offset=2))
    with pytest.raises(Unsupported, match="whole windows of steps"):
        unroll(model.graph, IMAGES, 6, StepByStep(6))
    code = FirstSpike(torch.tensor(1.0), offset=2)
    turned = load(parse("a = Relu(x) t = Transpose<perm=[1,0]>(a) y = Relu(t)", {}, inputs="float[N,2] x",
                        outputs="float[2,N] y"))  # fmt: skip
    with pytest.raises(Unsupported, match="the batch does not stand first"):
        FirstSpikeModel(Spike(code)(turned))
