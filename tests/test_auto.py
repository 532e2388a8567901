"""Auto: which chain of calibrators is taken for which run, and what is said and written of it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from calibrators._room import Room
from calibrators.auto import CHAINS, COST, Auto
from cli import main
from converter.config import seconds
from converter.errors import DataError, UsageError
from converter.graph import Graph
from converter.importer import load
from converter.neurons import neurons
from converter.passes import apply
from converter.passes.spike import Spike
from tests.models import parse, weight


def small(neuron: str = "integrate-fire") -> Graph:
    body = "h = Relu(x) g = Gemm(h, w) k = Relu(g) y = Gemm(k, v)"
    model = parse(body, {"w": weight(6, 8), "v": weight(8, 3)}, inputs="float[N,6] x")
    return Spike(neurons[neuron]())(apply(load(model))[0])


def chosen(neuron: str, schedule: str, budget: float, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The names of the chain, if a sample takes 10 ms and there are 100."""
    monkeypatch.setattr(Auto, "_timed", lambda self, graph, batches: (0.01, Room.ample(100)))
    chain, _ = Auto(8, schedule, budget).chosen(small(neuron), lambda: [torch.rand(100, 6)])
    return tuple(name for name, _ in chain)


@pytest.mark.parametrize(
    ("neuron", "schedule", "kind"),
    [
        ("integrate-fire", "stream", "binary"),
        ("signed", "stream", "other"),
        ("multi-level", "stream", "other"),
        ("integrate-fire", "pipelined", "pipelined"),
    ],
)
def test_the_best_chain_that_the_budget_allows_is_taken(
    neuron: str, schedule: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run over the samples takes a second here, so a chain costs the sum of its COST in seconds."""
    for chain in CHAINS[kind]:
        cost = sum(COST.get(name, 0.0) for name in chain)
        assert chosen(neuron, schedule, 1.001 * cost or 0.001, monkeypatch) == chain
    costs = [sum(COST.get(name, 0.0) for name in chain) for chain in CHAINS[kind]]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == 0.0, "there is always one that fits"


def test_it_says_what_it_took_and_what_it_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Auto, "_timed", lambda self, graph, batches: (0.01, Room.ample(100)))
    _, why = Auto(8, "stream", 5.0).chosen(small(), lambda: [])
    assert why == (
        "least-squares, bias-correction: the best known for binary spikes, stream, T = 8 in 5 s "
        f"(about 3 s for 100 samples; {', '.join(CHAINS['binary'][0])} would take longer)"
    )


def test_a_run_of_thousands_of_steps_is_not_tried() -> None:
    chain, why = Auto(1025).chosen(small(), lambda: [])
    assert [name for name, _ in chain] == ["percentile"]
    assert why == "percentile: T = 1025 is above 1024"


def test_weights_are_not_learnt_from_a_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"{', '.join(CHAINS['binary'][0])} needs 64"
    for count in (64, 63):
        monkeypatch.setattr(Auto, "_timed", lambda self, graph, batches, n=count: (0.01, Room.ample(n)))
        chain, why = Auto(8, "stream", 1000.0).chosen(small(), lambda: [])
        assert [name for name, _ in chain] == list(CHAINS["binary"][0 if count == 64 else 1])
        assert why.endswith(f"{count} samples" + "; " * (count < 64) + said * (count < 64) + ")")


def test_where_memory_is_short_all_samples_run_twice_and_few_are_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """100 samples at 10 ms, twice: 2 s; coordinate looks at 10 of them 9 times: 0.9 s."""
    room = Room(100, 5, sparing=True, looked=10, learnt=63)
    monkeypatch.setattr(Auto, "_timed", lambda self, graph, batches: (0.01, room))
    for budget, expected in ((2.91, CHAINS["binary"][1]), (2.89, CHAINS["binary"][2])):
        chain, why = Auto(8, "stream", budget).chosen(small(), lambda: [])
        assert tuple(name for name, _ in chain) == expected
    _, why = Auto(8, "stream", 100.0).chosen(small(), lambda: [])
    assert why.endswith(
        "(about 3 s for 100 samples; least-squares, coordinate, reconstruction, coordinate needs 64, "
        "and 63 fit into memory)"
    )


def test_the_time_of_a_sample_is_taken_and_samples_that_do_not_fit_are_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    each, room = Auto(8)._timed(small(), lambda: [torch.rand(20, 6), torch.rand(20, 6)])
    assert room == Room.ample(40)
    assert 0 < each < 1
    monkeypatch.setattr("calibrators._room.MEMORY", 4 * 8 * 8 * 25)  # T = 8 of 8 values: 25 samples
    monkeypatch.setattr("calibrators._room.STORED", 8)
    assert Auto(8)._timed(small(), lambda: [torch.rand(40, 6)])[1].samples == 25
    with pytest.raises(DataError, match="there are no calibration samples"):
        Auto(8)._timed(small(), lambda: [])


def test_as_a_calibrator_it_is_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Auto, "_timed", lambda self, graph, batches: (0.01, Room.ample(100)))
    graph, x = small(), weight(40, 6, seed=3, scale=1.0)
    auto = Auto(4, "stream", 3.0)
    expected = graph
    for _, calibrate in auto.chosen(graph, lambda: [x])[0]:
        expected = calibrate(expected, lambda: [x], graph)
    assert torch.equal(auto(graph, lambda: [x]).run(x)[0], expected.run(x)[0])


@pytest.mark.parametrize(("text", "expected"), [("60", 60.0), ("60s", 60.0), ("5m", 300.0), ("0.5h", 1800.0)])
def test_a_length_of_time(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "s", "-3s", "0", "5 minutes", "nan", "inf"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ValueError, match="is no length of time; 60s, 5m or 1h is"):
        seconds(text)


def ann2snn(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_convert_chooses_says_so_and_writes_down_what_it_chose(tmp_path: Path) -> None:
    few = ("--data", "digits", "--calibration-samples", "160", "--samples", "60", "-T", "4", "-q")
    target, again = tmp_path / "a.snn", tmp_path / "b.snn"
    result = ann2snn("convert", "digits", "-o", target, *few, "--budget", "1h")
    assert result.exit_code == 0, result.output
    run = tomllib.loads((target / "run.toml").read_text())
    assert run["calibrator"] == list(CHAINS["binary"][0])
    assert "budget" not in run
    steps = [s for s in json.loads((target / "report.json").read_text())["steps"] if s["name"] == "auto"]
    assert steps[0]["did"].startswith("least-squares, coordinate, reconstruction, coordinate: the best known")
    assert ann2snn("convert", "--config", target / "run.toml", "-o", again, "-q").exit_code == 0
    assert (again / "weights.safetensors").read_bytes() == (target / "weights.safetensors").read_bytes()


def test_an_option_of_percentile_chooses_it_and_a_budget_is_for_auto(tmp_path: Path) -> None:
    few = ("--data", "digits", "--calibration-samples", "40", "--samples", "60", "-T", "4", "-q")
    target = tmp_path / "a.snn"
    assert ann2snn("convert", "digits", "-o", target, *few, "--percentile", "99").exit_code == 0
    assert tomllib.loads((target / "run.toml").read_text())["calibrator"] == ["percentile"]
    result = ann2snn(
        "convert", "digits", "-o", tmp_path / "b.snn", *few, "--calibrator", "maximum", "--budget", "9s"
    )
    assert result.exit_code == 2
    assert "the calibrator maximum has no option --budget" in result.stderr


def test_no_time_is_refused() -> None:
    with pytest.raises(UsageError, match="the budget is 0 seconds; it lies above 0"):
        Auto(budget=0)
