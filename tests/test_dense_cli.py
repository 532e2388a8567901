"""Whole detectors and segmenters from the command line: convert, evaluate, show, gates, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import cli
from tests.dense_networks import detector, pictures, segmenter

MISSING = ("p3.png", "p4.png", "p5.png")
CHAIN = ("--calibrator", "maximum", "-T", "8,64", "--calibration-samples", "2")


def ann2snn(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The networks, the pictures, and both converted: find.snn, name.snn."""
    folder = pictures(tmp_path_factory.mktemp("dense"))
    detector(folder / "find.onnx")
    segmenter(folder / "name.onnx")
    find = ("--task", "detect", "--decoder", "fastestdet", "--labels", folder / "boxes.json")
    name = ("--task", "segment", "--labels", folder / "masks")
    for net, task in (("find", find), ("name", name)):
        images = ("--data", folder / "images", "-o", folder / f"{net}.snn")
        done = ann2snn("convert", folder / f"{net}.onnx", *images, *task, *CHAIN)
        assert done.exit_code == 0, done.stderr
    return folder


def report(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.snn" / "report.json").read_text())
    return found


@pytest.mark.parametrize(("name", "first", "output"), [("find", "mAP50", "y"), ("name", "mIoU", "y")])
def test_both_networks_are_measured_alike(place: Path, name: str, first: str, output: str) -> None:
    found = report(place, name)
    task = found["task"]
    assert next(iter(task["ann"])) in task["ann"]
    assert task["ann"][first] == pytest.approx(1.0)
    assert task["curve"][-1]["figures"][first] == pytest.approx(1.0)
    assert found["data"]["samples"] == 6
    assert [o["name"] for o in found["outputs"]] == [output]
    errors = [point["error"] for point in found["outputs"][0]["curve"]]
    assert errors[1] < errors[0]
    assert any("Sigmoid" in each for each in found["analog"]) == (name == "find")
    page = (place / f"{name}.snn" / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert first in page


def test_the_empty_picture_counts(place: Path) -> None:
    done = ann2snn(
        "evaluate", place / "find.snn", "--data", place / "images", "--labels", place / "boxes.json", "--json"
    )
    assert done.exit_code == 0, done.stderr
    assert "(1 of them without an object)" in json.loads(done.stdout)["task"]["words"]


def test_an_artefact_remembers_its_task(place: Path) -> None:
    labels = ("--labels", place / "masks")
    done = ann2snn("evaluate", place / "name.snn", "--data", place / "images", *labels, "-T", "64", "--json")
    task = json.loads(done.stdout)["task"]
    assert (task["task"], task["decoder"]) == ("segment", "argmax")
    assert task["ann"]["IoU"] == pytest.approx(1.0)


def test_without_labels_there_is_fidelity(place: Path) -> None:
    done = ann2snn("evaluate", place / "find.snn", "--data", place / "images", "-T", "64", "--json")
    found = json.loads(done.stdout)
    assert found["task"]["ann"] == {}
    assert found["outputs"][0]["curve"][0]["error"] < 0.05
    told = ann2snn("evaluate", place / "find.snn", "--data", place / "images", "-T", "64").stdout
    assert "without labels: outputs against the ANN's" in told


@pytest.mark.parametrize(
    ("gate", "code"),
    [("output-error=0.5", 0), ("output-error=1e-9", 3), ("mAP50=0.9", 0), ("mAP50=1.1", 3), ("mIoU=0.5", 2)],
)
def test_gates_decide_the_exit_code(place: Path, gate: str, code: int) -> None:
    data = ("--data", place / "images", "--labels", place / "boxes.json", "-T", "64")
    assert ann2snn("evaluate", place / "find.snn", *data, "--gate", gate).exit_code == code


@pytest.mark.parametrize("name", ["find", "name"])
def test_show_draws_a_column_for_each_time(place: Path, name: str, tmp_path: Path) -> None:
    images = [place / "images" / f"p{i}.png" for i in (0, 7)]
    common = ("show", place / f"{name}.snn", *images, "-T", "8,64", "--width", "64")
    assert ann2snn(*common, "-o", tmp_path / "out.png").exit_code == 0
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.size == (3 * 70 + 6, 22 + 2 * 70)
        pixels = np.asarray(drawn).astype(int)
    colourful = (pixels.max(2) - pixels.min(2) > 60).any(0)
    columns = [bool(colourful[6 + c * 70 : 6 + c * 70 + 64].any()) for c in range(3)]
    assert columns == [True] * 3  # something is marked for the ANN and at both times
    assert not (
        pixels[22 + 70 :].max(2) - pixels[22 + 70 :].min(2) > 60
    ).any()  # and nothing where there is nothing
    assert ann2snn(*common, "-o", tmp_path / "out.gif").exit_code == 0
    with Image.open(tmp_path / "out.gif") as moving:
        assert getattr(moving, "n_frames", 1) == 2
    again = ann2snn(*common, "-o", tmp_path / "out.png")
    assert again.exit_code == 1
    assert "exists" in again.stderr


# what goes wrong


def failed(place: Path, net: str, *arguments: object) -> tuple[int, str]:
    done = ann2snn("evaluate", place / f"{net}.snn", "--data", place / "images", "-T", "8", *arguments)
    return done.exit_code, done.stderr


def test_a_decoder_that_does_not_fit(place: Path) -> None:
    code, told = failed(place, "find", "--decoder", "ultraface", "--labels", place / "boxes.json")
    assert code == 1
    assert "the decoder ultraface does not fit the network's outputs (1x6x4x4)" in told
    assert "it reads scores" in told


def test_a_decoder_of_the_other_task(place: Path) -> None:
    assert failed(place, "find", "--decoder", "argmax")[0] == 2


def test_labels_for_other_images(place: Path, tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text('{"elsewhere.png": [[0, 0, 1, 1]]}')
    code, told = failed(place, "find", "--labels", tmp_path / "l.json")
    assert code == 1
    assert "label none of the 8 images" in told


def test_labels_for_some_of_the_images_say_so(place: Path, tmp_path: Path) -> None:
    boxes = json.loads((place / "boxes.json").read_text())
    (tmp_path / "l.json").write_text(json.dumps({k: v for k, v in boxes.items() if k not in MISSING}))
    code, told = failed(place, "find", "--labels", tmp_path / "l.json")
    assert code == 0
    assert "warning: " in told  # two were calibrated on, so that one of the three at least was to be measured
    assert f"of 6 images are not in {tmp_path / 'l.json'} and are not measured" in told


def test_masks_of_another_size(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "masks", tmp_path / "masks")
    for mask in (tmp_path / "masks").iterdir():
        Image.fromarray(np.zeros((8, 9), np.uint8)).save(mask)
    code, told = failed(place, "name", "--labels", tmp_path / "masks")
    assert code == 1
    assert "is 8x9, its image 32x32" in told


def test_boxes_for_a_segmenter(place: Path) -> None:
    code, told = failed(place, "name", "--labels", place / "boxes.json")
    assert code == 2
    assert "holds boxes, --task segment needs masks" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--task", "detect"), "--task detect needs --decoder"),
        (("--decoder", "yunet"), "--decoder is for --task detect or segment"),
        (("--task", "segment", "--score", "0.3"), "the decoder argmax has no option --score"),
        (("--task", "segment", "--labels", "folder"), "--labels folder is for --task classify"),
        (("--labels", "boxes.json"), "there is no kind of labels"),
        (("--fit", "letterbox"), "needs --resize HEIGHTxWIDTH"),
        (("--gate", "nothing"), "is not NAME=VALUE"),
    ],
)
def test_usage(place: Path, tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    common = (place / "name.onnx", "-o", tmp_path / "x.snn", "--data", place / "images", *CHAIN)
    done = ann2snn("convert", *common, *arguments)
    assert done.exit_code == 2
    assert told in done.stderr
