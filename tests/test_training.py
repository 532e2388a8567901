"""`ann2snn train`: the file it writes, that it goes on where it stopped, alone and with others; errors."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import numpy_helper

import cli
from benchmarks.training import accuracy, as_trained
from calibrators.training._loss import Loss, by_answers, by_labels
from calibrators.training._samples import Samples, augmented, order, transform_of
from calibrators.training._settings import Settings, learning_rate
from calibrators.training._team import Team
from calibrators.training.cat import Cat
from converter.data import open_source
from converter.divergence import divergence
from converter.errors import DataError, UsageError
from converter.importer import load
from tests.conftest import ROOT
from tests.models import judge, parse, weight

TRAIN = ("train", "digits", "--data", "digits")
BRIEF = ("--recipe", "tcl", "--epochs", "2", "--samples", "320", "--batch-size", "32")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def ann2snn(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(a) for a in arguments])


def process(*arguments: object, module: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, *module, str(ROOT / "cli.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )


def weights(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}


def notes(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


# what a step is made of


def test_the_step_length_rises_and_falls() -> None:
    settings = Settings(lr=1.0, warmup=0.2)
    each = [learning_rate(step, 10, settings) for step in range(10)]
    assert each[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert each[6] == pytest.approx(0.5)  # half way down the cosine over the last 8 steps
    assert each[2:] == sorted(each[2:], reverse=True)


def test_every_epoch_has_an_order_of_its_own_that_a_seed_decides() -> None:
    one, two = order(range(50), 3, 0), order(range(50), 3, 1)
    assert sorted(one) == sorted(two) == list(range(50))
    assert one != two != order(range(50), 4, 1)
    assert one == order(range(50), 3, 0)


def test_a_team_shares_a_batch_and_leaves_nothing_out() -> None:
    batch = list(range(7))
    assert [Team(rank, 3).share(batch) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert Team().share(batch) == batch


def test_samples_held_out_are_not_trained_on() -> None:
    source = open_source("digits")
    samples = Samples.of(source, range(100), 0.1, 0)
    assert sorted(samples.train + samples.held_out) == list(range(100))
    assert len(samples.held_out) == 10
    x, y = samples.take([7, 3, 7])
    again, labels = next(source.batches([7, 3, 7], 3))
    assert torch.equal(x, again)
    assert y is not None
    assert labels is not None
    assert y.tolist() == labels.tolist()
    with pytest.raises(DataError, match="not enough to train on"):
        Samples.of(source, range(3), 0.1, 0)


def test_augmentation_depends_on_the_sample_and_the_epoch_alone() -> None:
    x = torch.rand(4, 3, 16, 16)
    transform = transform_of(("crop", "flip"), (1, 3, 16, 16), "nchw")
    torch.manual_seed(1)
    all_at_once = augmented(x, [5, 6, 7, 8], transform, 0, 2)
    before = torch.random.get_rng_state()
    two = augmented(x[2:], [7, 8], transform, 0, 2)
    assert torch.equal(all_at_once[2:], two)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(two, augmented(x[2:], [7, 8], transform, 0, 3))
    assert transform_of((), (1, 3, 16, 16), "nchw") is None
    last = transform_of(("flip",), (1, 16, 16, 3), "nhwc")
    assert last is not None
    mirrored = {
        bool(torch.equal(last(image), image.flip(1))) for image in x.permute(0, 2, 3, 1).repeat(8, 1, 1, 1)
    }
    assert mirrored == {True, False}
    with pytest.raises(UsageError, match="is for images"):
        transform_of(("flip",), (1, 10), "nchw")
    with pytest.raises(UsageError, match="no augmentation 'spin'"):
        transform_of(("flip", "spin"), (1, 3, 16, 16), "nchw")


def test_zoom_shows_a_part_as_large_as_the_whole_and_erase_sets_a_rectangle_to_zero() -> None:
    ramp = torch.arange(16.0).expand(1, 16, 16) + 1
    zoom, erase = (transform_of((name,), (1, 1, 16, 16), "nchw") for name in ("zoom", "erase"))
    assert zoom is not None
    assert erase is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spans = []
        for _ in range(20):
            part = zoom(ramp)
            assert part.shape == ramp.shape
            assert torch.equal(part, part[:, :1].expand_as(part))  # columns stay columns
            spans.append(float(part.max() - part.min()))
        assert min(spans) < 12 < max(spans) <= 15
        kept = [erase(ramp) for _ in range(40)]
    untouched = [torch.equal(image, ramp) for image in kept]
    assert True in untouched
    assert False in untouched
    for image in kept:
        gone = image[0] == 0
        rows, columns = gone.any(1), gone.any(0)
        assert torch.equal(gone, rows[:, None] & columns)
        assert torch.equal(image[0][~gone], ramp[0][~gone])


def test_the_loss_by_hand() -> None:
    answer, ann = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[2.0, 0.0], [1.0, -1.0]])
    labels = torch.tensor([0, 0])
    by = torch.nn.functional.cross_entropy(answer, labels)
    assert torch.allclose(by_labels(answer, labels), by)
    assert torch.allclose(by_answers(answer, ann, 1.0), divergence(answer, ann).mean().float())
    # at a temperature of 2 the answers are halved and their distance counts four times
    assert torch.allclose(by_answers(answer, ann, 2.0), 4 * divergence(answer / 2, ann / 2).mean().float())
    # a network that ends in Softmax is the same network
    assert torch.allclose(
        by_answers(answer.softmax(1), ann.softmax(1), 2.0), by_answers(answer, ann, 2.0), atol=1e-6
    )
    theirs = {"a": torch.tensor([[3.0, 4.0], [0.0, 2.0]])}
    ours = {"a": torch.tensor([[3.0, 4.0], [0.0, 1.0]])}
    # features: (0 / 25 + 1 / 4) / 2; answers as numbers: (1 / 4 + 17 / 2) / 2
    loss = Loss(1.0, match="mse", features=2.0)
    assert float(loss((answer,), ours, None, (ann,), theirs)) == pytest.approx(2 * 0.125 + 4.375)
    mixed = Loss(0.25, 1.0)
    expected = 0.75 * by + 0.25 * by_answers(answer, ann, 1.0)
    assert torch.allclose(mixed((answer,), {}, labels, (ann,), {}), expected)


# the file


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing interrupted."""
    target = tmp_path_factory.mktemp("train") / "whole.onnx"
    result = ann2snn(*TRAIN, *BRIEF, "-o", target)
    assert result.exit_code == 0, result.output
    return target


def test_the_file_is_a_normal_onnx_file_of_the_trained_network(whole: Path) -> None:
    kinds = {node.op_type for node in onnx.load(whole).graph.node}
    assert "Relu" not in kinds
    assert "Clip" in kinds
    x = torch.rand(5, 1, 8, 8)
    (answer,) = judge(whole, x)
    assert torch.allclose(load(whole).run(x)[0], answer, atol=1e-5)
    told = notes(whole)
    assert told["ann2snn.recipe"] == "tcl"
    assert json.loads(told["ann2snn.settings"])["epochs"] == 2
    clips = {n.name: n.op.high for n in load(whole) if n.op.kind == "Clip"}
    assert json.loads(told["ann2snn.thresholds"]) == pytest.approx(clips)
    assert sorted(p.name for p in whole.parent.iterdir()) == ["whole.onnx"]


def test_qcfs_in_as_many_steps_says_what_it_learnt(tmp_path: Path) -> None:
    target = tmp_path / "two.onnx"
    made = ann2snn(*TRAIN, "--recipe", "qcfs", "--levels", "2", "--epochs", "4", "--json", "-o", target)
    assert made.exit_code == 0, made.output
    told = json.loads(made.stdout)
    assert told["options"] == {"levels": 2, "steps": None, "phases": [0.5]}
    assert [row["epoch"] for row in told["epochs"]] == [1, 2, 3, 4]
    run = ("--data", "digits", "-T", "2", "--schedule", "pipelined", "--calibrator", "ceiling", "--json")
    accuracy = {}
    for name, model in (("before", "digits"), ("after", target)):
        done = ann2snn("convert", model, "-o", tmp_path / name, *run)
        assert done.exit_code == 0, done.output
        accuracy[name] = json.loads(done.stdout)["curve"][0]["accuracy"]
    assert accuracy["before"] < 0.7
    assert accuracy["after"] > 0.97


def test_trained_in_time_it_answers_better_in_as_many_steps(tmp_path: Path) -> None:
    target = tmp_path / "two.onnx"
    made = ann2snn(
        *TRAIN, "--recipe", "qcfs", "--steps", "2", "--phases", "0", "--epochs", "4", "--json", "-o", target
    )
    assert made.exit_code == 0, made.output
    run = ("--data", "digits", "-T", "2", "--calibrator", "ceiling", "--json")
    accuracy = {}
    for name, model in (("before", "digits"), ("after", target)):
        done = ann2snn("convert", model, "-o", tmp_path / name, *run)
        assert done.exit_code == 0, done.output
        accuracy[name] = json.loads(done.stdout)["curve"][0]["accuracy"]
    assert accuracy["before"] < 0.6
    assert accuracy["after"] > 0.95


def test_it_learns_from_the_anns_answers_where_there_are_no_labels(tmp_path: Path) -> None:
    digits = open_source("digits:train")
    x = torch.cat([x for x, _ in digits.batches(range(200), 100)])
    np.save(tmp_path / "x.npy", x.numpy())
    run = ("train", "digits", "--data", tmp_path / "x.npy", "--recipe", "qcfs", "--epochs", "1")
    refused = ann2snn(*run, "-o", tmp_path / "y.onnx")
    assert refused.exit_code == 1
    assert "has no labels" in refused.stderr
    assert "--distill 1" in refused.stderr
    done = ann2snn(*run, "--distill", "1", "--features", "1", "-o", tmp_path / "y.onnx", "--json")
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["epochs"]
    assert row["agreement"] > 0.8
    assert "accuracy" not in row


def test_half_precision_where_it_is_asked_for(tmp_path: Path) -> None:
    run = ("--recipe", "qcfs", "--epochs", "2", "--precision", "bfloat16", "--json")
    done = ann2snn(*TRAIN, *run, "-o", tmp_path / "half.onnx")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["epochs"][-1]["accuracy"] > 0.95
    assert all(w.dtype == np.float32 for w in weights(tmp_path / "half.onnx").values() if w.dtype.kind == "f")


def test_cat_leaves_weights_of_the_format_in_the_file(tmp_path: Path) -> None:
    run = ("--recipe", "cat", "--weights", "log2:5", "--epochs", "5", "--samples", "320")
    run += ("--phases", "0.2,0.4,0.6")
    done = ann2snn(*TRAIN, *run, "-o", tmp_path / "cat.onnx")
    assert done.exit_code == 0, done.output
    for phase in ("relu", "clip", "spikes", "spikes, weights log2:5"):
        assert phase in done.stdout
    run = ("--data", "digits", "--code", "first-spike", "--window", "24", "--weights", "log2:5", "--json")
    spiking = ann2snn(
        "convert", tmp_path / "cat.onnx", "-o", tmp_path / "cat.snn", *run, "--calibrator", "ceiling"
    )
    assert spiking.exit_code == 0, spiking.output
    spoken = as_trained(tmp_path / "cat.onnx", Cat(weights="log2:5"))
    learnt = accuracy(spoken, open_source("digits", expected=(1, 1, 8, 8)))
    assert json.loads(spiking.stdout)["curve"][0]["accuracy"] == pytest.approx(learnt, abs=1e-9)
    assert learnt > 0.97
    kernel = next(w for w in weights(tmp_path / "cat.onnx").values() if w.ndim == 4)
    channel = np.unique(np.abs(kernel[0]))
    assert len(channel[channel > 0]) <= 15  # one of 15 exponents, or zero


# again


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(how: int, whole: Path, tmp_path: Path) -> None:
    target = tmp_path / "whole.onnx"
    checkpoint = tmp_path / "whole.onnx.checkpoint"
    arguments = (*TRAIN, *BRIEF, "-o", target)
    running = process(*arguments, "--checkpoint-every", "1")
    until = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < until:
        time.sleep(0.002)
    running.send_signal(how)
    _, said = running.communicate()
    assert running.returncode == (130 if how == signal.SIGINT else -how), said
    assert checkpoint.exists()
    assert not target.exists()
    if how == signal.SIGINT:
        assert "--resume goes on" in said
    again = ann2snn(*arguments)
    assert again.exit_code == 1
    assert "--resume goes on with it" in again.stderr
    other = ann2snn(*arguments, "--resume", "--checkpoint-every", "1", "--seed", "1")
    assert other.exit_code == 2
    assert "seed: it has 0, this run 1" in other.stderr
    resumed = ann2snn(*arguments, "--resume", "--checkpoint-every", "1")
    assert resumed.exit_code == 0, resumed.output
    assert not checkpoint.exists()
    expected = weights(whole)
    assert weights(target).keys() == expected.keys()
    assert all(np.array_equal(value, expected[name]) for name, value in weights(target).items())
    assert notes(target)["ann2snn.held_out"] == notes(whole)["ann2snn.held_out"]


def test_two_processes_train_what_one_does(whole: Path, tmp_path: Path) -> None:
    target = tmp_path / "whole.onnx"
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    running = process(*TRAIN, *BRIEF, "-o", target, module=launch)
    said, errors = running.communicate()
    assert running.returncode == 0, errors
    assert said.count("written: ") == 1
    expected = weights(whole)
    assert weights(target).keys() == expected.keys()
    for name, value in weights(target).items():
        assert np.abs(value - expected[name]).max() <= 1e-4, name
    ours, theirs = (json.loads(notes(file)["ann2snn.held_out"]) for file in (target, whole))
    assert ours.pop("phase") == theirs.pop("phase")
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_log_that_tensorboard_reads(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run = (*TRAIN, *BRIEF, "-o", tmp_path / "y.onnx", "--log", tmp_path / "log")
    assert ann2snn(*run).exit_code == 0
    (events,) = (tmp_path / "log").iterdir()
    told = events.read_bytes()
    assert all(name in told for name in (b"loss", b"accuracy", b"agreement"))


# errors


def test_a_loss_that_is_no_number_stops_and_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    target = tmp_path / "y.onnx"
    run = (*TRAIN, *BRIEF, "--clip", "1e30", "-o", target)
    early = ann2snn(*run, "--lr", "1e30")
    assert early.exit_code == 1
    assert "the training diverged: in step" in early.stderr
    assert "no checkpoint was written yet" in early.stderr
    late = ann2snn(*run, "--lr", "1e30", "--checkpoint-every", "1")
    assert late.exit_code == 1
    assert "the last good checkpoint" in late.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["y.onnx.checkpoint"]


def test_options_of_another_recipe(tmp_path: Path) -> None:
    result = ann2snn(*TRAIN, "--recipe", "tcl", "--levels", "4", "-o", tmp_path / "y.onnx")
    assert result.exit_code == 2
    assert "the recipe tcl has no option --levels" in result.stderr


def test_a_target_that_exists(whole: Path) -> None:
    before = whole.read_bytes()
    result = ann2snn(*TRAIN, *BRIEF, "-o", whole)
    assert result.exit_code == 1
    assert "--force replaces it" in result.stderr
    assert whole.read_bytes() == before


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    result = ann2snn(*TRAIN, *BRIEF, "-o", tmp_path / "y.onnx", "--resume")
    assert result.exit_code == 2
    assert "to resume from" in result.stderr
    (tmp_path / "y.onnx.checkpoint").write_bytes(b"nothing of the kind")
    result = ann2snn(*TRAIN, *BRIEF, "-o", tmp_path / "y.onnx", "--resume")
    assert result.exit_code == 1
    assert "is no checkpoint of a training" in result.stderr


def test_an_activation_that_first_spikes_cannot_say(tmp_path: Path) -> None:
    body = "h = Flatten(x) a = MatMul(h, w) b = LeakyRelu(a) y = MatMul(b, v)"
    model = parse(body, {"w": weight(64, 8), "v": weight(8, 10)}, inputs="float[N,1,8,8] x")
    onnx.save(model, tmp_path / "leaky.onnx")
    run = ("train", tmp_path / "leaky.onnx", "--data", "digits", "-o", tmp_path / "y.onnx")
    result = ann2snn(*run, "--recipe", "cat")
    assert result.exit_code == 1
    assert "a first spike cannot say 1 activation" in result.stderr
    done = ann2snn(*run, "--recipe", "qcfs", "--epochs", "1")
    # nothing but neurons with a slope of their own: there is no threshold to train
    assert done.exit_code == 1
    assert "no threshold" in done.stderr


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path)
    result = ann2snn(*TRAIN, *BRIEF, "-o", tmp_path / "y.onnx")
    assert result.exit_code == 1
    assert "there is no directory" in result.stderr
