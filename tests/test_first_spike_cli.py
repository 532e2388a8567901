"""`--code first-spike` on the command line: an artefact that repeats, is read back, and runs by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from converter import artefact
from converter.first_spike import FirstSpikeModel
from converter.neurons.first_spike import FirstSpike
from tests.test_cli import ann2snn, without_time

FIRST = ("--data", "digits", "--samples", "120", "--calibration-samples", "60", "--code", "first-spike")
KINDS = {
    "base-2": ("--window", "8,16"),
    "linear": ("--window", "4,8", "--kernel", "linear"),
    "floor": ("--window", "9,12", "--tau", "2", "--coder", "floor"),
    "overlapping": ("--window", "8,16", "--kernel", "linear", "--offset", "5"),
    "continuous": ("--window", "continuous"),
}


@pytest.fixture(scope="module", params=KINDS)
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first") / f"{request.param}.snn"
    result = ann2snn("convert", "digits", "-o", folder, *FIRST, *KINDS[request.param])
    assert result.exit_code == 0, result.stderr
    said = "first spikes a layer" if request.param != "continuous" else "windows of continuous time"
    assert said in result.stdout
    return folder


def test_the_artefact_is_read_back_and_measured_alike(converted: Path) -> None:
    report = json.loads((converted / "report.json").read_text())
    stored = artefact.read(converted)
    assert isinstance(stored.model, FirstSpikeModel)
    layers = stored.model.stages
    step = 5 if converted.stem == "overlapping" else None
    assert [p["latency"] for p in report["curve"]] == [
        (layers - 1) * (step or p["timesteps"]) + p["timesteps"] for p in report["curve"]
    ]
    assert all(0 < p["spikes_per_neuron"] <= 1 for p in report["curve"])
    assert report["curve"][-1]["accuracy"] > 0.97
    assert any("the earliest spike of its window wins" in each for each in report["pooling"])
    again = ann2snn("evaluate", converted, "--data", "digits", "--samples", "120", "--json")
    for now, before in zip(json.loads(again.stdout)["curve"], report["curve"], strict=True):
        assert (now["latency"], now["accuracy"]) == (before["latency"], before["accuracy"])
        assert now["spikes_per_neuron"] == before["spikes_per_neuron"]


def test_the_run_is_repeated_from_its_file(converted: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.snn"
    assert ann2snn("convert", "--config", converted / "run.toml", "digits", "-o", again).exit_code == 0
    first, second = (json.loads((p / "report.json").read_text()) for p in (converted, again))
    first, second = without_time(first), without_time(second)
    for report in (first, second):  # what was chosen stands there as it was chosen
        report["steps"] = [step for step in report["steps"] if step["name"] != "auto"]
    assert first == second
    assert (again / "model.py").read_bytes() == (converted / "model.py").read_bytes()
    assert (again / "weights.safetensors").read_bytes() == (converted / "weights.safetensors").read_bytes()


def test_the_file_runs_in_a_clean_interpreter_bit_for_bit(converted: Path, tmp_path: Path) -> None:
    model = artefact.read(converted).model
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 0.5
    window = json.loads((converted / "report.json").read_text())["curve"][-1]["timesteps"]
    torch.save(x, tmp_path / "x.pt")
    script = (
        f"import sys, torch; sys.path.insert(0, {str(converted)!r}); torch.set_num_threads(1)\n"
        f"from model import load; y = load()(torch.load({str(tmp_path / 'x.pt')!r}), timesteps={window})\n"
        f"assert 'converter' not in sys.modules; torch.save(y, {str(tmp_path / 'y.pt')!r})"
    )
    command = [sys.executable, "-I", "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        assert torch.equal(torch.load(tmp_path / "y.pt"), model(x, window))
    text = (converted / "model.py").read_text()
    assert "A neuron spikes at most once a window" in text
    assert max(map(len, text.splitlines())) <= 110


def test_pages_say_what_an_early_answer_saves(converted: Path) -> None:
    report = json.loads((converted / "report.json").read_text())
    page, card = ((converted / name).read_text() for name in ("report.html", "README.md"))
    if converted.stem == "continuous":
        assert report["decisions"] == []
        assert "Early answers" not in page
        return
    rows = report["decisions"]
    assert [row["steps"] for row in rows] == sorted(row["steps"] for row in rows)
    assert rows[0]["steps"] == 1, "no lead asked for is an answer after the first step"
    full = report["curve"][-1]
    for row in rows:
        assert row["latency"] == pytest.approx(full["latency"] - full["timesteps"] + row["steps"])
    assert "Early answers" in page
    assert any(row["chosen"] for row in rows)
    assert "Answered as soon as one output leads by enough" in page
    assert "Answered as soon as one output leads by enough" in card


def test_a_diagnosis_compares_two_windows(converted: Path) -> None:
    options = ("--data", "digits:test", "-T", "16", "--samples", "20", "--json")
    found = ann2snn("diagnose", converted, "digits", *options)
    if converted.stem == "continuous":
        assert found.exit_code == 2
        assert "time is continuous, there is no window of" in found.stderr
        return
    assert found.exit_code == 0, found.stderr
    assert len(json.loads(found.stdout)["layers"]) == 6


def test_in_continuous_time_the_digits_are_answered_as_by_the_ann(tmp_path: Path) -> None:
    options = ("--data", "digits", "--code", "first-spike", "--window", "continuous", "--json")
    report = json.loads(ann2snn("convert", "digits", "-o", tmp_path / "d.snn", *options).stdout)
    (point,) = report["curve"]
    assert (point["accuracy"], point["agreement"]) == (report["ann_accuracy"], 1.0)
    assert point["output_error"] < 1e-5
    assert {layer["clipped"] for layer in report["layers"]} == {0.0}
    assert report["warnings"] == []
    tight = ann2snn("convert", "digits", "-o", tmp_path / "t.snn", *options, "--slack", "1",
                    "--calibrator", "percentile", "--percentile", "90")  # fmt: skip
    assert "activations beyond their window were clipped in 6 layers" in tight.stderr
    assert json.loads(tight.stdout)["curve"][0]["output_error"] > 1e-3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("-T", "8"),
            "--timesteps belongs to the rate code, in which a neuron spikes many times\nhint:  --window",
        ),
        (("--spikes", "signed"), "--spikes belongs to the rate code"),
        (("--schedule", "stream"), "--schedule belongs to the rate code"),
        (("--delay", "2"), "--delay belongs to the rate code"),
        (("--calibrator", "temporal-bias"), "the calibrator temporal-bias mends many spikes of a neuron"),
        (("--calibrator", "bayesian"), "the calibrator bayesian mends many spikes of a neuron"),
        (("--neuron", "leaky"), "--neuron belongs to the rate code"),
        (("--window", "4", "--tau", "8"), "a window of 4 steps is too small for the range of its values"),
        (("--window", "continuous", "--kernel", "base-2"), "continuous time has the linear kernel"),
        (("--kernel", "linear", "--tau", "2"), "tau is 2; it is of the kernel base-2 alone"),
        (("--window", "0"), "whole numbers of 1 or more are wanted"),
        (("--window", "8", "--code", "rate"), "--window belongs to the first-spike code"),
        (("--tau", "2", "--code", "rate"), "--tau belongs to the first-spike code"),
        (("--offset", "2", "--code", "rate"), "--offset belongs to the first-spike code"),
        (
            ("--offset", "9", "--window", "8"),
            "a window of 8 steps is over before the next layer fires, 9 after",
        ),
        (("--offset", "2", "--window", "continuous"), "continuous time has no steps"),
        (("--neuron", "first-spike", "--code", "rate"), "the neuron first-spike"),
    ],
)
def test_options_that_do_not_go_together(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = ann2snn("convert", "digits", "-o", tmp_path / "no.snn", *FIRST, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert not list(tmp_path.iterdir())


def test_what_there_is_to_choose_from() -> None:
    assert "first-spike" in ann2snn("list", "codes").stdout
    kernels = ann2snn("list", "kernels").stdout
    assert "base-2" in kernels
    assert "linear" in kernels
    assert FirstSpike().form in kernels
