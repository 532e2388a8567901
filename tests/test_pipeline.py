"""The straight line from a file to a measured network: disjoint samples, one report for one seed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from calibrators.bias_correction import BiasCorrection
from calibrators.initial_membrane import InitialMembrane
from calibrators.maximum import Maximum
from calibrators.percentile import Percentile
from calibrators.spike_calibration import SpikeCalibration
from calibrators.temporal_bias import TemporalBiasCorrection
from converter.account import said_of_search
from converter.artefact import read, write
from converter.data import Source, open_source
from converter.encodings.poisson import Poisson
from converter.errors import ArtefactError, DataError
from converter.graph import Graph
from converter.pipeline import Calibrate, Conversion, Settings, convert
from converter.report import Trial


def digits(graph: Graph) -> Source:
    return open_source("digits", expected=graph.inputs[0].shape)


SHORT = Settings(timesteps=(1, 16), samples=60, calibration_samples=64, batch_size=32)


@pytest.fixture(scope="module")
def conversion(digits_model: Path) -> Conversion:
    return convert(digits_model, digits, [("percentile", Percentile())], SHORT)


def without_times(conversion: Conversion) -> str:
    document = json.loads(conversion.report.to_json())
    assert document.pop("timings").keys() == {"import", "passes", "percentile", "measurement"}
    assert document.pop("date")
    return json.dumps(document)


def test_the_report_repeats_itself_apart_from_its_times(digits_model: Path, conversion: Conversion) -> None:
    again = convert(digits_model, digits, [("percentile", Percentile())], SHORT)
    assert without_times(again) == without_times(conversion)
    other = convert(
        digits_model, digits, [("percentile", Percentile())], Settings(**vars(SHORT) | {"seed": 1})
    )
    assert without_times(other) != without_times(conversion)


def test_the_report_says_what_was_done(conversion: Conversion) -> None:
    report = conversion.report
    assert report.model.name == "digits"
    assert report.model.inputs == {"image": "Nx1x8x8"}
    assert report.data.samples == 60
    assert report.data.calibration.startswith("64 of 1198 in train")
    assert report.data.measurement.startswith("60 of 599 in test")
    assert [s.name for s in report.steps][-1] == "percentile"
    assert report.steps[-1].options == {"percentile": 99.9, "per_channel": True}
    assert "thresholds in 6 layers" in report.steps[-1].did
    assert len(report.pooling) == 3
    assert report.analog == ()
    assert [p.timesteps for p in report.curve] == [1, 16]
    assert report.ann_accuracy is not None
    assert report.curve[-1].accuracy is not None
    assert report.curve[-1].accuracy > 0.9


def test_calibrators_run_in_the_order_they_are_named(digits_model: Path) -> None:
    chain = [("maximum", Maximum()), ("percentile", Percentile(50.0))]
    graph = convert(digits_model, digits, chain, SHORT).model.graph
    only = convert(digits_model, digits, chain[1:], SHORT).model.graph
    assert str(graph) == str(only)
    first, second = (
        next(n.op for n in g if "threshold" in n.op.tensors()).tensors()["threshold"] for g in (graph, only)
    )
    assert torch.equal(first, second)


def test_a_step_says_what_it_changed_and_nothing_else(digits_model: Path) -> None:
    chain = [("percentile", Percentile()), ("bias-correction", BiasCorrection(timesteps=4, rounds=1))]
    first, second = convert(digits_model, digits, chain, SHORT).report.steps[-2:]
    assert "144 thresholds in 6 layers, from" in first.did
    layers = re.fullmatch(r"changed the weights of (\d) layers, no threshold", second.did)
    assert layers is not None
    assert 1 <= int(layers[1]) <= 6


HALF, FULL = {"scale 1": -0.5, "initial": 0.0}, {"scale 1": 0.25, "initial": -0.1}
STANDING = "(scale 1 +0.25, initial -0.10)"


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        (
            [Trial(HALF, 0.5, 0.5, 1.0), Trial(FULL, 0.25, 0.25, 1.5)],
            "2 trials, KL on held-out samples from 0.5 to 0.25 nats, spikes per neuron from 1 to 1.5 "
            f"in trial 2 {STANDING}",
        ),
        (
            [Trial(HALF, 1.5, 0.5, 1.0), Trial(FULL, 1.4, 0.6, 0.8), Trial(HALF, 1.5, 0.5, 1.0)],
            "3 trials, KL on held-out samples from 0.5 to 0.6 nats, spikes per neuron from 1 to 0.8 "
            f"in trial 2 {STANDING}",
        ),
        (
            [Trial(HALF, 0.5, 0.5, 1.0)],
            "1 trial, none better on held-out samples than the start (KL 0.5 nats)",
        ),
        (
            [Trial(HALF, 0.5, 0.5, 1.0, "squared error"), Trial(FULL, 0.25, 0.25, 1.0, "squared error")],
            f"2 trials, squared error on held-out samples from 0.5 to 0.25 in trial 2 {STANDING}",
        ),
    ],
)
def test_what_a_search_found_in_words(trials: list[Trial], said: str) -> None:
    assert said_of_search(trials) == said


def test_a_step_says_what_it_put_in(digits_model: Path) -> None:
    chain: list[tuple[str, Calibrate]] = [
        ("percentile", Percentile()),
        ("initial-membrane", InitialMembrane(timesteps=4, rounds=1)),
        ("temporal-bias", TemporalBiasCorrection(timesteps=4, rounds=1)),
        ("spike-calibration", SpikeCalibration()),
    ]
    *_, starts, biases, withdrawals = convert(digits_model, digits, chain, SHORT).report.steps
    assert re.fullmatch(r"144 first membranes in 6 layers, from [\d.-]+ to [\d.]+", starts.did)
    assert re.fullmatch(r"[1-6] TemporalBias put in", biases.did)
    assert withdrawals.did == "6 Withdrawal put in"


def test_data_scaled_otherwise_than_those_calibrated_on_are_warned_of(
    digits_model: Path, tmp_path: Path, conversion: Conversion
) -> None:
    x = np.random.default_rng(0).random((80, 1, 8, 8), np.float32)
    np.savez(tmp_path / "d.npz", train_x=x, test_x=255 * x)

    def source(graph: Graph) -> Source:
        return open_source(str(tmp_path / "d.npz"), expected=graph.inputs[0].shape)

    (warning,) = convert(digits_model, source, [("maximum", Maximum())], SHORT).report.warnings
    assert "were they scaled the same way" in warning
    assert conversion.report.warnings == ()


def test_poisson_input_is_scaled_to_what_calibration_saw(digits_model: Path) -> None:
    found = convert(
        digits_model, digits, [("maximum", Maximum())], Settings(**vars(SHORT) | {"encoding": "poisson"})
    )
    assert found.model.encoding == Poisson(peak=1.0)
    assert found.input_range == (0.0, 1.0)


def test_an_artefact_is_read_back_as_the_same_network(tmp_path: Path, conversion: Conversion) -> None:
    target = tmp_path / "net.snn"
    write(conversion, target, run="seed = 0\n")
    texts = {"README.md", "graph.json", "model.py", "report.html", "report.json", "run.toml"}
    assert {p.name for p in target.iterdir()} == texts | {"weights.safetensors"}
    back = read(target)
    assert back.report == json.loads(conversion.report.to_json())
    assert back.input_range == (0.0, 1.0)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(back.model(x, 8), conversion.model(x, 8))
    with pytest.raises(ArtefactError, match="exists"):
        write(conversion, target, run="")
    write(conversion, target, run="", force=True)


def test_a_damaged_artefact_is_told(tmp_path: Path, conversion: Conversion) -> None:
    with pytest.raises(ArtefactError, match=r"is not a converted network: it has no graph\.json"):
        read(tmp_path)
    target = tmp_path / "net.snn"
    write(conversion, target, run="")
    weights = (target / "weights.safetensors").read_bytes()
    (target / "weights.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ArtefactError, match="is damaged"):
        read(target)


def test_labels_that_are_no_class_of_the_network(digits_model: Path, tmp_path: Path) -> None:
    np.savez(
        tmp_path / "d.npz", x=np.random.default_rng(0).random((90, 1, 8, 8), np.float32), y=np.full(90, 10)
    )
    source = lambda graph: open_source(str(tmp_path / "d.npz"), expected=graph.inputs[0].shape)  # noqa: E731
    with pytest.raises(DataError, match="label 10"):
        convert(digits_model, source, [("maximum", Maximum())], SHORT)
