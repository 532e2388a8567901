"""The grid: every cell is measured once, kept at once, and stands on the page as it was measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _common, grid, methods, plots
from benchmarks.__main__ import main
from benchmarks._common import RESULTS, read_result
from benchmarks.grid import Job, conditions, done, jobs, merged, rows_of
from benchmarks.methods import METHODS, Measured, Method
from benchmarks.page import cost_table, grid_section, spread, times_table
from benchmarks.presets import Preset
from benchmarks.rows import by_line
from converter.errors import Unsupported
from converter.pipeline import Settings
from converter.report import Point

BOTH = "least-squares + bias-correction"
KEPT = sorted(path.stem.removeprefix("grid-") for path in RESULTS.glob("grid-*.json"))


def measured(*times: int, accuracy: float = 0.5) -> Measured:
    points = tuple(
        Point(
            timesteps=t,
            accuracy=accuracy,
            agreement=accuracy,
            output_error=0.1,
            divergence=0.2,
            spikes_per_neuron=t / 2,
            latency=3 * t,
            microjoules=t * 2.0,
        )
        for t in times
    )
    return Measured(points, 0.9, 10.0, 100, "as told")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, tuple[int, ...], int]]:
    """Two methods that note what they are asked, one of them aiming at T; results go to tmp_path."""
    asked: list[tuple[str, tuple[int, ...], int]] = []

    def noting(name: str) -> Callable[[Preset, Settings], Measured]:
        def measure(preset: Preset, settings: Settings) -> Measured:
            asked.append((f"{name} {settings.neuron}", settings.timesteps, settings.seed))
            return measured(*settings.timesteps)

        return measure

    both = (
        Method("plain", ("binary", "signed"), noting("plain")),
        Method("aimed", ("levels:4",), noting("aimed"), aimed=True),
    )
    for module in (grid, plots):
        monkeypatch.setattr(module, "METHODS", both)
    monkeypatch.setattr(_common, "RESULTS", tmp_path)
    return asked


def run(*arguments: str) -> int:
    return main(["accuracy", "--grid", "digits", *arguments])


def test_what_does_not_look_at_t_runs_once_and_what_aims_at_t_for_each(
    table: list[Any], tmp_path: Path
) -> None:
    assert run("-T", "4", "1", "--seeds", "0", "1") == 0
    assert table == [
        *[("plain integrate-fire", (1, 4), seed) for seed in (0, 1)],
        *[("plain signed", (1, 4), seed) for seed in (0, 1)],
        *[("aimed multi-level", (t,), seed) for seed in (0, 1) for t in (1, 4)],
    ]
    rows = read_result("grid-digits", tmp_path)["rows"]
    assert len(rows) == 3 * 2 * 2
    assert rows[0] == {
        **{"method": "plain", "package": "ann2snn", "spikes": "binary", "schedule": "stream", "seed": 0},
        **{"timesteps": 1, "latency": 3, "accuracy": 0.5, "agreement": 0.5, "output_error": 0.1},
        **{"divergence": 0.2},
        **{"spikes_per_neuron": 0.5, "microjoules": 2.0, "ann_accuracy": 0.9, "ann_microjoules": 10.0},
        **{"samples": 100, "recipe": "as told", "calibration_samples": 256, "limit": None, "run": 0},
        "versions": conditions(Job(METHODS[0], "binary", 0, (1,)), 256, None)["versions"],
    }


def test_what_is_there_is_not_measured_again_unless_forced(table: list[Any]) -> None:
    assert run("-T", "1", "4") == 0
    first = len(table)
    assert run("-T", "1", "4") == 0
    assert len(table) == first
    assert run("-T", "1", "4", "8", "--methods", "aimed") == 0
    assert table[first:] == [("aimed multi-level", (8,), 0)]
    assert run("-T", "1", "--methods", "aimed", "--force") == 0
    assert table[first + 1 :] == [("aimed multi-level", (1,), 0)]


def test_an_interrupted_grid_goes_on_where_it_stopped(
    table: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = grid.METHODS

    def stopped(preset: Preset, settings: Settings) -> Measured:
        raise KeyboardInterrupt

    monkeypatch.setattr(grid, "METHODS", (whole[0], replace(whole[1], measure=stopped)))
    with pytest.raises(KeyboardInterrupt):
        run("-T", "1", "2")
    assert {row["method"] for row in read_result("grid-digits", tmp_path)["rows"]} == {"plain"}
    monkeypatch.setattr(grid, "METHODS", whole)
    assert run("-T", "1", "2") == 0
    assert [name for name, _, _ in table].count("plain signed") == 1
    assert {row["method"] for row in read_result("grid-digits", tmp_path)["rows"]} == {"plain", "aimed"}


def test_rows_of_other_methods_stay_and_a_newer_row_takes_the_place_of_its_older_self() -> None:
    plain, other = (Job(replace(METHODS[0], name=name), "binary", 0, (1, 2)) for name in ("plain", "other"))
    under = conditions(plain, 256, None)
    record: dict[str, Any] = {"rows": [], "runs": [{"command": "first"}, {"command": "second"}]}
    record = merged(record, rows_of(plain, measured(1, 2), under, 0) + rows_of(other, measured(1), under, 0))
    record = merged(
        record | {"runs": [*record["runs"], {"command": "third"}]},
        rows_of(plain, measured(1, 2, accuracy=0.7), under, 1),
    )
    assert [(r["method"], r["timesteps"], r["accuracy"], r["run"]) for r in record["rows"]] == [
        ("plain", 1, 0.7, 1),
        ("plain", 2, 0.7, 1),
        ("other", 1, 0.5, 0),
    ]
    assert record["runs"] == [{"command": "first"}, {"command": "third"}]


def test_other_versions_and_other_samples_are_measured_again() -> None:
    job = Job(METHODS[0], "binary", 0, (1, 2))
    under = conditions(job, 256, None)
    record = {"rows": rows_of(job, measured(1, 2), under, 0)}
    assert done(record, job, under)
    assert not done(record, replace(job, timesteps=(1, 4)), under)
    assert not done(record, replace(job, seed=1), under)
    assert not done(record, replace(job, spikes="signed"), under)
    assert not done(record, job, conditions(job, 128, None))
    assert not done(record, job, conditions(job, 256, 100))
    assert not done(record, job, under | {"versions": {"ann2snn": "9", "torch": "9"}})


def test_a_network_that_a_method_cannot_do_is_told_and_the_rest_goes_on(
    table: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refusing(preset: Preset, settings: Settings) -> Measured:
        raise Unsupported("the peer cannot do digits", [("Add 'a'", "too many inputs")])

    plain, aimed = grid.METHODS
    monkeypatch.setattr(grid, "METHODS", (replace(plain, spikes=("binary",), measure=refusing), aimed))
    assert run("-T", "1") == 0
    assert run("-T", "1") == 0
    record = read_result("grid-digits", tmp_path)
    why = "the peer cannot do digits; Add 'a': too many inputs"
    assert record["refused"] == [{"method": "plain", "spikes": "binary", "why": why}]
    assert f"- plain, binary: {why}" in grid_section({"digits": record})


def test_a_peer_that_is_not_there_is_told_before_anything_is_measured(
    table: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, aimed = grid.METHODS
    monkeypatch.setattr(grid, "METHODS", (plain, replace(aimed, package="no-such-package")))
    assert run("-T", "1") == 2
    told = capsys.readouterr().err
    assert "no-such-package is not installed, 'aimed' is its method" in told
    assert "[peers]" in told
    assert table == []


def test_a_method_of_ours_goes_through_the_pipeline_and_says_what_it_did(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_common, "RESULTS", tmp_path)
    few = tuple(replace(m, spikes=("levels:4",)) for m in METHODS if m.name in ("maximum", BOTH))
    monkeypatch.setattr(grid, "METHODS", few)
    assert run("-T", "1", "4", "--samples", "60", "--calibration-samples", "32") == 0
    found = by_line(read_result("grid-digits", tmp_path)["rows"])
    assert set(found) == {("levels:4", "maximum"), ("levels:4", BOTH)}
    for times in found.values():
        (last,) = times[4]
        assert last["accuracy"] > 0.9
        assert last["samples"] == 60
        assert last["ann_accuracy"] > 0.95
    aimed = found["levels:4", BOTH][4][0]["recipe"]
    assert aimed.startswith(
        "least-squares (timesteps 4, per_channel True, headroom 1.0) + bias-correction (timesteps 4"
    )
    assert (tmp_path / "grid-digits.svg").is_file()


def test_the_table_of_methods_is_one_name_a_method() -> None:
    assert len({method.name for method in METHODS}) == len(METHODS)
    assert set(methods.EVERY) == {spikes for method in METHODS for spikes in method.spikes}
    assert set(methods.EVERY) == set(plots.COLOURS) == set(plots.MEANING)
    work = list(jobs(METHODS, (1, 2), (0,)))
    assert len({str(job) for job in work}) == len(work)


def row(method: str, spikes: str, time: int, accuracy: float, seed: int = 0, **others: Any) -> dict[str, Any]:
    facts = {"package": "ann2snn", "latency": time, "agreement": accuracy + 0.05, "ann_accuracy": 0.9}
    costs = {"spikes_per_neuron": time / 2, "microjoules": 3.0 * time, "ann_microjoules": 50.0, "samples": 10}
    key = {"method": method, "spikes": spikes, "timesteps": time, "seed": seed, "accuracy": accuracy}
    return key | facts | costs | others


ROWS = [
    row("maximum", "signed", 2, 0.7),
    row("maximum", "binary", 2, 0.5, seed=0),
    row("maximum", "binary", 2, 0.6, seed=1),
    row("maximum", "binary", 4, 0.89),
]


def test_tables_show_the_mean_and_the_range_over_seeds_and_leave_gaps_open() -> None:
    assert times_table(ROWS, "accuracy") == (
        "| spikes | method | T = 2 | T = 4 | ANN |\n"
        "| --- | --- | --- | ---: | ---: |\n"
        "| binary | maximum | 55.00 (50.0–60.0) | 89.00 | 90.00 |\n"
        "| signed | maximum | 70.00 |  | 90.00 |\n"
    )
    assert spread([0.25]) == "25.00"
    assert spread([]) == ""


def test_the_cost_is_that_of_the_first_t_within_a_point_of_the_ann() -> None:
    assert cost_table(ROWS) == (
        "| spikes | method | latency | missing, % | spikes per neuron | energy, µJ |\n"
        "| --- | --- | --- | ---: | ---: | ---: |\n"
        "| binary | maximum | 4 | 1.11 | 2.00 | 12 |\n"
        "| signed | maximum | 2, not yet | 22.22 | 1.00 | 6 |\n"
    )


def test_without_labels_it_is_agreement_that_counts() -> None:
    blind = [r | {"accuracy": None, "ann_accuracy": None} for r in ROWS[:1]]
    (line,) = plots.lines(blind)
    assert line.values["answer"] == [0.75]
    assert "| signed | maximum | 2, not yet | 25.00 |" in cost_table(blind)


def test_a_line_is_thick_when_no_other_of_ours_is_ahead_of_it() -> None:
    rows = [
        *ROWS,
        row("percentile 99.9", "binary", 2, 0.56),
        row("SpikingJelly rate coding", "binary", 2, 0.95, package="spikingjelly"),
    ]
    drawn = plots.lines(rows)
    assert [(line.spikes, line.method, plots.best(line, drawn)) for line in drawn] == [
        ("binary", "maximum", False),
        ("binary", "percentile 99.9", True),
        ("binary", "SpikingJelly rate coding", False),
        ("signed", "maximum", True),
    ]
    assert (drawn[0].low, drawn[0].high) == ([0.5, 0.89], [0.6, 0.89])


def drawing(tmp_path: Path, rows: Sequence[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(_common, "RESULTS", tmp_path)
    _common.write_result("grid-net", ["accuracy"], {"rows": rows})
    return plots.draw("net").read_text()


def test_the_same_rows_give_the_same_picture_and_others_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, again = (drawing(tmp_path, ROWS, monkeypatch) for _ in range(2))
    assert once == again
    other = drawing(tmp_path, [*ROWS[:3], row("maximum", "binary", 4, 0.88)], monkeypatch)
    assert identifier(once) == plots.digest(ROWS) != identifier(other)
    assert "2026" not in once  # no date, or the file would differ every day


def identifier(svg: str) -> str:
    found = re.search(r"<dc:identifier>(\w+)</dc:identifier>", svg)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("network", KEPT)
def test_a_kept_grid_is_whole(network: str) -> None:
    record = read_result(f"grid-{network}")
    rows = record["rows"]
    assert len({grid.identity(r) for r in rows}) == len(rows)
    assert {r["run"] for r in rows} == set(range(len(record["runs"])))
    for seed in {r["seed"] for r in rows}:  # the same samples for all, so the same ANN
        of = [r for r in rows if r["seed"] == seed]
        assert len({(r["samples"], r["ann_accuracy"]) for r in of}) == 1
        assert len({(r["schedule"], r["calibration_samples"]) for r in of}) == len(
            {r["schedule"] for r in of}
        )
    assert all(r["accuracy"] <= r["ann_accuracy"] + 0.02 for r in rows)  # better than that would be a bug
    assert all(made["command"].startswith("python -m benchmarks accuracy --") for made in record["runs"])
    assert all(f" --grid {network}" in made["command"] for made in record["runs"])


@pytest.mark.parametrize("network", KEPT)
def test_a_kept_picture_is_of_the_rows_beside_it(network: str) -> None:
    """One T alone is no line: such a grid is a row in a table and has no picture."""
    rows, picture = read_result(f"grid-{network}")["rows"], RESULTS / f"grid-{network}.svg"
    lined = {m for m in {(r["method"], r["spikes"]) for r in rows} if len(times_of(m, rows)) > 1}
    assert picture.is_file() == bool(lined)
    if lined:
        assert identifier(picture.read_text()) == plots.digest(rows), "run: python -m benchmarks page"


def times_of(method: tuple[str, str], rows: list[dict[str, Any]]) -> set[int]:
    return {r["timesteps"] for r in rows if (r["method"], r["spikes"]) == method}
