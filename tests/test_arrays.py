"""Arrays as data: parts, labels, and every way in which a file is none."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from converter.data import open_source, split
from converter.errors import DataError
from tests.samples import everything, npz, refused


@pytest.mark.parametrize("names", ["train_x train_y test_x test_y", "X_train y_train X_test y_test"])
def test_an_archive_with_two_parts(tmp_path: Path, names: str) -> None:
    arrays = np.zeros((3, 5)), np.array([0, 1, 2]), np.ones((2, 5)), np.array([[3], [4]])
    file = npz(tmp_path / "two.npz", **dict(zip(names.split(), arrays, strict=True)))
    both = open_source(file)
    chosen = split(both, 2, None, 0)
    assert (chosen.calibration_words, chosen.measurement_words) == (
        "2 of 3 in train, drawn with seed 0",
        "all 2 of test",
    )
    (batch,) = both.batches(chosen.measurement, 64)
    assert batch[0].tolist() == [[1.0] * 5] * 2
    assert batch[1] is not None
    assert batch[1].tolist() == [3, 4]
    assert torch.equal(everything(open_source(f"{file}:test"))[0], torch.ones(2, 5))
    assert len(open_source(f"{file}:train")) == 3


def test_batches_keep_order_and_size(tmp_path: Path) -> None:
    file = npz(tmp_path / "a.npz", x=np.arange(10.0)[:, None], y=np.arange(10))
    batches = list(open_source(file).batches([9, 0, 3, 4, 7], 2))
    assert [x.flatten().tolist() for x, _ in batches] == [[9, 0], [3, 4], [7]]
    assert [y.tolist() for _, y in batches if y is not None] == [[9, 0], [3, 4], [7]]


def test_the_checksum_is_that_of_the_file(tmp_path: Path) -> None:

    file = npz(tmp_path / "a.npz", x=np.zeros((2, 2)))
    assert open_source(file).sha256 == hashlib.sha256(Path(file).read_bytes()).hexdigest()


X = np.zeros((4, 3))


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"images": X}, "has no array x"),
        ({"x": np.zeros(4)}, r"x in .* is of shape \(4,\)"),
        ({"x": np.zeros((0, 3))}, "has no samples"),
        ({"x": X, "y": np.arange(5)}, "are int64 5, its samples are 4"),
        ({"x": X, "y": np.zeros(4)}, "are float64 4, its samples are 4"),
        ({"x": X, "y": np.eye(4, dtype=int)}, "are int64 4x4, its samples are 4"),
        ({"x": np.full((4, 3), "a")}, "are of type <U1, not numbers"),
        ({"x": np.full((4, 3), np.nan)}, "hold NaN or infinite values"),
        ({"x": np.full((4, 3), np.inf)}, "hold NaN or infinite values"),
        ({"train_x": X, "train_y": np.arange(4), "test_x": X}, "labels for one part and none for another"),
    ],
)
def test_arrays_that_are_no_data(tmp_path: Path, arrays: Mapping[str, np.ndarray], problem: str) -> None:
    file = npz(tmp_path / "bad.npz", **arrays)
    told = refused(file).problem
    assert "bad.npz" in told
    assert re.search(problem, told)


def test_a_nan_further_in_is_found_when_it_is_read(tmp_path: Path) -> None:
    x = np.zeros((4, 3))
    x[3, 2] = np.nan
    source = open_source(npz(tmp_path / "late.npz", x=x))
    with pytest.raises(DataError, match=r"late\.npz: the data hold NaN"):
        everything(source)


@pytest.mark.parametrize("name", ["objects.npz", "objects.npy"])
def test_pickled_objects_are_not_loaded(tmp_path: Path, name: str) -> None:
    objects = np.array([{"a": 1}, None], dtype=object)
    if name.endswith("npz"):
        np.savez(tmp_path / name, x=objects)
    else:
        np.save(tmp_path / name, objects)
    assert re.search("allow_pickle=False|Python objects", refused(tmp_path / name).why)


@pytest.mark.parametrize("name", ["cut.npz", "cut.npy"])
def test_a_truncated_file(tmp_path: Path, name: str) -> None:
    whole = io.BytesIO()
    (np.savez if name.endswith("npz") else np.save)(whole, np.zeros((50, 50)))
    (tmp_path / name).write_bytes(whole.getvalue()[:600])
    assert refused(tmp_path / name).problem == f"{tmp_path / name} cannot be read as arrays"


def test_a_part_that_is_not_there(tmp_path: Path) -> None:
    file = npz(tmp_path / "two.npz", train_x=X, test_x=X)
    error = refused(f"{file}:valid")
    assert (error.problem, error.hint) == (f"{file} has no part 'valid'", "its parts: test, train")
    assert refused("digits:val").hint == "its parts: test, train"
    np.save(tmp_path / "x.npy", X)
    assert refused(f"{tmp_path / 'x.npy'}:test").hint == "it is all one"
