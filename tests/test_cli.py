"""The command line: what is printed where, what it exits with, that a run can be repeated from its file."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import cli
from converter import commands, terminal
from converter.catalogue import KINDS
from tests.conftest import ROOT
from tests.dense_networks import detector, pictures

PLAIN = ("--calibrator", "percentile")
QUICK = ("--data", "digits", "-T", "2,8", "--samples", "60", "--calibration-samples", "80")
COMMANDS = ("inspect", "convert", "tune", "train", "evaluate", "show", "diagnose", "export", "list")


def ann2snn(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(a) for a in arguments])


def process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "cli.py"), *arguments]
    options.setdefault("env", {**os.environ, "OMP_NUM_THREADS": "1"})
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def without_time(report: dict[str, Any]) -> dict[str, Any]:
    steps = [{k: v for k, v in step.items() if k != "seconds"} for step in report["steps"]]
    return {**{k: v for k, v in report.items() if k not in ("date", "timings")}, "steps": steps}


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "digits.snn"
    assert ann2snn("convert", "digits", "-o", folder, *QUICK, *PLAIN).exit_code == 0
    return folder


# help


def test_help_answers_at_once_and_without_torch() -> None:
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        told = process("--help")
        out, err = told.communicate()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # of the processor, not of the clock: others may be using it
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert (told.returncode, err) == (0, "")
    assert all(f"\n  {command} " in out for command in COMMANDS)
    assert min(seconds) < 0.3
    script = "import sys, cli; cli.main(['convert', '--help'], standalone_mode=False)"
    check = f"try:\n  {script}\nexcept SystemExit: assert not {{'torch', 'numpy', 'rich'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def examples() -> list[str]:
    each = [cli.main, *cli.main.commands.values()]
    return [line.strip() for c in each for line in str(c.epilog).splitlines() if line.startswith("  ann2snn")]


def test_every_command_has_an_example_at_the_end_of_its_help() -> None:
    assert set(COMMANDS) == set(cli.main.commands)
    for command in COMMANDS:
        help_ = ann2snn(command, "--help").stdout
        assert "Example:" in help_
        assert help_.rstrip().splitlines()[-1].strip().startswith(f"ann2snn {command}")


@pytest.mark.parametrize("example", examples())
def test_the_examples_work(
    example: str, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if example.startswith("ann2snn show"):
        photos, net = pictures(tmp_path / "set") / "images", detector(tmp_path / "net.onnx")
        task = ("--task", "detect", "--decoder", "fastestdet", "--calibration-samples", "2", "-T", "2")
        assert ann2snn("convert", net, "-o", "detector.snn", "--data", photos, *task, *PLAIN).exit_code == 0
        shutil.copyfile(photos / "p0.png", "street.jpg")
    elif " digits.snn" in example and "-o digits.snn" not in example:
        shutil.copytree(artefact, tmp_path / "digits.snn")
    result = ann2snn(*example.split()[1:])
    assert result.exit_code == 0, result.output
    assert result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes(shell: str) -> None:
    words = {"COMP_WORDS": "ann2snn convert --calibrator max", "COMP_CWORD": "3"}
    if shell == "fish":
        words["COMP_CWORD"] = "max"
    environment = {**os.environ, "_ANN2SNN_COMPLETE": f"{shell}_complete", **words}
    out, _ = process(env=environment).communicate()
    assert "maximum" in out


# convert


def test_a_conversion_prints_the_curve_and_where_the_page_is(tmp_path: Path) -> None:
    target = tmp_path / "net.snn"
    result = ann2snn("convert", "digits", "-o", target, *QUICK, *PLAIN)
    assert result.exit_code == 0
    assert result.stderr == ""
    report = json.loads((target / "report.json").read_text())
    rows = [line.split() for line in result.stdout.splitlines()]
    for point in report["curve"]:
        start = [str(point["timesteps"]), f"{100 * point['accuracy']:.1f}", "%"]
        assert any(row[:3] == start for row in rows)
    assert ["ANN", f"{100 * report['ann_accuracy']:.1f}", "%"] in rows
    assert f"the page: {target / 'report.html'}" in result.stdout
    assert sorted(p.name for p in target.iterdir()) == sorted(
        [
            "README.md",
            "graph.json",
            "model.py",
            "report.html",
            "report.json",
            "run.toml",
            "weights.safetensors",
        ]
    )


def test_json_is_the_report_and_nothing_else(tmp_path: Path) -> None:
    result = ann2snn("convert", "digits", "-o", tmp_path / "net.snn", *QUICK, "--json")
    assert result.stdout == (tmp_path / "net.snn" / "report.json").read_text()
    assert json.loads(result.stdout)["model"]["name"] == "digits"


def test_run_toml_repeats_the_run(artefact: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.snn"
    assert ann2snn("convert", "--config", artefact / "run.toml", "-o", again).exit_code == 0
    one, two = (json.loads((folder / "report.json").read_text()) for folder in (artefact, again))
    assert without_time(one) == without_time(two)
    for name in ("run.toml", "model.py", "graph.json", "weights.safetensors"):
        assert (again / name).read_bytes() == (artefact / name).read_bytes(), name


def test_the_command_line_overrides_the_file(artefact: Path, tmp_path: Path) -> None:
    target = tmp_path / "net.snn"
    options = ["-T", "4", "--calibrator", "maximum", "--per-layer"]
    assert ann2snn("convert", "--config", artefact / "run.toml", *options, "-o", target).exit_code == 0
    run = tomllib.loads((target / "run.toml").read_text())
    assert (run["timesteps"], run["calibrator"], run["per-channel"]) == ([4], ["maximum"], False)
    assert (run["samples"], run["calibration-samples"]) == (60, 80)
    report = json.loads((target / "report.json").read_text())
    assert [step["name"] for step in report["steps"]][-1] == "maximum"
    assert all(layer["threshold_min"] == layer["threshold_max"] for layer in report["layers"])


def test_a_file_may_hold_one_value_where_several_could_stand(tmp_path: Path) -> None:
    run = tmp_path / "run.toml"
    run.write_text(
        'model = "digits"\ndata = "digits"\ncalibrator = "maximum"\ntimesteps = "1,2"\nsamples = 20\n'
    )
    result = ann2snn("convert", "--config", run, "-o", tmp_path / "net.snn", "--json")
    assert [point["timesteps"] for point in json.loads(result.stdout)["curve"]] == [1, 2]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("percentil = 99", "has an unknown key 'percentil'\nhint:  did you mean 'percentile'?"),
        ('percentile = "high"', "Invalid value for '--percentile': 'high' is not a valid float"),
        ('directory = "x"', "has an unknown key 'directory'"),
        ("samples = [1]", "samples is a list"),
    ],
)
def test_a_wrong_line_in_the_file_is_a_usage_error(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "run.toml").write_text(line)
    options = ["--data", "digits", "-o", tmp_path / "n.snn", "--config", tmp_path / "run.toml"]
    result = ann2snn("convert", "digits", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert os.listdir(tmp_path) == ["run.toml"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--calibrator", "maximun"], "there is no calibrator 'maximun'; did you mean 'maximum'?"),
        (
            ["--calibrator", "maximum", "--percentile", "99"],
            "the calibrator maximum has no option --percentile",
        ),
        (["--percentile", "0"], "percentile is 0.0; it lies above 0 and up to 100"),
        (["--calibrator", "least-squares", "--headroom", "0.5"], "headroom is 0.5; it is at least 1"),
        (["--neuron", "lif"], "there is no neuron 'lif'"),
        (["--spikes", "levels:0"], "'levels:0' is none of binary, signed, levels:N, powers:N with N from 1"),
        (
            ["--spikes", "signed", "--neuron", "integrate-fire"],
            "--spikes chooses a neuron and so does --neuron",
        ),
        (["--spikes", "signed", "--reset", "hard"], "the neuron signed has no option --reset"),
        (["--spikes", "signed", "--leak", "0.9"], "the neuron signed has no option --leak"),
        (["--neuron", "leaky", "--burst", "3"], "the neuron leaky has no option --burst"),
        ([*PLAIN, "--target", "8"], "the calibrator percentile has no option --target"),
        (["--neuron", "negative-slope"], "the neuron negative-slope has an activation of its own"),
        (["--initial", "2"], "Invalid value for '--initial'"),
        (["-T", "0,1"], "Invalid value for '-T'"),
        (["--normalize", "cifar10", "--mean", "0.5"], "--normalize sets the mean and std"),
        (["--normalize", "imagnet"], "normalize 'imagnet' is not understood"),
        (["--input-shape", "image"], "is not NAME=3,224,224"),
        (["--input-shape", "imag=1,8,8"], "the model has no input 'imag'"),
        (["--output", "nowhere"], "the model has no value or node 'nowhere' to cut at"),
        (["--colour"], "No such option '--colour'"),
    ],
)
def test_a_wrong_option_is_a_usage_error(tmp_path: Path, options: list[str], said: str) -> None:
    result = ann2snn("convert", "digits", "-o", tmp_path / "net.snn", "--data", "digits", *options)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stdout == ""
    assert not os.listdir(tmp_path)


def test_the_gate_exits_with_3_and_everything_is_written(tmp_path: Path) -> None:
    few = ["convert", "digits", "--data", "digits", "--samples", "60", "-T", "1"]
    passed = ann2snn(*few, "-o", tmp_path / "passed.snn", "--max-drop", "90")
    missed = ann2snn(*few, "-o", tmp_path / "missed.snn", "--max-drop", "0.5", "--json")
    assert (passed.exit_code, missed.exit_code) == (0, 3)
    report = json.loads(missed.stdout)
    drop = 100 * (report["ann_accuracy"] - report["curve"][-1]["accuracy"])
    assert f"after 1 step the accuracy is {drop:.2f} points below the ANN's" in missed.stderr
    assert (tmp_path / "missed.snn" / "report.html").is_file()


def test_verify_compares_with_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = ann2snn("convert", "digits", "-o", tmp_path / "net.snn", *QUICK, "--verify")
    assert result.exit_code == 0
    assert "agrees with onnxruntime: largest relative difference" in result.stderr
    # had the importer read something else, it would be said, and nothing written
    read = commands.oracle.answers
    monkeypatch.setattr(commands.oracle, "answers", lambda *a: [1.001 * y for y in read(*a)])
    result = ann2snn("convert", "digits", "-o", tmp_path / "other.snn", *QUICK, "--verify")
    assert result.exit_code == 1
    assert "is not what onnxruntime computes: its answers differ by 1.0e-03" in result.stderr
    assert os.listdir(tmp_path) == ["net.snn"]


def test_reset_and_initial_reach_the_neurons(tmp_path: Path) -> None:
    result = ann2snn(
        "convert", "digits", "-o", tmp_path / "n.snn", *QUICK, *PLAIN, "--reset", "hard", "--initial", "0"
    )
    assert result.exit_code == 0
    graph = json.loads((tmp_path / "n.snn" / "graph.json").read_text())
    neurons = [node["settings"] for node in graph["nodes"] if node["op"] == "IntegrateFire"]
    assert neurons
    assert all(n["reset"] == "hard" and n["initial"] == 0 for n in neurons)


@pytest.mark.parametrize(
    ("kind", "op", "settings"),
    [
        ("signed", "Signed", {}),
        ("levels:4", "MultiLevel", {"levels": 4}),
        ("powers:3", "PowerOfTwo", {"levels": 3}),
    ],
)
def test_the_kind_of_spikes_and_the_run_aimed_at_are_chosen(
    tmp_path: Path, kind: str, op: str, settings: dict[str, int]
) -> None:
    chain = ["--calibrator", "least-squares", "--calibrator", "bias-correction", "--rounds", "1"]
    target, aimed = tmp_path / "n.snn", ["--target", "4", "--headroom", "1.5"]
    result = ann2snn("convert", "digits", "-o", target, *QUICK, "--spikes", kind, *chain, *aimed)
    assert result.exit_code == 0, result.stderr
    nodes = json.loads((target / "graph.json").read_text())["nodes"]
    assert [n["settings"] for n in nodes if n["op"] == op] == [settings] * 6
    steps = json.loads((target / "report.json").read_text())["steps"]
    assert [s["options"] for s in steps[-2:]] == [
        {"timesteps": 4, "per_channel": True, "headroom": 1.5},
        {"timesteps": 4, "rounds": 1, "schedule": "stream"},
    ]


def test_the_windows_of_a_pipeline_are_converted_evaluated_and_diagnosed(tmp_path: Path) -> None:
    chain = ["--calibrator", "least-squares", "--calibrator", "bias-correction", "--rounds", "1"]
    target = tmp_path / "p.snn"
    time = ["--schedule", "pipelined", "-T", "2,4"]
    result = ann2snn("convert", "digits", "-o", target, *QUICK, *chain, *time, "-v")
    assert result.exit_code == 0, result.stderr
    assert "windows of T steps, 6 layers of neurons in a row: an answer after 7·T steps" in result.stdout
    assert re.search(r"^ +T +latency +accuracy", result.stdout, re.MULTILINE)
    report = json.loads((target / "report.json").read_text())
    assert [(p["timesteps"], p["latency"]) for p in report["curve"]] == [(2, 14), (4, 28)]
    assert report["steps"][-1]["options"]["schedule"] == "pipelined"
    assert tomllib.loads((target / "run.toml").read_text())["schedule"] == "pipelined"
    again = ann2snn("evaluate", target, "--data", "digits", "--samples", "60", "--json")
    for now, before in zip(json.loads(again.stdout)["curve"], report["curve"], strict=True):
        assert (now["latency"], now["accuracy"]) == (before["latency"], before["accuracy"])
        assert now["spikes_per_neuron"] == before["spikes_per_neuron"]
    found = ann2snn(
        "diagnose", target, "digits", "--data", "digits:test", "-T", "4", "--samples", "20", "--json"
    )
    layers = json.loads(found.stdout)["layers"]
    assert len(layers) == 6
    assert layers[0]["inherited"] < 1e-5 < layers[0]["steps"] < layers[0]["error_half"]


def test_a_delay_is_kept_and_steps_within_it_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "d.snn"
    assert ann2snn("convert", "digits", "-o", target, *QUICK, "--delay", "2", "-T", "4").exit_code == 0
    assert json.loads((target / "graph.json").read_text())["delay"] == 2
    for refused in (
        ann2snn("evaluate", target, "--data", "digits:test", "-T", "2,4"),
        ann2snn("convert", "digits", "-o", tmp_path / "e.snn", *QUICK, "--delay", "2", "-T", "1,2,4"),
    ):
        assert refused.exit_code == 2
        assert "the read-out begins after step 2, so there is no answer after" in refused.stderr


# tune


def test_a_search_is_told_kept_and_continued(tmp_path: Path) -> None:
    first, second = tmp_path / "one.snn", tmp_path / "two.snn"
    few = ("tune", "digits", *QUICK, "--groups", "2", "--rounds", "1", "--iterations", "2")
    result = ann2snn(*few, "-o", first, "--trials", "5")
    assert result.exit_code == 0, result.output
    assert "bayesian: 144 thresholds in 6 layers" in result.stdout
    assert "5 trials, " in result.stdout
    assert sorted(os.listdir(tmp_path)) == ["one.snn"], "the search has moved into the artefact"
    kept = json.loads((first / "search.json").read_text())["trials"]
    steps = json.loads((first / "report.json").read_text())["steps"]
    chain = ["bayesian", "coordinate", "reconstruction", "coordinate"]
    assert [s["name"] for s in steps[-4:]] == chain
    assert [t["knobs"] for t in steps[-4]["trials"]] == [pytest.approx(t["knobs"], rel=1e-8) for t in kept]
    assert [s["trials"] for s in steps[-3:]] == [[], [], []]
    told = [s["options"] for s in steps[-4:]]
    assert {(o["timesteps"], o["schedule"]) for o in told} == {(told[0]["timesteps"], "stream")}
    assert (told[1]["rounds"], told[2]["iterations"], told[3]["rounds"]) == (1, 2, 1)

    assert ann2snn(*few, "-o", second, "--trials", "6", "--resume", first).exit_code == 0
    longer = json.loads((second / "search.json").read_text())["trials"]
    assert longer[:5] == kept
    assert len(longer) == 6

    # run.toml repeats it from nothing, without its file
    again = tmp_path / "again.snn"
    assert ann2snn("convert", "--config", second / "run.toml", "-o", again).exit_code == 0
    assert (again / "weights.safetensors").read_bytes() == (second / "weights.safetensors").read_bytes()
    assert not (again / "search.json").exists()


def test_a_search_that_comes_last_finds_the_delay_of_the_readout(tmp_path: Path) -> None:
    made = tmp_path / "last.snn"
    last = ("--calibrator", "bayesian", "--trials", "2", "-T", "6,8", "--json", "-o", made)
    done = ann2snn("convert", "digits", "--data", "digits", "--calibration-samples", "64", *last)
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    (search,) = (step for step in told["steps"] if step["name"] == "bayesian")
    assert search["options"]["delays"] == [0, 1, 2, 3, 4, 5]  # up to one step before the first answer
    found = min(search["trials"], key=lambda trial: trial["objective"])
    delay = int(found["knobs"]["delay"])
    assert delay > 0
    assert told["timing"] == [f"the first {delay} step{'s' * (delay > 1)} are run and not read out"]
    again = ann2snn("evaluate", made, "--data", "digits", "-T", "6,8", "--json")
    assert json.loads(again.stdout)["curve"][1]["accuracy"] == told["curve"][1]["accuracy"]
    fixed = ann2snn("convert", "digits", "--data", "digits", *last, "--delay", "2", "--force")
    (search,) = (step for step in json.loads(fixed.stdout)["steps"] if step["name"] == "bayesian")
    assert search["options"]["delays"] == [2]
    assert "delay" not in search["trials"][0]["knobs"]


def test_an_interrupted_search_keeps_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calibrators import bayesian

    done = 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done == 3:
            raise KeyboardInterrupt
        return answers(*arguments)

    answers = bayesian.answers
    monkeypatch.setattr(bayesian, "answers", interrupted)
    few = ("tune", "digits", *QUICK, "--trials", "3", "--calibrator", "bayesian", "-o", tmp_path / "n.snn")
    stopped = ann2snn(*few)
    assert stopped.exit_code == 130
    assert f"the trials so far are in {tmp_path / 'n.snn.search.json'}: the same command" in stopped.stderr
    assert os.listdir(tmp_path) == ["n.snn.search.json"]
    missed = ann2snn(*few, "--max-drop", "0")
    assert missed.exit_code in (0, 3)
    assert done == 4, "two trials were read from the file"
    assert os.listdir(tmp_path) == ["n.snn"]


def test_only_what_a_search_left_can_be_resumed(tmp_path: Path, artefact: Path) -> None:
    target = tmp_path / "n.snn"
    result = ann2snn("tune", "digits", *QUICK, "-o", target, "--resume", artefact)
    assert (result.exit_code, os.listdir(tmp_path)) == (2, [])
    assert "holds no search.json\nhint:  ann2snn tune leaves one" in result.stderr
    result = ann2snn("tune", "digits", *QUICK, "-o", target, "--calibrator", "percentile")
    assert (result.exit_code, os.listdir(tmp_path)) == (2, [])
    assert "the calibrator percentile has no option --search" in result.stderr


@pytest.mark.parametrize(("neuron", "option"), [("leaky", ("leak", 0.75)), ("burst", ("burst", 3))])
def test_a_neuron_takes_its_option(tmp_path: Path, neuron: str, option: tuple[str, float]) -> None:
    name, value = option
    target = tmp_path / "n.snn"
    result = ann2snn("convert", "digits", "-o", target, *QUICK, "--neuron", neuron, f"--{name}", str(value))
    assert result.exit_code == 0, result.stderr
    nodes = json.loads((target / "graph.json").read_text())["nodes"]
    assert [n["settings"] for n in nodes if n["op"] == neuron.capitalize()] == [{name: value}] * 6


# evaluate, diagnose


def test_an_evaluation_repeats_the_figures_of_the_conversion(artefact: Path) -> None:
    result = ann2snn("evaluate", artefact, "--data", "digits", "--samples", "60", "--json")
    found, report = json.loads(result.stdout), json.loads((artefact / "report.json").read_text())
    for key in ("layers", "metrics", "ann_accuracy"):
        assert found[key] == report[key], key
    for again, before in zip(found["curve"], report["curve"], strict=True):
        # the conversion held the spikes against the network before its batch norms were folded
        near = {key: pytest.approx(before[key], rel=1e-5) for key in ("output_error", "divergence")}
        assert again == {**before, **near}
    assert result.stderr == ""


def test_fewer_bits_for_synapses_are_for_a_gpu(artefact: Path) -> None:
    refused = ann2snn("evaluate", artefact, "--data", "digits", "--device", "cpu", "--precision", "bfloat16")
    assert refused.exit_code == 2
    assert "--precision bfloat16 is for rate codes on a GPU" in refused.stderr
    assert "this network runs on cpu, as RateModel" in refused.stderr


def test_an_evaluation_shows_operations_and_energy(artefact: Path) -> None:
    result = ann2snn("evaluate", artefact, "--data", "digits:test", "--samples", "20", "-T", "1,2")
    assert [
        line.split()[0] for line in result.stdout.splitlines() if line.split()[:1] in (["1"], ["2"], ["4"])
    ]
    assert "accumulates (spikes)" in result.stdout
    assert "energy, µJ" in result.stdout
    assert "measured on 20 of 599 in digits:test, drawn with seed 0" in result.stdout


def test_data_of_another_scale_are_warned_of(artefact: Path) -> None:
    few = ["--data", "digits:test", "--samples", "20", "-T", "1"]
    loud = ann2snn("evaluate", artefact, *few, "--scale", "255")
    assert loud.exit_code == 0
    assert "warning: the data lie in 0 … 255, calibration saw 0 … 1" in loud.stderr
    assert ann2snn("evaluate", artefact, *few, "--scale", "255", "-q").stderr == ""


def test_what_is_no_artefact_is_refused(tmp_path: Path) -> None:
    result = ann2snn("evaluate", tmp_path, "--data", "digits")
    assert result.exit_code == 1
    assert (
        "is not a converted network: it has no graph.json\nhint:  ann2snn convert makes one" in result.stderr
    )


def test_a_diagnosis_names_the_first_layer_that_drifts(artefact: Path) -> None:
    options = ["--data", "digits:test", "--samples", "20", "-T", "4"]
    found = json.loads(ann2snn("diagnose", artefact, "digits", *options, "--json").stdout)
    first = next(layer for layer in found["layers"] if layer["error"] > 0.1)
    assert found["first"] == first["name"] == "/Relu"
    assert first["cause"].startswith("not enough steps")
    told = ann2snn("diagnose", artefact, "digits", *options).stdout
    assert "/Relu is the first layer that drifts by more than 10.0 %" in told
    assert f"       {first['cause']}\nhint:  run it for 8 steps or more" in told
    calm = ann2snn("diagnose", artefact, "digits", *options, "--tolerance", "9").stdout
    assert "no layer drifts by more than 900.0 %" in calm


# inspect, list


def test_an_inspection_says_what_becomes_of_every_node() -> None:
    result = ann2snn("inspect", "digits")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "becomes a spiking neuron" in result.stdout
    assert result.stdout.rstrip().endswith("converts")
    assert "/Relu" not in result.stdout
    assert "/Relu" in ann2snn("inspect", "digits", "-v").stdout


def test_an_inspection_as_json() -> None:
    found = json.loads(ann2snn("inspect", "digits", "--json").stdout)
    assert found["convertible"] is True
    assert found["inputs"] == {"image": "Nx1x8x8"}
    roles = {part["name"]: part["role"] for part in found["parts"]}
    assert roles["/MaxPool"] == "pool"
    assert set(roles.values()) == {"neuron", "synapse", "input", "pool"}


def test_the_word_digits_is_the_network_in_the_package_and_a_path_is_a_path(
    digits_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(digits_model, "digits")
    Path("digits").write_bytes(b"not a network")
    assert ann2snn("inspect", "digits").exit_code == 0
    assert "is not an ONNX file" in ann2snn("inspect", "./digits").stderr


@pytest.mark.parametrize("kind", KINDS)
def test_everything_there_is_has_a_sentence(kind: str) -> None:
    result = ann2snn("list", kind)
    head, *lines = result.stdout.splitlines()
    assert head == kind
    assert lines
    assert all(len(line.split()) > 3 for line in lines if not line.startswith("   ") and kind != "ops")
    assert result.stdout in ann2snn("list").stdout


def test_names_are_listed_without_torch() -> None:
    script = (
        "import sys; from converter.catalogue import page; print(page('calibrators'), page('passes'));"
        "assert 'torch' not in sys.modules"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert " ".join(told.stdout.split()).count("percentile Robust normalisation") == 1
    assert "fold-batchnorm" in told.stdout


def test_a_list_that_there_is_not() -> None:
    result = ann2snn("list", "neuron")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "did you mean 'neurons'?" in result.stderr


# what is our fault, and what nobody's


def test_a_bug_stays_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "inspect", lambda given: 1 / 0)
    result = ann2snn("inspect", "digits")
    assert result.exit_code == 1
    assert "ZeroDivisionError" in result.stderr
    assert "error: this is a bug in ann2snn" in result.stderr


def test_a_reader_who_leaves_is_no_error() -> None:
    listing = process("list", "passes", bufsize=1)
    assert listing.stdout is not None
    listing.stdout.close()
    assert listing.stderr is not None
    assert listing.stderr.read() == ""
    listing.stderr.close()
    listing.wait()


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stderr", "patience", "quiet", "shown"),
    [
        (Terminal, 0.0, False, True),
        (Terminal, 60.0, False, False),  # the work is done before
        (Terminal, 0.0, True, False),
        (io.StringIO, 0.0, False, False),
    ],
)
def test_progress_is_for_terminals_and_for_work_that_takes_long(
    stderr: type[io.StringIO], patience: float, quiet: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stderr())
    monkeypatch.setattr(terminal, "PATIENCE", patience)
    with terminal.Bars(quiet=quiet) as progress:
        progress("measuring", 5, 10)
        progress("measuring", 10, 10)
    said = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert ("measuring" in said and "10/10" in said and "━" in said) is shown
    assert bool(said) is shown


def test_a_device_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = ["--data", "digits", "--device", "cuda"]
    result = ann2snn("convert", "digits", "-o", tmp_path / "net.snn", *options)
    assert (result.exit_code, os.listdir(tmp_path)) == (2, [])
    assert "there is no CUDA device here\nhint:  --device cpu, or auto" in result.stderr
