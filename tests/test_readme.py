"""What the README shows is what happens: commands run, Python runs, figures are those measured."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.M | re.S)


def commands() -> list[str]:
    """The lines after `$ ` that call ann2snn."""
    lines = "".join(blocks("console")).splitlines()
    return [line[2:] for line in lines if line.startswith("$ ann2snn")]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_runs(command: str, tmp_path: Path) -> None:
    program = [sys.executable, "-c", "import cli; cli.main()", *shlex.split(command)[1:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "99." in done.stdout


def test_the_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    examples = doctest.DocTestParser().get_doctest("".join(blocks("python")), {}, "README.md", None, 0)
    assert len(examples.examples) >= 8
    told: list[str] = []
    result = doctest.DocTestRunner().run(examples, out=told.append)
    assert result.failed == 0, "".join(told)


def test_every_command_shown_exists_with_the_options_shown() -> None:
    import cli

    for line in "".join(blocks("sh") + blocks("console")).splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:1] != ["ann2snn"]:
            continue
        command = cli.main.commands[words[1]]
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words[2:] if word.startswith("-")} <= known, line


def table(heading: str) -> tuple[list[str], list[list[str]]]:
    """The cells of the head, and of every row, of the table under a heading."""
    text = README.partition(f"### {heading}\n")[2].partition("\n#")[0]
    lines = [line.strip("|\n").split("|") for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line] for line in lines)
    return head, rows


def measured(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(
        (ROOT / "benchmarks" / "results" / f"accuracy-{name}.json").read_text()
    )
    record["curve"] = {row["timesteps"]: f"{100 * row['accuracy']:.2f}" for row in record["rows"]}
    return record


def test_the_curves_of_the_readme_are_those_measured() -> None:
    head, rows = table("As they come")
    steps = [int(cell.removeprefix("T = ")) for cell in head if cell.startswith("T = ")]
    assert len(rows) >= 5
    for name, images, *figures, ann in rows:
        record = measured(name)
        assert record["settings"]["neuron"] == "integrate-fire"
        assert images == f"{record['data']['samples']:,}"
        assert ann == f"{100 * record['ann_accuracy']:.2f}"
        assert figures == [record["curve"][t] for t in steps], name


def test_the_trained_networks_of_the_readme_are_those_measured() -> None:
    _, rows = table("Trained for few steps")
    assert len(rows) >= 4
    for run, images, schedule, time, *shown in rows:
        record = json.loads((ROOT / "benchmarks" / "results" / f"training-{run}.json").read_text())
        (row,) = [
            r
            for r in record["rows"]
            if (r["schedule"], str(r["timesteps"]), r["calibrators"]) == (schedule, time, ["ceiling"])
        ]
        accuracies = f"{100 * row['accuracy']:.2f}", f"{100 * record['ann_accuracy']:.2f}"
        assert shown == [str(row["latency"]), accuracies[0], f"{row['spikes_per_neuron']:.2f}", accuracies[1]]
        assert images == f"{record['samples']:,}"


def test_the_short_runs_of_the_readme_are_those_measured() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "grid-resnet20.json").read_text())
    _, rows = table("Calibrated for few steps")
    assert len(rows) >= 10
    for spikes, schedule, time, *shown in rows:
        of = [
            row
            for row in record["rows"]
            if row["method"].startswith("auto")
            and (row["spikes"], row["schedule"], str(row["timesteps"])) == (spikes, schedule, time)
        ]
        accuracies = [100 * row["accuracy"] for row in of]
        said = f"{sum(accuracies) / len(of):.2f}"
        if len(of) > 1:
            said += f" ({min(accuracies):.2f} – {max(accuracies):.2f})"
        spent = sum(row["spikes_per_neuron"] for row in of) / len(of)
        assert shown == [str(of[0]["latency"]), said, f"{spent:.2f}"]
        assert {row["samples"] for row in of} == {932}
        assert {row["calibration_samples"] for row in of} == {512 if schedule == "pipelined" else 256}
    peer = {
        row["timesteps"]: f"{100 * row['accuracy']:.2f}"
        for row in record["rows"]
        if row["method"] == "SpikingJelly rate coding"
    }
    (told,) = re.findall(r"reaches ([^T]*T = .*?)\. A\s", README, re.S)
    pairs = re.findall(r"([\d.]+) at T = (\d+)", told)
    assert len(pairs) >= 3
    assert pairs == [(peer[int(t)], t) for _, t in pairs]


def test_the_quantised_weights_of_the_readme_are_those_measured() -> None:
    head, rows = table("Quantised weights")
    runs = [cell.split(", T = ") for cell in head[5:]]
    kept = sorted((ROOT / "benchmarks" / "results").glob("weights-*.json"))
    found = {}
    for path in kept:
        record = json.loads(path.read_text())
        for row in record["rows"]:
            shown = {(run["spikes"], str(run["timesteps"])): run["accuracy"] for run in row["runs"]}
            figures = [row["ann_accuracy"], *(shown[spikes, t] for spikes, t in runs)]
            size = f"{row['footprint'] / 1000:.1f}"
            facts = [f"{record['samples']:,}", row["weights"], size, *(f"{100 * f:.2f}" for f in figures)]
            found[record["network"], row["weights"]] = facts
    assert {(name, weights): [images, weights, *rest] for name, images, weights, *rest in rows} == found


def test_the_dense_networks_of_the_readme_are_those_measured() -> None:
    found = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("dense-*.json")):
        record = json.loads(path.read_text())
        named = record["named"]
        for run in record["runs"]:
            row = run["rows"][-1]
            kind = [record["network"], str(run["images"]), run["spikes"], run.get("schedule", "stream")]
            figures = f"{row['figures'][named]:.3f}", f"{run['ann'][named]:.3f}"
            costs = f"{row['output_error']:.3f}", f"{row['spikes_per_neuron']:.2f}"
            found.append(
                [
                    *kind,
                    str(row["timesteps"]),
                    str(row["latency"]),
                    f"{named} {figures[0]}",
                    figures[1],
                    *costs,
                ]
            )
    _, rows = table("Detectors and segmenters")
    assert rows == found


def test_the_networks_in_c_of_the_readme_are_those_measured() -> None:
    _, rows = table("In C")
    found = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("c-*.json"), key=lambda p: p.stem):
        for row in json.loads(path.read_text())["rows"]:
            assert row["accuracy"] == row["accuracy_in_torch"]
            kind = row["network"], f"{row['samples']:,}", row["spikes"], row["weights"], str(row["timesteps"])
            sizes = f"{row['flash'] / 1000:.1f}", f"{row['ram'] / 1000:.1f}"
            shown = f"{100 * row['accuracy']:.2f}", f"{row['spikes_per_neuron']:.2f}"
            found.append([*kind, *shown, *sizes, f"{row['instructions'] / 1e6:.1f}"])
    assert rows == found


def test_the_first_spikes_of_the_readme_are_those_measured() -> None:
    _, rows = table("One spike each")
    shown = {name: [row[1:] for row in rows if row[0] == name] for name, *_ in rows}
    for name, lines in shown.items():
        path = ROOT / "benchmarks" / "results" / f"first-spike-{name}.json"
        record = json.loads(path.read_text())
        told = []
        for row in record["rows"]:
            early = [
                [f"{d['latency']:.1f}", f"{100 * d['accuracy']:.2f}"] for d in row["decisions"] if d["chosen"]
            ]
            assert {d["samples"] for d in row["decisions"]} <= {row["samples"]}
            share = f"{100 * row['accumulates'] / row['ann_macs']:.1f}"
            accuracy, spikes = f"{100 * row['accuracy']:.2f}", f"{row['spikes_per_neuron']:.2f}"
            run = row["kernel"], row["window"], row["offset"] or row["window"], row["latency"]
            told.append([*map(str, run), accuracy, spikes, share, *(early or [["–", "–"]])[0]])
        assert lines == told
        images, ann = re.findall(rf"{name} on ([\d,]+) \S+ test\s+images \(ANN ([\d.]+) %\)", README)[0]
        assert {f"{100 * row['ann_accuracy']:.2f}" for row in record["rows"]} == {ann}
        assert {f"{row['samples']:,}" for row in record["rows"]} == {images}


def test_the_readme_says_what_early_exit_was_measured_to_save() -> None:
    """Mean steps, and the accuracy at the cap."""
    text = (ROOT / "README.md").read_text()
    for spikes in ("signed", "binary"):
        path = ROOT / "benchmarks" / "results" / f"early-exit-{spikes}.json"
        (row,) = json.loads(path.read_text())["rows"]
        assert f"take {row['mean_timesteps']:.1f}" in text
        assert f"{100 * row['accuracy_at_the_cap']:.2f}" in text
        assert (row["images"], row["cap"], row["margin_chosen_on"]) == (932, 32, 1000)


def test_the_cost_of_a_step_in_the_readme_is_that_measured() -> None:
    """Of one thread; what several threads cost stands on the page of measurements."""
    files = sorted((ROOT / "benchmarks" / "results").glob("latency*.json"))
    kept = [row for path in files for row in json.loads(path.read_text())["rows"] if row["threads"] == 1]
    _, rows = table("What a step costs")
    shown = []
    for one in kept:
        costs = {who: f"{cost['ratio']:.2f}" for who, cost in one["costs"].items()}
        ours = [costs[who] for who in ("ours", "ours, int8", "ours, two planes")]
        peers = [cost for who, cost in costs.items() if who.startswith("SpikingJelly")]
        facts = [str(one[key]) for key in ("network", "inputs", "batch", "timesteps")]
        shown.append([*facts, *ours, min(peers, key=float, default="–")])
    assert sorted(rows) == sorted(shown)


def test_what_a_search_and_spike_calibration_reach_in_the_readme_was_measured() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "grid-resnet20.json").read_text())
    told = re.findall(r"T = (\d+) from ([\d.]+) to ([\d.]+)", README.replace("\n", " "))
    pairs = [
        ("least-squares", "bayesian, from least-squares"),
        ("percentile 99.9", "percentile 99.9 + spike-calibration"),
    ]
    assert len(told) == len(pairs)
    for (time, *figures), methods in zip(told, pairs, strict=True):
        accuracy = {
            row["method"]: f"{100 * row['accuracy']:.2f}"
            for row in record["rows"]
            if (row["spikes"], str(row["timesteps"]), row["seed"]) == ("binary", time, 0)
        }
        assert figures == [accuracy[method] for method in methods]
