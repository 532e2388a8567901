"""Energy: by hand, where it grows with what it counts, and a case that costs more than the ANN."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from cli import main
from converter.energy import MODELS, Constants, Counts, EnergyModel, cost, costs, read
from converter.errors import UsageError

COUNTS = Counts(
    accumulates=1000, multiplications=50, updates=300, spikes=20, neurons=10, ann_multiplications=400
)
BY_NAME = {model.name: model for model in MODELS}


def test_arithmetic_alone_by_hand() -> None:
    found = cost(BY_NAME["45 nm, fp32"], COUNTS)
    assert found["arithmetic_microjoule"] == pytest.approx((1000 * 0.9 + 50 * 4.6) * 1e-6)
    assert found["updates_microjoule"] == pytest.approx(300 * 1.8 * 1e-6)
    assert found["weights_microjoule"] == found["membranes_microjoule"] == found["spikes_microjoule"] == 0
    assert found["snn_microjoule"] == pytest.approx(1670e-6)  # 900 + 230 + 540 pJ
    assert found["ann_microjoule"] == pytest.approx(1840e-6)


def test_memory_by_hand() -> None:
    """5 pJ a word: what was 1,670 pJ against 1,840 is 20,270 against 5,890."""
    found = cost(BY_NAME["45 nm, fp32, memory"], COUNTS)
    assert found["weights_microjoule"] == pytest.approx(1050 * 5e-6)
    assert found["membranes_microjoule"] == pytest.approx(1000 * 10e-6)
    assert found["updates_microjoule"] == pytest.approx(300 * 11.8e-6)
    assert found["spikes_microjoule"] == pytest.approx((20 * 5 + 50 * 5) * 1e-6)
    assert found["snn_microjoule"] == pytest.approx((1130 + 5250 + 10000 + 3540 + 350) * 1e-6)
    assert found["ann_microjoule"] == pytest.approx((400 * 14.6 + 10 * 5) * 1e-6)
    assert found["snn_to_ann_ratio"] == pytest.approx(20270 / 5890)


def test_the_ratio_is_that_of_the_two() -> None:
    for found in costs(COUNTS).values():
        assert found["snn_to_ann_ratio"] == pytest.approx(found["snn_microjoule"] / found["ann_microjoule"])
        parts = ("arithmetic", "weights", "membranes", "updates", "spikes")
        assert sum(found[f"{part}_microjoule"] for part in parts) == pytest.approx(found["snn_microjoule"])


@given(st.integers(1, 10**6), st.integers(2, 64), st.sampled_from(MODELS))
def test_linear_in_what_it_counts(accumulates: int, times: int, model: EnergyModel) -> None:
    one = Counts(accumulates, 0, accumulates, accumulates, 10, 100)
    more = replace(
        one, accumulates=times * accumulates, updates=times * accumulates, spikes=times * accumulates
    )
    assert cost(model, more)["snn_microjoule"] == pytest.approx(times * cost(model, one)["snn_microjoule"])
    assert cost(model, more)["ann_microjoule"] == cost(model, one)["ann_microjoule"]


def test_without_multiplications_there_is_nothing_to_compare_with() -> None:
    assert cost(MODELS[0], replace(COUNTS, ann_multiplications=0))["snn_to_ann_ratio"] is None


def test_a_model_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "chip.toml"
    path.write_text('name = "chip"\nassumption = "measured"\n[picojoule]\nadd = 2\nupdate = 1.5\n')
    assert read(path) == EnergyModel("chip", "measured", Constants(add=2, update=1.5))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("add = 1", "no energy model"),
        ("[picojoule]\nad = 1", "'ad' that is not known"),
        ("[picojoule]\nadd = -1", "0 or more"),
        ("[picojoule]\nadd = true", "0 or more"),
        ("[picojoule", "cannot read"),
    ],
)
def test_a_file_that_is_none(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "chip.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read(path)


def test_evaluate_shows_it_beside_the_others(tmp_path: Path) -> None:
    made, chip = str(tmp_path / "d.snn"), tmp_path / "chip.toml"
    chip.write_text('name = "my chip"\n[picojoule]\nadd = 1\n')
    run = CliRunner().invoke
    options = ["--data", "digits", "--samples", "20", "-q"]
    done = run(main, ["convert", "digits", "-o", made, "-T", "4", "--calibrator", "percentile", *options])
    assert done.exit_code == 0, done.output
    shown = run(main, ["evaluate", made, *options, "--energy", str(chip)])
    assert shown.exit_code == 0, shown.output
    assert "my chip" in shown.output
    assert "45 nm, int8, memory" in shown.output
    assert run(main, ["evaluate", made, *options, "--energy", str(tmp_path / "no.toml")]).exit_code == 2
