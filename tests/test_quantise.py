"""Quantised weights from the command line to the artefact and back; shift and add for first spikes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from cli import main
from converter import artefact, catalogue
from converter.commands import model_path
from converter.errors import ArtefactError, UsageError
from converter.fixed_point import fixed_point
from converter.importer import load
from converter.integer import IntegerModel
from converter.neurons import Neuron
from converter.ops import Conv, ConvTranspose, Linear
from converter.program import program_of
from converter.shift_add import FRACTION, shift_add, table
from converter.weights import parse

CONVERT = ["convert", "digits", "--data", "digits", "-T", "1,4", "-q"]
CONVERT += ["--samples", "100", "--calibration-samples", "64"]
CHAIN = [f"--calibrator={name}" for name in ("least-squares", "bias-correction", "reconstruction")]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network with log2:5 weights and signed spikes."""
    target = tmp_path_factory.mktemp("weights") / "digits.snn"
    asked = [*CONVERT, *CHAIN, "--weights", "log2:5", "--spikes", "signed", "-o", str(target)]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    return target


def test_the_report_says_what_became_of_the_weights(converted: Path) -> None:
    report = json.loads((converted / "report.json").read_text())
    steps = {step["name"]: step["did"] for step in report["steps"]}
    weights = report["metrics"]["weights"]
    assert report["settings"]["weights"] == "log2:5"
    assert steps["weights"].startswith("7 layers of weights held as log2:5 in")
    assert steps["reconstruction"] == "left out: it changes weights, and they are held as log2:5"
    assert weights["bits"] == 5
    assert len(weights["relative_error"]) == 7
    assert all(0.05 < error < 0.2 for error in weights["relative_error"].values())
    names = [layer["name"] for layer in report["layers"]]
    assert [layer["weight_error"] for layer in report["layers"]][names.index("/Relu")] == pytest.approx(
        weights["relative_error"]["/stem/stem.0/Conv"]
    )
    assert 'weights = "log2:5"' in (converted / "run.toml").read_text()
    assert "relative error of the quantised weights" in (converted / "report.html").read_text()
    assert "log2:5" in (converted / "README.md").read_text()


def test_memory_is_five_bits_a_weight_and_two_bytes_a_channel(converted: Path) -> None:
    stored = artefact.read(converted)
    ops = [n.op for n in stored.model.graph if isinstance(n.op, Conv | ConvTranspose | Linear)]
    weights, channels = sum(op.weight.numel() for op in ops), sum(len(op.weight) for op in ops)
    assert stored.report["metrics"]["weights"]["footprint"] == round(weights * 5 / 8 + 2 * channels)
    tensors = [t for n in stored.model.graph for t in n.op.tensors().values()]
    others = sum(4 * t.numel() for t in tensors) - 4 * weights
    assert stored.report["metrics"]["footprint"] == others + round(weights * 5 / 8 + 2 * channels)


def test_codes_come_back_from_the_artefact_and_run(converted: Path) -> None:
    """The network read back is still in fixed point, so making it so again changes nothing, and it spikes."""
    graph = artefact.read(converted).model.graph
    program = program_of(graph)
    codes = {name: t for name, t in program.tensors().items() if name.endswith(".codes")}
    assert len(codes) == 7
    assert all(t.dtype == torch.int8 and int(t.abs().max()) <= 15 for t in codes.values())
    thresholds = [n.op.calibrated() for n in graph if isinstance(n.op, Neuron)]
    again = [n.op.calibrated() for n in fixed_point(graph, 1.0) if isinstance(n.op, Neuron)]
    assert all(torch.equal(a, b) for a, b in zip(thresholds, again, strict=True))
    answer = next(IntegerModel(program).steps(torch.rand(2, 1, 8, 8)))
    assert answer.shape == (2, 10)


def test_the_ann_is_that_of_the_float_weights(converted: Path) -> None:
    ann, x = artefact.read(converted).ann, torch.rand(8, 1, 8, 8)
    assert not any(getattr(n.op, "packed", None) for n in ann)
    torch.testing.assert_close(ann.run(x)[0], load(model_path("digits")).run(x)[0], rtol=1e-5, atol=1e-5)


def test_codes_that_were_changed_are_told(converted: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.snn"
    copy.mkdir()
    for file in converted.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    codes = load_file(copy / "codes.safetensors")
    name = next(key for key in codes if key.endswith(".codes"))
    save_file({**codes, name: -codes[name]}, copy / "codes.safetensors")
    with pytest.raises(ArtefactError) as refused:
        artefact.read(copy)
    assert "not what their codes say" in str(refused.value)


def test_the_emitted_model_is_the_one_measured(converted: Path) -> None:
    namespace: dict[str, object] = {"__file__": str(converted / "model.py"), "__name__": "emitted"}
    exec(compile((converted / "model.py").read_text(), "model.py", "exec"), namespace)
    x = torch.rand(3, 1, 8, 8)
    made = namespace["load"]
    assert callable(made)
    emitted = made(converted / "weights.safetensors")(x, timesteps=4)
    assert torch.equal(emitted, artefact.read(converted).model(x, 4))


@pytest.mark.parametrize("name", ["int16", "int3.5", "log2:1", "log2", "float16"])
def test_weights_that_there_are_not_are_a_usage_error(name: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [*CONVERT, "--weights", name, "-o", str(tmp_path / "x.snn")])
    assert done.exit_code == 2
    assert "bits" in done.output or "float32, exact15, int8, int4, log2:5 or pow2:5" in done.output
    assert not (tmp_path / "x.snn").exists()


def test_random_input_spikes_keep_their_size(tmp_path: Path) -> None:
    """Poisson spikes are on no grid: weights are quantised, and nothing else is said to be."""
    asked = [*CONVERT, "--calibrator", "maximum", "--weights", "int8", "--encoding", "poisson"]
    done = CliRunner().invoke(main, [*asked, "-o", str(tmp_path / "x.snn")])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "x.snn" / "report.json").read_text())
    assert [s["name"] for s in report["steps"]][-2:] == ["weights", "maximum"]


def test_the_formats_are_listed() -> None:
    assert {"integer", "log2", "pow2"} <= {line.split()[0] for line in catalogue.page("weights").splitlines()}


@pytest.mark.parametrize(("name", "steps", "tau"), [("log2:5", 2, 4), ("pow2:4", 1, 4), ("log2:4", 2, 8)])
def test_shift_and_add_is_the_product_of_weights_and_first_spikes(name: str, steps: int, tau: int) -> None:
    """Bit for bit the sum of LUT entries in double precision; each product within 2^-9 of the exact one."""
    format = parse(name)
    assert format is not None
    generator = torch.Generator().manual_seed(1)
    codes, top = format.encode(torch.randn(5, 40, generator=generator))
    times = torch.randint(-1, 24, (3, 40), generator=generator)
    whole, exponent = shift_add(codes, top, times, tau, steps)
    exact = torch.zeros(3, 5, dtype=torch.float64)
    looked_up = torch.zeros(3, 5, dtype=torch.float64)
    sizes = torch.zeros(3, 5, dtype=torch.float64)
    for b in range(3):
        for o in range(5):
            for i in range(40):
                if codes[o, i] == 0 or times[b, i] < 0:
                    continue
                q = tau // steps * (int(top[o]) - abs(int(codes[o, i])) + 1) - int(times[b, i])
                sign = 1 if codes[o, i] > 0 else -1
                exact[b, o] += sign * 2.0 ** (q / tau)
                looked_up[b, o] += sign * table(tau)[q % tau] / 2**FRACTION * 2.0 ** (q // tau)
                sizes[b, o] += 2.0 ** (q / tau)
    assert torch.equal(whole.double() * 2.0**exponent, looked_up)
    assert ((looked_up - exact).abs() <= sizes * 2.0**-9).all()


def test_a_time_constant_between_the_exponents_is_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 2"):
        shift_add(torch.ones(1, 1), torch.zeros(1), torch.zeros(1, 1), 3, 2)
