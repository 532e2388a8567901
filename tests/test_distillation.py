"""Distillation: gradients through rates and a step by hand, how answers are graded, and never worse."""

from __future__ import annotations

import json
from dataclasses import replace
from math import exp, log
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibrators import with_ranges
from calibrators._aims import Aim, Grade, Said, grades_of, said_by
from calibrators._rates import Parameters, rates, read_out
from calibrators.bias_correction import BiasCorrection
from calibrators.distillation import RATE, Distillation
from calibrators.least_squares import LeastSquares
from calibrators.reconstruction import Reconstruction
from calibrators.spike_calibration import SpikeCalibration
from cli import main
from converter.data import open_source
from converter.divergence import divergence
from converter.errors import DataError, UsageError
from converter.graph import Graph
from converter.importer import load
from converter.neurons import Neuron
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.signed import Signed
from converter.observe import activations_of
from converter.passes import apply
from converter.passes.spike import Spike
from converter.plan import Plan
from converter.schedules import model_of
from converter.unroll import run_of, said, unroll
from converter.withdrawal import Withdrawal
from tests.models import parse, weight
from tests.test_corrections import KINDS, NETWORKS, network


def pair(first: float, second: float, *thetas: float) -> Graph:
    """x -> neuron -> neuron -> y, weights `first`, `second` and 1, thresholds `thetas`."""
    body = "a = Gemm(x, w) r = Relu(a) b = Gemm(r, v) s = Relu(b) y = Gemm(s, u)"
    values = {"w": torch.tensor([[first]]), "v": torch.tensor([[second]]), "u": torch.ones(1, 1)}
    graph = Spike(IntegrateFire())(apply(load(parse(body, values, inputs="float[N,1] x")))[0])
    nodes = [node for node in graph if isinstance(node.op, Neuron)]
    return with_ranges(graph, {n: torch.tensor([[t]]) for n, t in zip(nodes, thetas, strict=True)})


def test_the_gradient_of_two_neurons_by_hand() -> None:
    """x = 0.7, T = 2: membranes ½ + 0.7 → a spike, 0.9 → none, r = ½. Weight ½: ½ + ½ → a spike, 0, r = ½.

    y = s; ∂y/∂v = r = ½, ∂y/∂w = ½·0.7, ∂y/∂θ₂ = (½ − ¼) / 1, ∂y/∂θ₁ = ½·(½ − 0.7).
    """
    graph = pair(1.0, 0.5, 1.0, 1.0)
    x = torch.tensor([[0.7]])
    spoken = rates(model_of(graph), x, 2)
    assert [r.item() for r in spoken.values()] == [0.5, 0.5]
    parameters = Parameters.of(graph, x).learning()
    (y,) = parameters.through(spoken, 2).run(x)
    assert y.item() == 0.5, "what the spikes say, where the ANN says 0.35"
    y.backward()
    found = [
        m.grad.item() / parameters.units[key].item()
        for key, m in parameters.moved.items()
        if key[1] == "weight"
    ]
    assert found == pytest.approx([0.35, 0.5, 0.5])
    found = [m.grad.item() for key, m in parameters.moved.items() if key[1] == "threshold"]
    assert found == pytest.approx([-0.1, 0.25])


def test_a_neuron_that_says_nothing_stands_still_and_a_full_one_moves_with_its_threshold() -> None:
    """x = −1: silent. x = 3: the first neuron says θ = 1 at each step, and more with a larger θ alone."""
    graph = pair(1.0, 1.0, 1.0, 4.0)
    for value, weight_moves, threshold_moves in ((-1.0, 0.0, 0.0), (3.0, 0.0, 1.0)):
        x = torch.tensor([[value]])
        parameters = Parameters.of(graph, x).learning()
        parameters.through(rates(model_of(graph), x, 8), 8).run(x)[0].backward()
        first = {name: m.grad.item() for (node, name), m in parameters.moved.items() if node in ("a", "r")}
        assert first == {"weight": weight_moves, "bias": 0.0, "threshold": threshold_moves}


def test_a_step_by_hand() -> None:
    """x = ¼, θ = 1, T = 2: ½ + ¼ → none, 1 → a spike; r = ½ is too much, as ¼ was meant.

    So u and, as r − z̄ is positive, θ become smaller by a step of Adam, whose first is all of its rate; then
    r is half of the new threshold.
    """
    body, values = "r = Relu(x) y = Gemm(r, u)", {"u": torch.ones(1, 1)}
    graph = Spike(IntegrateFire())(apply(load(parse(body, values, inputs="float[N,1] x")))[0])
    neuron = next(node for node in graph if isinstance(node.op, Neuron))
    graph = with_ranges(graph, {neuron: torch.ones(1, 1)})
    x = torch.full((2, 1), 0.25)
    found = Distillation(2, iterations=1)(graph, lambda: [x])
    assert found["r"].op.tensors()["threshold"].item() == pytest.approx(exp(-RATE))
    assert found["y"].op.tensors()["weight"].item() == pytest.approx(1 - RATE)
    assert unroll(found, x, 2)[0][0].item() == pytest.approx(exp(-RATE) / 2 * (1 - RATE))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_where_rates_are_activations_gradients_are_those_of_the_ann(name: str) -> None:
    """Torch, going back through the graph itself, is the judge."""
    graph = network(name, Signed(), 3)
    x = weight(5, *graph.inputs[0].shape[1:], seed=4, scale=1.0)
    wide = LeastSquares(1000, headroom=4.0)(graph, lambda: [x])
    parameters = Parameters.of(wide, x).learning()
    activations = {node.name: value for node, value in activations_of(wide, x).items()}
    through = parameters.through(activations, 1000).run(x)
    plain = Parameters.of(wide, x).learning()
    meant = wide.map(
        lambda node: replace(node, op=node.op if isinstance(node.op, Neuron) else plain._op(node))
    )
    for a, b in zip(through, meant.run(x), strict=True):
        torch.testing.assert_close(a, b)
        a.square().sum().backward()
        b.square().sum().backward()
    for key, moved in parameters.moved.items():
        if key[1] != "threshold":
            torch.testing.assert_close(moved.grad, plain.moved[key].grad)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(sorted(NETWORKS)),
    st.sampled_from(KINDS),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 99),
)
def test_what_is_said_is_what_the_spikes_say_after_the_delay(
    name: str, neuron: Neuron, delay: int, withdrawn: bool, seed: int
) -> None:
    """The simulation operator by operator is the judge."""
    graph = network(name, neuron, seed)
    x = weight(3, *graph.inputs[0].shape[1:], seed=seed, scale=1.0)
    graph = LeastSquares(6)(graph, lambda: [x])
    if withdrawn and not neuron.remembers:
        graph = SpikeCalibration(6, 0.5)(graph, lambda: [])
    steps, fire = run_of("stream", 6, graph)
    wanted: dict[str, Tensor] = {}

    def firing(node, currents):  # type: ignore[no-untyped-def]
        spikes = fire(node, currents)
        voice = node.inputs[0] if isinstance(node.op, Withdrawal) else node
        wanted[voice.name] = said(fire, spikes, delay)
        return spikes

    unroll(graph, x, steps, firing)
    found = rates(model_of(graph, delay=delay), x, 6)
    assert found.keys() == wanted.keys()
    for key, value in found.items():
        assert float(((value - wanted[key]).abs() > 1e-4).float().mean()) < 0.02, key


def test_grades_by_hand() -> None:
    """Shares ½, ½ for ¾, ¼: ¾·ln 1½ + ¼·ln ½. A chance the same. Values: the squared error."""
    nats = 0.75 * log(1.5) + 0.25 * log(0.5)
    even, three = torch.zeros(1, 2), torch.tensor([[log(3.0), 0.0]])
    assert Grade("shares").apart(even, three).item() == pytest.approx(nats)
    assert Grade("chances").apart(torch.zeros(1, 1), torch.tensor([[log(3.0)]])).item() == pytest.approx(nats)
    assert Grade("values").apart(even, torch.tensor([[3.0, 4.0]])).item() == 25.0
    both = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    assert Grade("values").spread(both).item() == pytest.approx(2.0), "1 off twice, and a channel that stands"
    assert Grade("shares").spread(torch.cat([three, -three + log(3.0)])).item() == pytest.approx(
        2 * nats, abs=1
    )
    assert Grade("values").spread(torch.full((3, 1), 2.0)).item() == pytest.approx(12e-4)


@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 99))
def test_shares_are_graded_by_the_divergence_of_classes(count: int, classes: int, seed: int) -> None:
    a, b = weight(count, classes, seed=seed, scale=2.0), weight(count, classes, seed=seed + 1, scale=2.0)
    assert Grade("shares").apart(a, b).item() == pytest.approx(float(divergence(a, b).sum()), abs=1e-4)


HEADS = (
    "r = Relu(x) o = Conv(r, w) so = Sigmoid(o) c = Conv(r, v) sc = Softmax<axis=1>(c) b = Conv(r, v) "
    "y = Concat<axis=1>(so, sc, b)"
)


def detector(neuron: Neuron) -> Graph:
    """A chance, three shares and three values at each of 4x4 places."""
    values = {"w": weight(1, 2, 1, 1, scale=3.0), "v": weight(3, 2, 1, 1, seed=1)}
    model = parse(HEADS, values, inputs="float[N,2,4,4] x", outputs="float[N,7,4,4] y")
    return Spike(neuron)(apply(load(model))[0])


def test_each_read_out_is_graded_by_what_comes_after_it() -> None:
    graph = detector(Signed())
    kinds = {node.name: g.kind for node, g in zip(Plan.of(graph).frontier, grades_of(graph), strict=True)}
    assert kinds == {"o": "chances", "c": "shares", "b": "values"}
    plain = parse("r = Relu(x) y = Gemm(r, w)", {"w": weight(2, 3)}, inputs="float[N,2] x")
    assert [g.kind for g in grades_of(Spike()(apply(load(plain))[0]))] == ["shares"], "scores of classes"


@pytest.mark.parametrize("neuron", [IntegrateFire(), Signed()], ids=lambda n: n.kind)
def test_an_answer_after_a_head_comes_nearer(neuron: Neuron) -> None:
    ann, x, unseen = detector(neuron), weight(24, 2, 4, 4, scale=1.0), weight(50, 2, 4, 4, seed=7, scale=1.0)
    start = LeastSquares(4)(ann, lambda: [x])
    found, (wanted,) = Distillation(4)(start, lambda: [x], ann), ann.run(unseen)
    before, after = (float((unroll(g, unseen, 4)[0] - wanted).square().mean()) for g in (start, found))
    assert after < before
    assert [node.name for node in found.outputs] == ["y"]


def missed(graph: Graph, ann: Graph, x: Tensor, aim: Aim, timesteps: int, schedule: str) -> float:
    """By how much the spikes of `graph` miss the ANN on `x`, simulated operator by operator."""
    steps, fire = run_of(schedule, timesteps, graph)
    layers: dict[str, Tensor] = {}

    def firing(node, currents):  # type: ignore[no-untyped-def]
        spikes = fire(node, currents)
        layers[node.name] = said(fire, spikes)
        return spikes

    readout = unroll(read_out(graph), x, steps, firing)
    return float(sum(aim.missed(Said(readout, layers), said_by(read_out(ann), x, aim.layers))))


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(sorted(NETWORKS)),
    st.sampled_from(KINDS),
    st.sampled_from(["stream", "pipelined"]),
    st.integers(1, 6),
    st.integers(2, 20),
    st.integers(0, 1000),
)
@example("images", Signed(), "pipelined", 4, 15, 1)
def test_on_held_out_samples_it_is_never_worse(
    name: str, neuron: Neuron, schedule: str, timesteps: int, count: int, seed: int
) -> None:
    if isinstance(neuron, IntegrateFire) and neuron.reset == "hard":
        schedule = "stream"
    if neuron.kind == "Leaky":
        schedule = "stream"
    ann = network(name, neuron, seed)
    x = weight(count, *ann.inputs[0].shape[1:], seed=seed, scale=1.0)
    start = LeastSquares(timesteps)(ann, lambda: [x])
    found = Distillation(timesteps, schedule, iterations=6)(start, lambda: [x], ann)
    held = max(1, count // 4)
    aim = Aim.of(ann, x[:-held], count)
    after, before = (missed(g, ann, x[-held:], aim, timesteps, schedule) for g in (found, start))
    assert after <= before * (1 + 1e-3) + 1e-6


@pytest.mark.parametrize(
    ("neuron", "share"), [(IntegrateFire(), 0.6), (Signed(), 0.6)], ids=["binary", "signed"]
)
def test_on_digits_unseen_answers_come_nearer_than_by_reconstruction(
    neuron: Neuron, share: float, digits_model: Path
) -> None:
    graph: Graph = Spike(neuron)(apply(load(digits_model))[0])
    source = open_source("digits", expected=graph.inputs[0].shape)
    x, _ = next(source.batches(source.parts["train"][:256], 256))
    unseen, _ = next(source.batches(source.parts["test"], 300))
    start = BiasCorrection(4)(LeastSquares(4)(graph, lambda: [x]), lambda: [x], graph)
    (wanted,) = graph.run(unseen)
    off = [
        float(divergence(unroll(calibrate(start, lambda: [x], graph), unseen, 4)[0], wanted).mean())
        for calibrate in (Reconstruction(4), Distillation(4, iterations=60))
    ]
    assert off[1] < share * off[0]


def test_convert_tells_it_the_run_it_is_for(tmp_path: Path) -> None:
    few = (
        "--data",
        "digits",
        "--calibration-samples",
        "40",
        "--samples",
        "40",
        "-T",
        "4",
        "--delay",
        "1",
        "-q",
    )
    chain = ("--calibrator", "least-squares", "--calibrator", "distillation", "--iterations", "2")
    result = CliRunner().invoke(main, ["convert", "digits", "-o", str(tmp_path / "a.snn"), *few, *chain])
    assert result.exit_code == 0, result.output
    steps = json.loads((tmp_path / "a.snn" / "report.json").read_text())["steps"]
    (told,) = (step["options"] for step in steps if step["name"] == "distillation")
    assert (told["timesteps"], told["delay"], told["schedule"], told["iterations"]) == (4, 1, "stream", 2)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(UsageError, match="the budget is 0 seconds"):
        Distillation(budget=0)
    with pytest.raises(UsageError, match="the read-out begins after step 4"):
        Distillation(4, delay=4)
    graph = Spike()(apply(load(parse("y = Relu(x)", {}, inputs="float[N,2] x")))[0])
    with pytest.raises(UsageError, match="distillation mends what a network makes of its thresholds"):
        Distillation(4)(graph, lambda: [torch.rand(4, 2)])
    ready = LeastSquares(4)(graph, lambda: [torch.rand(4, 2)])
    with pytest.raises(DataError, match="distillation needs two samples"):
        Distillation(4)(ready, lambda: [torch.rand(1, 2)])
