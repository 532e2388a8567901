"""Images in folders and archives: labels, parts, channels, and what cannot be read."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from converter.data import Preprocessing, open_source, split
from converter.errors import DataError
from converter.graph import BATCH
from tests.samples import RED_OVER_BLUE, everything, grey, image, refused


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, value in {"cat/b.png": 20, "cat/a.png": 10, "dog/z.png": 30, "dog/notes.txt": 0}.items():
        image(tmp_path / "photos" / name, grey(value)) if name.endswith("png") else None
    (tmp_path / "photos" / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "photos" / ".DS_Store.png").write_bytes(b"hidden")
    return tmp_path / "photos"


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return folder.with_suffix(".zip")


@pytest.mark.parametrize("in_zip", [False, True])
def test_sub_folders_are_labels(photos: Path, in_zip: bool) -> None:
    source = open_source(str(zipped(photos) if in_zip else photos), Preprocessing(scale=1.0))
    x, labels = everything(source)
    assert x.shape == (3, 3, 2, 2)
    assert x[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert labels is not None
    assert labels.tolist() == [0, 0, 1]
    assert source.classes == ("cat", "dog")
    assert source.parts == {}


def test_a_flat_folder_is_unlabelled_unless_each_image_is_a_class(tmp_path: Path) -> None:
    for name, value in {"n02_b.png": 2, "n01_a.png": 1}.items():
        image(tmp_path / "flat" / name, grey(value))
    flat = str(tmp_path / "flat")
    assert everything(open_source(flat))[1] is None
    assert not open_source(flat).labelled
    source = open_source(flat, Preprocessing(scale=1.0), labels="sorted")
    x, labels = everything(source)
    assert source.classes == ("n01_a", "n02_b")
    assert labels is not None
    assert list(zip(x[:, 0, 0, 0].tolist(), labels.tolist(), strict=True)) == [(1, 0), (2, 1)]
    assert "has no sub-folders" in refused(flat, labels="folder").problem


def test_folders_called_train_and_test_are_parts(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "train/dog/b.png", "train/dog/c.png", "test/dog/d.png"):
        image(tmp_path / "set" / name, grey(7))
    source = open_source(str(tmp_path / "set"))
    assert source.parts == {"test": range(1), "train": range(1, 4)}
    labels = everything(source)[1]
    assert labels is not None
    assert labels.tolist() == [1, 0, 1, 1]
    assert split(source, 2, None, 0).measurement_words == "all 1 of test"
    assert len(open_source(f"{tmp_path / 'set'}:train")) == 3
    assert refused(f"{tmp_path / 'set'}:val").hint == "its parts: test, train"


def test_grey_palette_and_transparent_images_get_the_models_channels(tmp_path: Path) -> None:
    rgba = np.dstack([RED_OVER_BLUE, grey(255, 2, 1)])
    image(tmp_path / "f" / "a.png", rgba)
    Image.fromarray(RED_OVER_BLUE).convert("P").save(tmp_path / "f" / "b.png")
    x, _ = everything(open_source(str(tmp_path / "f"), None, (BATCH, 3, 2, 1)))
    assert x[0].tolist() == x[1].tolist() == [[[1.0], [0.0]], [[0.0], [0.0]], [[0.0], [1.0]]]
    luminance, _ = everything(open_source(str(tmp_path / "f"), Preprocessing(scale=1.0), (BATCH, 1, 2, 1)))
    assert luminance[0].flatten().tolist() == [76, 29]  # ITU-R 601: 0.299 R, 0.114 B


def test_a_camera_that_was_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the top of the scene is on the right of the file
    image(tmp_path / "f" / "a.png", RED_OVER_BLUE, exif=exif)
    x, _ = everything(open_source(str(tmp_path / "f")))
    assert x[0].tolist() == [[[0.0, 1.0]], [[0.0, 0.0]], [[1.0, 0.0]]]


def test_images_of_different_size(tmp_path: Path) -> None:
    image(tmp_path / "f" / "a.png", grey(1, 2, 2))
    image(tmp_path / "f" / "b.png", grey(1, 3, 2))
    with pytest.raises(DataError, match="differ in shape: 2x2x3 and 3x2x3"):
        everything(open_source(str(tmp_path / "f")))
    resized = open_source(str(tmp_path / "f"), Preprocessing(resize=(4, 4)))
    assert everything(resized)[0].shape == (2, 3, 4, 4)


@pytest.mark.parametrize("content", ["text", "truncated"])
@pytest.mark.parametrize("in_zip", [False, True])
def test_an_unreadable_image_is_named(tmp_path: Path, content: str, in_zip: bool) -> None:
    noise = np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype(np.uint8)
    bad = tmp_path / "f" / "bad.png"
    image(bad, noise)
    bad.write_bytes(b"not a picture" if content == "text" else bad.read_bytes()[:2000])
    error = refused(zipped(tmp_path / "f") if in_zip else tmp_path / "f")
    assert "bad.png cannot be read" in error.problem
    assert error.why


def test_sixteen_bits_are_not_cut_to_eight(tmp_path: Path) -> None:
    image(tmp_path / "f" / "deep.png", np.full((2, 2), 40000, dtype=np.uint16))
    assert "not 8 bits" in refused(tmp_path / "f").why


def test_folders_that_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").problem == f"{tmp_path / 'empty'} holds no images"
    image(tmp_path / "mixed" / "cat" / "a.png", grey(1))
    image(tmp_path / "mixed" / "stray.png", grey(1))
    assert (
        "outside the folders that are the classes, such as stray.png" in refused(tmp_path / "mixed").problem
    )
    (tmp_path / "no.zip").write_bytes(b"PK nothing")
    assert "cannot be read as a zip archive" in refused(tmp_path / "no.zip").problem


def test_the_checksum_of_a_folder_follows_names_and_contents(photos: Path) -> None:
    before = open_source(str(photos)).sha256
    assert before == open_source(str(photos)).sha256
    (photos / "cat" / "a.png").rename(photos / "cat" / "c.png")
    renamed = open_source(str(photos)).sha256
    image(photos / "cat" / "c.png", grey(11))
    assert len({before, renamed, open_source(str(photos)).sha256}) == 3


def test_a_damaged_archive_names_the_image(tmp_path: Path) -> None:
    image(tmp_path / "f" / "a.bmp", np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype(np.uint8))
    with zipfile.ZipFile(tmp_path / "f.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "f" / "a.bmp", "a.bmp")
    content = bytearray((tmp_path / "f.zip").read_bytes())
    content[100:3000] = bytes(2900)
    (tmp_path / "f.zip").write_bytes(content)
    assert "f.zip/a.bmp cannot be read" in refused(tmp_path / "f.zip").problem
