"""Data sources by name: digits, data sets, what is nowhere; and how samples are split."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.train_digits import shifted
from converter.data import Preprocessing, open_source, split
from converter.errors import ConversionError, DataError
from converter.graph import BATCH
from converter.vision import torchvision
from tests.samples import everything, refused


def test_digits_hold_out_a_third_that_is_documented() -> None:
    held_out, rest = open_source("digits:test"), open_source("digits:train")
    assert (len(held_out), len(rest), len(open_source("digits"))) == (599, 1198, 1797)
    from sklearn.datasets import load_digits

    chosen = np.sort(np.random.RandomState(0).permutation(1797)[:599])
    x, labels = everything(held_out)
    assert torch.equal(x, torch.tensor(load_digits().images[chosen] / 16, dtype=torch.float32)[:, None])
    assert labels is not None
    assert labels.tolist() == load_digits().target[chosen].tolist()
    assert (x.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_the_embedded_network_has_the_accuracy_it_claims(digits_model: Path) -> None:

    x, labels = everything(open_source("digits:test"))
    (logits,) = onnxruntime.InferenceSession(digits_model).run(None, {"image": x.numpy()})
    assert labels is not None
    right = int((logits.argmax(1) == labels.numpy()).sum())
    assert right >= 0.98 * 599
    model = onnx.load(digits_model)
    told = {p.key: p.value for p in model.metadata_props}
    assert f"({right} of 599 held-out images)" in told["accuracy"]
    kinds = {n.op_type for n in model.graph.node}
    assert kinds == {"Conv", "BatchNormalization", "Relu", "MaxPool", "Add", "Concat", "Flatten", "Gemm"}
    assert digits_model.stat().st_size < 300_000


def test_calibration_comes_from_train_and_measurement_from_test() -> None:
    source = open_source("digits")
    chosen = split(source, 100, None, seed=3)
    assert set(chosen.calibration) <= set(source.parts["train"])
    assert chosen.measurement == tuple(source.parts["test"])
    assert chosen.calibration_words == "100 of 1198 in train, drawn with seed 3"
    assert chosen.measurement_words == "all 599 of test"


@given(st.integers(1, 598), st.none() | st.integers(1, 700), st.integers(0, 99))
def test_one_pool_is_divided(calibration: int, measurement: int | None, seed: int) -> None:
    source = open_source("digits:test")
    chosen = split(source, calibration, measurement, seed)
    assert len(chosen.calibration) == calibration
    assert len(chosen.measurement) == min(599 - calibration, measurement or 599)
    together = [*chosen.calibration, *chosen.measurement]
    assert len(set(together)) == len(together)
    assert set(together) <= set(range(599))
    assert split(source, calibration, measurement, seed) == chosen


def test_another_seed_draws_other_samples() -> None:
    source = open_source("digits")
    assert split(source, 50, 50, 0) != split(source, 50, 50, 1)


def test_nothing_is_measured_on_what_was_calibrated_on() -> None:
    with pytest.raises(DataError, match="digits:test: 599 of 599 samples for calibration leave none"):
        split(open_source("digits:test"), 599, None, 0)


def test_what_is_nowhere() -> None:
    assert refused("nowhere/x.npz").problem == "there is no file or folder nowhere/x.npz"
    assert refused("x.npz:train").problem == "there is no file or folder x.npz"
    error = refused("CIFAR11:test")
    assert "no torchvision data set of that name" in error.problem
    assert error.hint == "did you mean 'CIFAR10'?"


def test_an_unknown_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2")
    assert refused(tmp_path / "x.csv").problem == f"{tmp_path / 'x.csv'} is not a kind of data that is read"


def test_a_data_set_is_never_downloaded(tmp_path: Path) -> None:
    error = refused("CIFAR10:test", root=tmp_path)
    assert error.problem == f"torchvision's CIFAR10 cannot be opened below {tmp_path}"
    assert "--data-root" in error.hint
    assert list(tmp_path.iterdir()) == []
    assert refused("CIFAR10:valid", root=tmp_path).hint == "its parts: train, test"


def test_a_data_set_that_is_there(tmp_path: Path) -> None:
    """MNIST in its own format: big-endian sizes after a magic number, then bytes."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, digits in {"train": [5, 0, 4], "t10k": [7, 2]}.items():
        sizes = np.array([0x803, len(digits), 28, 28], dtype=">i4").tobytes()
        pixels = np.repeat(np.array(digits, dtype=np.uint8), 28 * 28).tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(sizes + pixels)
        sizes = np.array([0x801, len(digits)], dtype=">i4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(sizes + bytes(digits))
    source = open_source("MNIST", Preprocessing(scale=1.0), (BATCH, 1, 28, 28), root=tmp_path)
    x, labels = everything(source)
    assert x[:, 0, 3, 4].tolist() == [5, 0, 4, 7, 2]
    assert labels is not None
    assert labels.tolist() == [5, 0, 4, 7, 2]
    assert source.parts == {"train": range(3), "test": range(3, 5)}
    assert source.classes[7] == "7 - seven"
    assert len(open_source("MNIST:test", root=tmp_path)) == 2
    assert len(source.sha256) == 64


def test_torchvision_is_asked_for_by_name_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ConversionError, match="torchvision is not installed") as caught:
        torchvision.__wrapped__()
    assert caught.value.hint == "pip install 'ann2snn[vision]'"


# The script that trained the embedded network


def test_training_images_move_by_at_most_one_pixel() -> None:
    dot = torch.zeros(200, 1, 8, 8)
    dot[:, 0, 3, 4] = 1
    moved = shifted(dot, torch.Generator().manual_seed(0))
    places = moved.nonzero()
    assert moved.shape == dot.shape
    assert len(places) == 200
    assert {(r - 3, c - 4) for _, _, r, c in places.tolist()} == {
        (r, c) for r in (-1, 0, 1) for c in (-1, 0, 1)
    }
    corner = torch.zeros(50, 1, 8, 8)
    corner[:, 0, 0, 0] = 1
    assert shifted(corner, torch.Generator().manual_seed(0)).sum(dim=(1, 2, 3)).unique().tolist() == [0, 1]
