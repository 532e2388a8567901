"""The benchmarks measure what they say: distances by hand, right and wrong networks, the results kept."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from benchmarks import (
    _common,
    crossover,
    dense_page,
    early_exit,
    imports,
    latency,
    profile,
    scaling,
    zoo,
)
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks._common import RESULTS, markdown, read_result, write_result
from benchmarks.accuracy import ann_accuracy, calibrator
from benchmarks.importing import Reference, distance, in_float32, measure
from benchmarks.page import PAGE, text
from benchmarks.presets import PRESETS
from calibrators.percentile import Percentile
from converter.errors import ModelError
from converter.graph import Graph
from converter.ops import Conv, Linear
from converter.rate import RateModel

# Fixed at batch 1, also inside the Reshape. The weights of the Gemm are added by `small`.
SMALL = """
<ir_version: 8, opset_import: ["": 17]>
agraph (float[1,2,4,4] image) => (float[1,3] scores)
<int64[2] shape = {1, 32}>
{
    positive = Relu (image)
    flat = Reshape (positive, shape)
    scores = Gemm <transB = 1> (flat, weight)
}
"""


def small(tmp_path: Path, text: str = SMALL, kind: type[np.floating] = np.float32) -> Path:
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).normal(size=(3, 32)).astype(kind)
    model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    path = tmp_path / "small.onnx"
    onnx.save(model, path)
    return path


def test_the_list_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in BENCHMARKS)


def test_an_unknown_benchmark_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed"]) == 2
    assert "there is no benchmark 'speed'; one of import, accuracy" in capsys.readouterr().err


def test_distance_is_relative_to_the_largest_value_of_each_output() -> None:
    first, second = torch.tensor([1.0, -4.0]), torch.tensor([0.5])
    assert distance([first, second], [first, second]) == 0
    assert distance([torch.tensor([2.0, -4.0]), second], [first, second]) == 0.25  # 1 of 4
    assert distance([first, torch.tensor([0.75])], [first, second]) == 0.5  # 0.25 of 0.5


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([math.nan, 1.0], [1.0, 1.0]),
        ([1.0, 1.0], [math.nan, 1.0]),
        ([math.inf, 1.0], [math.inf, 1.0]),
        ([1.0], [1.0, 1.0]),
    ],
)
def test_what_cannot_be_compared_is_infinitely_far(ours: list[float], theirs: list[float]) -> None:
    assert distance([torch.tensor(ours)], [torch.tensor(theirs)]) == math.inf


def test_an_answer_where_none_is_expected_is_far_and_zeros_are_not() -> None:
    assert distance([torch.tensor([1e-3])], [torch.zeros(1)]) > 1
    assert distance([torch.zeros(2)], [torch.zeros(2)]) == 0


def test_a_right_import_is_ok_at_batch_2_too(tmp_path: Path) -> None:
    row = measure(small(tmp_path))
    assert row["batch"] == "free"
    assert set(row["differences"]) == {f"{s}, batch {n}" for s in ("imported", "passed") for n in (1, 2)}
    assert row["file_nodes"] == 3
    assert row["seconds"] > 0
    assert imports.status(row) == "ok"


def test_a_wrong_pass_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(graph: Graph) -> tuple[Graph, tuple[()]]:
        worse = lambda n: replace(n, op=n.op.map_tensors(lambda t: t * 1.001))  # noqa: E731
        return graph.map(lambda n: worse(n) if isinstance(n.op, Linear) else n), ()

    monkeypatch.setattr("benchmarks.importing.apply", spoil)
    row = measure(small(tmp_path))
    assert imports.status(row) == "WRONG"
    assert row["differences"]["imported, batch 2"] < imports.TOLERANCE
    assert row["differences"]["passed, batch 2"] == pytest.approx(0.001, rel=1e-3)


def test_a_network_of_nan_is_wrong() -> None:
    assert imports.status({"refused": [], "difference": None}) == "WRONG"


def test_a_refusal_names_the_nodes(tmp_path: Path) -> None:
    path = small(tmp_path, SMALL.replace("Relu (image)", "NonZero (image)"))
    row = measure(path)
    assert imports.status(row) == "refused"
    assert "NonZero" in row["refused"][0]


def test_what_is_no_network_is_an_error_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "noise.onnx").write_bytes(b"\xff" * 100)
    monkeypatch.setattr(imports, "SHARED", tmp_path)
    row = imports.measured(imports.Case("noise", "shared"))
    assert row["status"] == "error"
    assert ModelError.__name__ in row["why"]
    assert "| noise | shared |" in imports.table([row])


def test_a_cut_moves_the_reference_and_the_graph_alike(tmp_path: Path) -> None:
    row = measure(small(tmp_path), cut=["flat"])
    assert imports.status(row) == "ok"
    assert row["graph_nodes"] == 3  # image, Relu, Reshape


def test_a_half_precision_file_is_compared_in_float32(tmp_path: Path) -> None:
    path = small(tmp_path, SMALL.replace("float[", "float16["), np.float16)
    wide = in_float32(onnx.load(path))
    assert {t.data_type for t in wide.graph.initializer} == {TensorProto.FLOAT, TensorProto.INT64}
    assert wide.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    row = measure(path)
    assert imports.status(row) == "ok"
    assert "float32" in row["note"]


def test_the_reference_of_a_file_fixed_at_batch_1_runs_sample_by_sample(tmp_path: Path) -> None:
    reference, x = Reference(small(tmp_path)), torch.randn(3, 2, 4, 4)
    (together,), (last,) = reference.run([x]), reference.run([x[2:]])
    assert together.shape == (3, 3)
    assert torch.equal(together[2:], last)


def test_a_random_architecture_hides_nothing_behind_a_constant() -> None:
    architecture = next(a for a in zoo.ARCHITECTURES if a.name == "shufflenet_v2_x1_0")
    model, again = zoo.build(architecture), zoo.build(architecture)
    assert not model.training
    values, repeated = model.state_dict(), again.state_dict()
    assert not [n for n, v in values.items() if v.numel() > 1 and float(v.min()) == float(v.max())]
    assert all(torch.equal(value, repeated[name]) for name, value in values.items())


@pytest.mark.slow
@pytest.mark.parametrize("dialect", zoo.DIALECTS)
def test_an_architecture_is_exported_imported_and_right(
    dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    row = imports.measured(imports.Case("squeezenet1_1", dialect))
    assert row["status"] == "ok", row
    assert row["batch"] == "free"
    assert zoo.path_of("squeezenet1_1", dialect).is_relative_to(tmp_path)


def test_every_required_architecture_is_there_from_both_exporters() -> None:
    cases = {(c.name, c.origin) for c in imports.cases(shared=False)}
    assert len(cases) == 19 * 4
    assert {"vit_b_16", "densenet121", "deeplabv3_resnet50", "inception_v3"} <= {name for name, _ in cases}


def test_a_calibrator_is_named_with_its_options() -> None:
    assert calibrator("percentile:percentile=99.0,per_channel=False") == (
        "percentile",
        Percentile(percentile=99.0, per_channel=False),
    )
    for wrong in ("percentle", "percentile:share=1", "percentile:percentile=x", "percentile:percentile=1("):
        with pytest.raises(argparse.ArgumentTypeError, match=wrong.partition("(")[0]):
            calibrator(wrong)


def test_a_short_curve_is_kept_with_versions_and_without_this_machine_s_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_common, "RESULTS", tmp_path)
    assert main(["accuracy", "digits", "-T", "1", "16", "--samples", "60", "--name", "short"]) == 0
    kept = read_result("accuracy-short", tmp_path)
    assert [point["timesteps"] for point in kept["rows"]] == [1, 16]
    assert kept["rows"][1]["accuracy"] > kept["rows"][0]["accuracy"]
    assert kept["data"]["samples"] == 60
    assert kept["command"].startswith("python -m benchmarks accuracy digits")
    assert kept["versions"]["torch"] == torch.__version__
    assert "| ANN | " in capsys.readouterr().out


def test_a_file_without_data_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["accuracy", "model.onnx"])
    assert stopped.value.code == 2
    assert "needs --data" in capsys.readouterr().err


def test_bad_data_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str], digits_model: Path) -> None:
    assert main(["accuracy", str(digits_model), "--data", "nowhere/"]) == 1
    assert capsys.readouterr().err.startswith("error: there is no file or folder nowhere")


def test_a_result_is_plain_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_common, "RESULTS", tmp_path)
    facts = {"far": math.inf, "third": 1 / 3, "where": str(_common.SHARED / "models"), "pair": (1, None)}
    kept = json.loads(write_result("x", ["import"], facts).read_text())
    assert kept["far"] is None
    assert kept["third"] == 0.333333
    assert kept["where"] == "../shared/models"
    assert kept["pair"] == [1, None]


def test_a_table_aligns_numbers_to_the_right() -> None:
    assert markdown("name|s", [["a", 1.5], ["b", None]]) == (
        "| name | s |\n| --- | ---: |\n| a | 1.5 |\n| b |  |\n"
    )


def test_the_page_says_what_the_results_say() -> None:
    assert PAGE.read_text() == text(), "run: python -m benchmarks page"


def test_no_kept_import_is_wrong() -> None:
    record = read_result("import")
    rows = {(r["name"], r["origin"], tuple(r["cut"])): r for r in record["rows"]}
    assert {(c.name, c.origin, c.cut) for c in imports.cases(shared=False)} <= rows.keys()
    assert [key for key, row in rows.items() if row["status"] not in ("ok", "refused")] == []
    assert [name for (name, _, cut), row in rows.items() if row["status"] == "refused"] == ["unet_carvana"]
    assert record["tolerance"] == imports.TOLERANCE == 1e-4


def test_the_kept_import_of_resnet50_took_less_than_three_times_the_file() -> None:
    rows = [r for r in read_result("import")["rows"] if r["name"] == "resnet50"]
    assert len(rows) == len(zoo.DIALECTS)
    assert all(row["memory"] < 3 * row["bytes"] for row in rows)


@pytest.mark.parametrize(
    ("name", "points"), [("resnet20", 0.5), ("resnet44-p9999", 0.5), ("resnet4b", 1.0), ("mnist_cntk", 0.2)]
)
def test_a_kept_curve_reaches_the_ann(name: str, points: float) -> None:
    record = read_result(f"accuracy-{name}")
    last = record["rows"][-1]
    assert last["timesteps"] == 256
    assert 100 * (record["ann_accuracy"] - last["accuracy"]) <= points
    assert 100 * last["accuracy"] <= 100 * record["ann_accuracy"] + 2  # better than that would be a bug
    assert record["rows"][0]["accuracy"] < record["ann_accuracy"]  # it does spike: one step is not enough


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_kept_result_tells_where_it_comes_from(path: Path) -> None:
    record = read_result(path.stem)
    assert record["command"].startswith("python -m benchmarks ")
    assert {"python", "torch", "onnx", "onnxruntime"} <= record["versions"].keys()
    assert record["date"] >= "2026"
    assert str(_common.ROOT.parent) not in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, p in PRESETS.items() if p.figure is not None])
def test_the_ann_is_as_accurate_as_its_makers_say(name: str, shared: Path) -> None:
    preset = PRESETS[name]
    accuracy = ann_accuracy(preset)
    assert preset.figure is not None
    assert abs(accuracy - preset.figure) <= 0.5 * 10**-preset.decimals + 1e-9, f"{accuracy} %"


def test_costs_are_medians_and_ratios_are_taken_within_a_round() -> None:
    """Three rounds of 10 images: the machine was slow in the second one, for both."""
    found = {
        latency.ANN: [(1.0, 1.0), (4.0, 2.0), (1.0, 1.0)],
        latency.OURS: [(2.0, 1.5), (8.0, 3.0), (3.0, 1.0)],
    }
    costs = latency.summarised(found, 10)
    assert costs[latency.OURS] == {"median": 3e5, "smallest": 2e5, "ratio": 2.0, "cpu": 1.5}
    assert costs[latency.ANN]["ratio"] == 1.0


def test_latencies_of_several_threads_and_batches_are_one_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network whose file is for one image has one row for each number of threads."""

    def row(name: str, batch: int, timesteps: int, threads: int, repeats: int, **_: bool) -> dict[str, Any]:
        batch = 1 if name == "fastestdet" else batch
        facts = {"network": name, "inputs": "noise", "batch": batch, "timesteps": timesteps}
        costs = latency.summarised({latency.ANN: [(1.0, 1.0)] * repeats}, batch)
        return {**facts, "threads": threads, "costs": costs}

    monkeypatch.setattr(latency, "row", row)
    monkeypatch.setattr(_common, "RESULTS", tmp_path)
    latency.main(
        ["resnet20", "fastestdet", "--batch", "1", "16", "--threads", "1", "2", "--keep", "latency-x"]
    )
    rows = json.loads((tmp_path / "latency-x.json").read_text())["rows"]
    want = [("resnet20", 1), ("resnet20", 16), ("fastestdet", 1)]
    assert [(r["network"], r["batch"], r["threads"]) for r in rows] == [(*w, t) for t in (1, 2) for w in want]
    shown = capsys.readouterr().out.strip().splitlines()[2:]
    assert [line.split(" | ")[4] for line in shown] == ["1"] * 3 + ["2"] * 3


def test_a_straight_line_explains_what_is_straight() -> None:
    assert scaling.line([1, 2, 3], [3, 5, 7]) == pytest.approx({"slope": 2, "offset": 1, "r2": 1})
    assert scaling.line([1, 2, 3], [1, 3, 1])["r2"] == pytest.approx(0)


def test_events_and_tiles_meet_between_two_rates_that_were_measured() -> None:
    """Events cost 10 + 100 r, tiles 20: at r = 0.1; and where they are dearer from the start, nowhere."""
    rates = (0.0, 0.05, 0.2)
    assert crossover.meeting(rates, [20, 20, 20], [10, 15, 30]) == pytest.approx(0.1)
    assert crossover.meeting(rates, [5, 5, 5], [10, 15, 30]) == 0
    assert crossover.meeting(rates, [50, 50, 50], [10, 15, 30]) == 0.2


def test_what_is_idle_is_counted() -> None:
    """Two steps of one sample, one channel of 1 x 16: none, then one spike, in one of two rows of 8."""
    x = torch.zeros(2, 1, 1, 16, dtype=torch.uint8)
    x[1, 0, 0, 3] = 9
    one = Conv(torch.ones(1, 1, 1, 1), None, (1, 1), (0, 0), (1, 1))
    assert crossover.idle(x, one, 0, 2) == (0.5, 0.75, 0.0)
    assert crossover.idle(torch.cat([x[1:], x[1:]]), one, 0, 2) == (0.0, 0.5, 1.0)


def test_an_early_exit_answers_at_the_first_step_with_the_lead() -> None:
    """Leads times steps of 1, 4, 6 and of 0.5, 1, 1.5; both change from class 0 to 1 after a step."""
    curve = torch.tensor([[[1.0, 0], [0.5, 0]], [[0.0, 2], [0, 0.5]], [[0.0, 2], [0, 0.5]]])
    labels = torch.tensor([0, 1])
    assert early_exit.exits(curve, labels, 1.0) == (1.0, 1.5)
    assert early_exit.exits(curve, labels, 4.0) == (0.5, 2.5)
    assert early_exit.exits(curve, labels, 99.0) == (0.5, 3.0)
    assert early_exit.exits(curve, labels, 1.0, delay=1) == (0.5, 2.5)


def test_a_margin_is_the_smallest_with_which_answers_are_those_at_the_cap() -> None:
    """One of two images leads by 1 at the first step, wrongly, and its answer changes; the other never."""
    curve = torch.tensor([[[1.0, 0], [0, 9]], [[0.0, 2], [0, 9]], [[0.0, 2], [0, 9]]])
    above = min(m for m in early_exit.TRIED if m > 1)
    for labels in (torch.tensor([1, 1]), torch.tensor([0, 1])):  # whether that is right or wrong
        right = float((labels == 1).double().mean())
        assert early_exit.chosen({0: curve}, labels, 0.0) == early_exit.Choice(0, above, right, 1.5)
        assert early_exit.chosen({0: curve}, labels, 0.5).margin == early_exit.TRIED[0]


def test_the_delay_of_an_early_exit_is_that_which_is_best_at_the_cap_and_then_soonest() -> None:
    """What the first of three steps says is wrong: without it, all that counts is right at once."""
    plain = torch.tensor([[[9.0, 0], [9, 0]], [[4.0, 4.5], [4.5, 4]], [[2.0, 4], [4, 2]]])
    delayed = torch.tensor([[[9.0, 0], [9, 0]], [[0.0, 9], [0, 9]], [[0.0, 9], [0, 9]]])
    labels = torch.tensor([1, 1])
    assert early_exit.chosen({0: plain, 1: delayed}, labels, 0.0) == early_exit.Choice(1, 0.5, 1.0, 2.0)
    assert early_exit.chosen({0: plain}, labels, 0.0).accuracy == 0.5
    assert early_exit.chosen({1: delayed, 0: plain}, labels, 0.5).delay == 0


def test_every_instruction_is_of_a_kind_and_is_timed() -> None:
    model = RateModel(scaling.chain(3))
    x = torch.rand(2, 16, 16, 16)
    want = model(x, 4)
    timed = profile.Timed(model)
    assert torch.equal(model(x, 4), want)
    assert set(timed.seconds) == {profile.SYNAPSES, profile.NEURONS}
    assert [(shape[0], count) for (_, shape), count in timed.calls.items()] == [(2 * 4, 1)] * 2
    assert timed.moved == 3 * 8 * (4 + 1) * 2 * 16**3
    model(x, 20)  # in chunks, the last of them smaller: each size counts for itself
    steps = [shape[0] // 2 * count for (node, shape), count in timed.calls.items() if node.name == "c1"]
    assert len(steps) >= 2
    assert sum(steps) == 4 + 20
    assert timed.alone() > 0


def test_the_chain_that_is_scaled_fires_in_every_layer() -> None:
    fired = {}
    model = RateModel(scaling.chain(4))
    model(torch.rand(2, 16, 16, 16), 16, listen=lambda n, v: fired.update({n.name: int((v != 0).sum())}))
    assert all(fired[f"r{layer}"] > 0 for layer in range(4))


def test_a_curve_says_what_it_measured() -> None:
    rows = [{"timesteps": t, "output_error": 1 / t} for t in (8, 16)]
    run = {"images": 4, "spikes": "signed", "rows": rows, "slowest": {"layer": "Relu_9", "error": 0.071}}
    facts = {"network": "net", "command": "python -m benchmarks dense net --curve", "date": "2026-01-02T03"}
    told = dense_page.curves([{**facts, "processor": "one", "runs": [run]}])
    assert "| network | images | spikes | T = 8 | T = 16 | slowest layer |" in told
    assert "| net | 4 | signed | 0.125 | 0.062 | Relu_9 (7 %) |" in told
    assert "- `python -m benchmarks dense net --curve`, 2026-01-02, on one" in told


@pytest.mark.parametrize("path", sorted(RESULTS.glob("curve-*.json")), ids=lambda path: path.stem)
def test_the_error_of_every_dense_network_falls_with_time(path: Path) -> None:
    """From each T to twice as many steps, within 5 % for what a few images leave to chance.

    Where binary spikes cannot be taken back, 40 layers in a row hardly move before T = 64.
    """
    for run in json.loads(path.read_text())["runs"]:
        errors = [row["output_error"] for row in run["rows"]]
        assert all(later < 1.05 * earlier for earlier, later in pairwise(errors)), run["spikes"]
        assert errors[-1] < 0.6 * errors[0]
        assert run["slowest"]["layer"]
