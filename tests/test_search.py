"""Bayesian search: knobs and halves by hand, a known optimum found, and resumed as if never interrupted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sin
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from calibrators import _blocks, with_ranges
from calibrators._blocks import Answer, Knob, answers, every_second, knobs, temperature, turned, warm
from calibrators._trials import read, write
from calibrators.bayesian import Bayesian, minimise, propose
from calibrators.least_squares import LeastSquares
from converter.data import open_source
from converter.divergence import divergence
from converter.errors import ArtefactError, DataError, Unsupported, UsageError
from converter.graph import Graph
from converter.importer import load
from converter.metrics import measure
from converter.neurons import Neuron
from converter.neurons.burst import Burst
from converter.neurons.integrate_fire import IntegrateFire
from converter.passes import apply
from converter.passes.spike import Spike
from converter.pipelined import PipelinedModel
from converter.rate import RateModel
from converter.report import Trial, best
from tests.models import parse, weight

LINE = (Knob("x", -1.5, 1.5),)


def valley(values: Mapping[str, float]) -> Trial:
    """A value of 0.3 at x = 0.61, above it everywhere else, and not symmetric."""
    x = values["x"]
    value = 0.3 + (x - 0.61) ** 2 * (1 + 0.3 * sin(9 * x))
    return Trial(dict(values), value, value, 1.0)


def small() -> Graph:
    """Three layers of neurons that have no thresholds yet."""
    body = (
        "a = Gemm(x, w) r = Relu(a) b = Gemm(r, w1) s = Relu(b) c = Gemm(s, w2) t = Relu(c) y = Gemm(t, w3)"
    )
    weights = {"w": weight(6, 8), **{f"w{i}": weight(8, 8 if i < 3 else 3, seed=i) for i in (1, 2, 3)}}
    return Spike()(apply(load(parse(body, weights, inputs="float[N,6] x")))[0])


def samples() -> list[Tensor]:
    return [weight(20, 6, seed=seed, scale=1.0) for seed in range(3)]


def standing(graph: Graph) -> list[tuple[float, float]]:
    """Threshold and first membrane of each layer."""
    ops = [n.op for n in graph if isinstance(n.op, Neuron)]
    return [(float(op.calibrated()), float(op.initial)) for op in ops]


# Knobs, halves, objective


def test_knobs_turned_by_hand() -> None:
    """Three layers in two blocks: the first two scaled by 2⁻¹, the third by 2¹; 0.1 less at the start."""
    graph = small()
    ranges = {
        n: torch.tensor(float(i)) for i, n in enumerate((n for n in graph if isinstance(n.op, Neuron)), 1)
    }
    start = with_ranges(graph, ranges)
    found = turned(start, ranges, 2, {"scale 1": -1.0, "scale 2": 1.0, "initial": -0.1})
    assert standing(found) == [(0.5, 0.4), (1.0, 0.4), (6.0, 0.4)]
    assert standing(turned(start, ranges, 2, warm(2)[0])) == standing(start) == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert {v for _, v in standing(turned(start, ranges, 1, {"scale 1": 0.0, "initial": 0.5}))} == {1.0}


def test_a_membrane_for_each_channel_stays_one_and_within_the_threshold() -> None:
    graph = small().map(
        lambda n: (
            replace(n, op=replace(n.op, initial=torch.linspace(0, 1, 8))) if isinstance(n.op, Neuron) else n
        )
    )
    ranges = {n: torch.tensor(1.0) for n in graph if isinstance(n.op, Neuron)}
    found = turned(graph, ranges, 1, {"scale 1": 0.0, "initial": 0.25})
    initial = next(n.op.initial for n in found if isinstance(n.op, Neuron))
    assert isinstance(initial, Tensor)
    assert torch.allclose(initial, (torch.linspace(0, 1, 8) + 0.25).clamp(max=1))


def test_where_a_search_looks_first_is_within_its_bounds_and_begins_at_the_start() -> None:
    space = {knob.name: knob for knob in knobs(3)}
    assert set(warm(3)[0].values()) == {0.0}
    for point in warm(3):
        assert point.keys() == space.keys()
        assert all(space[name].low <= value <= space[name].high for name, value in point.items())


def test_every_second_sample_however_they_are_batched() -> None:
    x = torch.arange(11.0).reshape(-1, 1)
    for sizes in ([11], [4, 7], [3, 1, 1, 6], [1] * 11):
        even, odd = (list(every_second(lambda s=sizes: x.split(s), first)()) for first in (0, 1))  # type: ignore[misc]
        assert torch.cat(even).flatten().tolist() == [0, 2, 4, 6, 8, 10]
        assert torch.cat(odd).flatten().tolist() == [1, 3, 5, 7, 9]


def test_an_answer_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Currents 0.5 and 1 on thresholds of 1, start ½, T = 4: 2 and 4 spikes, the ANN's answer exactly."""
    graph = Spike()(
        apply(load(parse("h = Relu(x) y = Gemm(h, w)", {"w": torch.eye(2)}, inputs="float[N,2] x")))[0]
    )
    graph = with_ranges(graph, {n: torch.tensor(1.0) for n in graph if isinstance(n.op, Neuron)})
    x = torch.tensor([[0.5, 1.0]]).expand(5, 2)
    assert answers(graph, x, (x,), 4) == ((Answer(0.0, 0.0, 0),), 3.0)
    (whole,), _ = answers(graph, x, (x.flip(1),), 4)
    assert whole.tempered > 0.1
    monkeypatch.setattr(_blocks, "MEMORY", 1)
    (parts,), _ = answers(graph, x, (x.flip(1),), 4)
    assert (parts.tempered, parts.distance) == pytest.approx((whole.tempered, whole.distance))


def test_all_outputs_of_a_network_of_boxes_are_judged_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A current of 0.6 on a threshold of 1 from ½ fires twice in four steps and says 0.5.

    y says 0.5 of 0.6: an error of (1/6)² = 1/36. z says 1 − 0.5 of 1 − 0.6: (1/4)² = 1/16. Of both the mean.
    """
    plain = parse(
        "h = Relu(x) y = Gemm(h, w) z = Gemm(h, v, b)",
        {"w": torch.eye(1), "v": -torch.eye(1), "b": torch.ones(1)},
        inputs="float[N,1] x",
        outputs="float[N,1] y, float[N,1] z",
    )
    graph = Spike()(apply(load(plain))[0])
    ready = with_ranges(graph, {n: torch.tensor(1.0) for n in graph if isinstance(n.op, Neuron)})
    x = torch.full((3, 1), 0.6)
    for memory in (_blocks.MEMORY, 1):
        monkeypatch.setattr(_blocks, "MEMORY", memory)
        (answer,), spikes = answers(ready, x, graph.run(x), 4)
        assert answer.tempered == answer.distance == pytest.approx((1 / 36 + 1 / 16) / 2, rel=1e-5)
        assert spikes == 2.0
    search = Bayesian(timesteps=4, trials=6, groups=1)
    _, trials = search.searched(graph, lambda: [x, torch.full((3, 1), 0.9)])
    assert {trial.judged for trial in trials} == {"squared error"}
    assert best(trials).objective <= trials[0].objective


def test_a_search_by_squares_does_not_go_on_from_one_by_divergence(tmp_path: Path) -> None:
    """A file says by what several outputs were judged; where classes are named, nothing, as before."""
    path = tmp_path / "search.json"
    Bayesian(timesteps=4, trials=1, search=str(path)).searched(small(), samples)
    assert "judged" not in json.loads(path.read_text())["search"]
    path.unlink()
    body = "h = Relu(x) y = Gemm(h, w) z = Gemm(h, w)"
    boxes = parse(body, {"w": weight(6, 3)}, inputs="float[N,6] x", outputs="float[N,3] y, float[N,3] z")
    graph = Spike()(apply(load(boxes))[0])
    search = Bayesian(timesteps=4, trials=1, search=str(path))
    search.searched(graph, samples)
    kept = json.loads(path.read_text())
    assert kept["search"].pop("judged") == "squared error"
    path.write_text(json.dumps(kept))
    with pytest.raises(UsageError, match="of another search: its judged is None, here it is squared error"):
        search.searched(graph, samples)


def test_an_answer_after_each_delay_is_that_of_a_model_with_it(digits_model: Path) -> None:
    graph = Spike()(apply(load(digits_model))[0])
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ready = LeastSquares(timesteps=5)(graph, lambda: [x])
    (target,) = graph.run(x)
    found, _ = answers(ready, x, (target,), 5, delays=(0, 2, 4))
    assert [each.delay for each in found] == [0, 2, 4]
    for each in found:
        readout = RateModel(ready, delay=each.delay)(x, 5)[-1]
        assert each.distance == pytest.approx(float(divergence(readout, target).mean()), rel=1e-4)


def test_an_answer_of_a_pipeline_counted_by_hand() -> None:
    """Three layers of threshold 1 from ½, T = 2: of 0.6, a window is charged with 1.2 and fires once.

    The next two are charged with 1 and fire once, from 1.5: 0.5. Bursts of 1.3 are 3 spikes at once, of 3.1,
    and count as three.
    """
    body = "a = Relu(x) b = Gemm(a, w) c = Relu(b) d = Gemm(c, w) e = Relu(d) y = Gemm(e, w)"
    plain, _ = apply(load(parse(body, {"w": torch.eye(2)}, inputs="float[N,2] x")))
    for neuron, value, said, spikes in ((IntegrateFire(), 0.6, 0.5, 1.0), (Burst(), 1.3, 1.5, 3.0)):
        graph = Spike(neuron)(plain)
        graph = with_ranges(graph, {n: torch.tensor(1.0) for n in graph if isinstance(n.op, Neuron)})
        x, answered = torch.full((3, 2), value), torch.full((3, 2), said)
        assert PipelinedModel(graph)(x, 2).tolist() == answered.tolist()
        assert answers(graph, x, (answered,), 2, "pipelined") == ((Answer(0.0, 0.0, 0),), spikes)


def test_scores_far_apart_are_tempered_and_others_are_not() -> None:
    """400 and −400 differ by 400√2 standard deviations of one: divided by 100√2, they differ by 4 of them."""
    near, far = torch.tensor([[1.0, -1.0]]), torch.tensor([[400.0, -400.0]])
    assert temperature(near) == temperature(near.softmax(1)) == temperature(far.softmax(1)) == 1.0
    assert temperature(far) == pytest.approx(100 * 2**0.5)
    assert float((far / temperature(far)).std(1)) == pytest.approx(4)


# The search itself


def test_a_known_optimum_is_found_to_two_percent() -> None:
    """Required in 35 evaluations; the optimum of the line is at 0.61 of a range of 3."""
    first = [{"x": x} for x in (0.0, -0.5, -0.25, 0.25, 0.5)]
    found = minimise(valley, LINE, first, trials=16)
    assert [t.knobs for t in found[:5]] == first
    assert abs(best(found).knobs["x"] - 0.61) < 0.02 * 3
    assert best(found).objective == pytest.approx(0.3, rel=0.02)


def test_an_interrupted_search_goes_on_as_if_it_had_not_been() -> None:
    first = [{"x": x} for x in (0.0, -0.5, 0.5)]
    kept: list[tuple[Trial, ...]] = []
    whole = minimise(valley, LINE, first, trials=5, keep=lambda done: kept.append(tuple(done)))
    assert [len(done) for done in kept] == [1, 2, 3, 4, 5]
    for done in (kept[1], kept[3]):
        assert minimise(valley, LINE, first, 5, done) == whole
    assert minimise(valley, LINE, first, 3, whole) == whole, "a longer search is not cut short"


def test_several_at_a_time_are_as_many_and_different() -> None:
    first = [{"x": x} for x in (0.0, -0.5, 0.5)]
    rounds: list[int] = []
    found = minimise(valley, LINE, first, trials=6, keep=lambda done: rounds.append(len(done)), jobs=2)
    assert rounds == [2, 3, 5, 6]
    places = [t.knobs["x"] for t in found]
    assert len(set(places)) == 6
    assert all(-1.5 <= x <= 1.5 for x in places)
    assert propose(LINE, found, 1) == propose(LINE, found, 1)


def test_of_equals_the_earliest_is_the_best() -> None:
    trials = [Trial({}, value, nats, 0.0) for value, nats in ((2.0, 0.1), (1.0, 0.2), (1.0, 0.3))]
    assert best(trials) is trials[1]


# On networks


def test_what_is_returned_is_what_was_best_on_held_out_samples() -> None:
    graph, batches = small(), samples()
    found, trials = Bayesian(timesteps=4, trials=7, groups=2).searched(graph, lambda: batches)
    x = torch.cat(batches)[1::2]
    (reached,), spikes = answers(found, x, graph.run(x), 4)
    assert reached.tempered == pytest.approx(best(trials).objective)
    assert (reached.distance, spikes) == pytest.approx(
        (best(trials).divergence, best(trials).spikes_per_neuron)
    )
    assert reached.distance <= trials[0].divergence
    only = Bayesian(timesteps=4, trials=1)(graph, lambda: batches)
    half = LeastSquares(timesteps=4)(graph, every_second(lambda: batches, 0))
    assert str(only) == str(half)
    assert all(torch.equal(a, b) for a, b in zip(tensors(only), tensors(half), strict=True))


def test_a_search_for_windows_runs_windows() -> None:
    """What it finds is best for them on held-out samples, and what it counts is what a report counts."""
    graph, batches = small(), samples()
    x = torch.cat(batches)[1::2]
    search = Bayesian(timesteps=3, trials=7, groups=2, schedule="pipelined")
    found, trials = search.searched(graph, lambda: batches)
    (target,) = graph.run(x)
    measured = measure(PipelinedModel(found), graph, [(x, None)], [3])
    assert best(trials).divergence == pytest.approx(measured.curve[-1].divergence, rel=1e-4)
    assert best(trials).spikes_per_neuron == pytest.approx(measured.curve[-1].spikes_per_neuron)
    stream, _ = replace(search, schedule="stream").searched(graph, lambda: batches)
    nats = [float(divergence(PipelinedModel(g)(x, 3), target).mean()) for g in (found, stream)]
    assert nats[0] <= nats[1]
    with pytest.raises(UsageError, match="there is no schedule 'both'"):
        Bayesian(schedule="both")


def test_a_delay_of_the_readout_is_found_beside_the_knobs() -> None:
    """Each trial stands with the delay it was best with, the first with none; a resumed search goes on so."""
    graph, batches = small(), samples()
    search = Bayesian(timesteps=4, trials=7, groups=2, delays=(0, 1, 3))
    found, trials = search.searched(graph, lambda: batches)
    assert trials[0].knobs == {"scale 1": 0.0, "scale 2": 0.0, "initial": 0.0, "delay": 0.0}
    assert trials[1].knobs | {"delay": 0.0} == trials[0].knobs  # the start again, read out as is best
    assert trials[1].objective <= trials[0].objective
    assert {trial.knobs["delay"] for trial in trials} <= {0.0, 1.0, 3.0}
    x = torch.cat(batches)[1::2]
    each, _ = answers(found, x, graph.run(x), 4, delays=(0, 1, 3))
    nearest = min(each, key=lambda answer: answer.tempered)
    assert best(trials).knobs["delay"] == nearest.delay
    assert best(trials).objective == pytest.approx(nearest.tempered)
    with pytest.raises(UsageError, match="the read-out begins after step 4"):
        replace(search, delays=(4,))


def tensors(graph: Graph) -> list[Tensor]:
    return [tensor for node in graph for tensor in node.op.tensors().values()]


def test_a_price_on_spikes_is_part_of_the_objective() -> None:
    batches = samples()
    _, trials = Bayesian(timesteps=4, trials=5, spike_weight=0.5).searched(small(), lambda: batches)
    for trial in trials:
        assert trial.objective == pytest.approx(trial.divergence + 0.5 * trial.spikes_per_neuron)
    assert best(trials).spikes_per_neuron < trials[0].spikes_per_neuron


def test_on_digits_it_beats_its_start_and_the_best_of_the_first_five(digits_model: Path) -> None:
    graph = Spike()(apply(load(digits_model))[0])
    source = open_source("digits", expected=graph.inputs[0].shape)
    batches = [x for x, _ in source.batches(source.parts["train"][:160], 80)]
    _, trials = Bayesian(timesteps=8, trials=20, groups=2).searched(graph, lambda: batches)
    assert best(trials).divergence < min(t.divergence for t in trials[:5])


def test_a_search_goes_on_from_its_file_and_from_no_other(tmp_path: Path) -> None:
    batches, file = samples(), tmp_path / "search.json"
    options: dict[str, Any] = {"timesteps": 4, "groups": 2}
    whole = Bayesian(**options, trials=7).searched(small(), lambda: batches)[1]
    Bayesian(**options, trials=6, search=str(file)).searched(small(), lambda: batches)
    counted: list[tuple[int, int]] = []
    again = Bayesian(**options, trials=7, search=str(file))
    _, trials = again.searched(small(), lambda: batches, progress=lambda *at: counted.append(at))
    assert trials == whole
    assert counted == [(7, 7)]
    assert len(json.loads(file.read_text())["trials"]) == 7
    before = file.read_bytes()
    others: Sequence[tuple[Bayesian, Graph, list[Tensor], str]] = [
        (
            replace(again, schedule="pipelined"),
            small(),
            batches,
            "its schedule is stream, here it is pipelined",
        ),
        (replace(again, timesteps=8), small(), batches, "its timesteps is 4, here it is 8"),
        (replace(again, spike_weight=1.0), small(), batches, "its spike_weight is 0.0, here it is 1.0"),
        (again, small(), [-b for b in batches], "its network and data is"),
        (again, small().map(doubled), batches, "its network and data is"),
    ]
    for other, graph, data, said in others:
        with pytest.raises(UsageError, match="is of another search: " + said):
            other(graph, lambda data=data: data)  # type: ignore[misc]
    with pytest.raises(ArtefactError, match=r"turns other knobs than scale 1, initial"):
        replace(again, groups=1)(small(), lambda: batches)
    assert file.read_bytes() == before


def doubled(node: Any) -> Any:
    return replace(node, op=node.op.map_tensors(lambda t: 2 * t)) if node.op.tensors() else node


def trial(knobs: str) -> str:
    numbers = '"objective": 1, "divergence": 1, "spikes_per_neuron": 1'
    return f'{{"search": {{}}, "trials": [{{"knobs": {knobs}, {numbers}}}]}}'


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"search": {}}',
        '{"search": {}, "trials": [{}]}',
        trial('{"y": 0}'),
        trial('{"x": "0"}'),
    ],
)
def test_a_file_that_is_no_search_is_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "search.json"
    file.write_text(text)
    with pytest.raises(ArtefactError, match="is not the file of a search") as caught:
        read(file, {}, ["x"])
    assert "--search" in caught.value.hint
    assert file.read_text() == text


def test_trials_come_back_as_they_were(tmp_path: Path) -> None:
    trials = (valley({"x": 1 / 3}), valley({"x": -0.1}))
    assert read(tmp_path / "search.json", {}, ["x"]) == ()
    write(tmp_path / "search.json", {"timesteps": 8}, trials)
    assert read(tmp_path / "search.json", {"timesteps": 8}, ["x"]) == trials
    with pytest.raises(ArtefactError, match="there is no directory"):
        read(tmp_path / "nowhere" / "search.json", {}, ["x"])


@pytest.mark.parametrize("option", ["timesteps", "trials", "groups", "jobs"])
def test_a_search_that_cannot_be_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match=f"{option} is 0; it is at least 1"):
        Bayesian(**{option: 0})
    with pytest.raises(UsageError, match="spike_weight is -1; it is at least 0"):
        Bayesian(spike_weight=-1)


def test_a_search_needs_samples_to_hold_out_and_the_batch_first() -> None:
    with pytest.raises(DataError, match="needs two samples or more, there is 1"):
        Bayesian()(small(), lambda: [torch.ones(1, 6)])
    body = "t = Transpose<perm=[1,0,2]>(x) r = Relu(t) y = Transpose<perm=[1,0,2]>(r)"
    model = parse(body, inputs="float[N,5,6] x", outputs="float[N,A,B] y")
    with pytest.raises(Unsupported, match="the batch does not stand first"):
        Bayesian(trials=1)(Spike()(apply(load(model))[0]), lambda: [weight(7, 5, 6)])
