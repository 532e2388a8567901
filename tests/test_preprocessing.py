"""From raw samples to the model's input, and what is said when they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from converter.data import Preprocessing, open_source, range_warning
from converter.errors import UsageError
from converter.graph import BATCH
from tests.samples import RED_OVER_BLUE, everything, npz, refused


def test_8_bit_pixels_become_fractions_and_floats_stay(tmp_path: Path) -> None:
    np.save(tmp_path / "bytes.npy", RED_OVER_BLUE[None])
    np.save(tmp_path / "floats.npy", np.array([[3.0, -4.5]]))
    x, labels = everything(open_source(str(tmp_path / "bytes.npy")))
    assert x.tolist() == [[[[1.0], [0.0]], [[0.0], [0.0]], [[0.0], [1.0]]]]
    assert labels is None
    assert everything(open_source(str(tmp_path / "floats.npy")))[0].tolist() == [[3.0, -4.5]]


def test_scale_mean_and_std_in_the_order_of_the_models_channels(tmp_path: Path) -> None:
    """The way of networks trained in Caffe: B G R, 0…255, minus the mean."""
    np.save(tmp_path / "x.npy", RED_OVER_BLUE[None])
    caffe = Preprocessing(channels="bgr", scale=1.0, mean=(104, 117, 123), std=(1, 1, 2))
    x, _ = everything(open_source(str(tmp_path / "x.npy"), caffe))
    assert x[0, :, :, 0].tolist() == [[-104, 151], [-117, -117], [66, -61.5]]


@pytest.mark.parametrize(("layout", "shape"), [("nchw", (3, 2, 1)), ("nhwc", (2, 1, 3))])
@pytest.mark.parametrize("stored", ["nchw", "nhwc"])
@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_either_layout_is_found_in_the_file_and_given_to_the_model(
    tmp_path: Path, layout: str, shape: tuple[int, ...], stored: str, kind: type
) -> None:
    pixels = RED_OVER_BLUE.transpose(2, 0, 1) if stored == "nchw" else RED_OVER_BLUE
    np.save(tmp_path / "x.npy", pixels[None].astype(kind))
    preprocessing = Preprocessing(layout=layout, scale=1.0)
    x, _ = everything(open_source(str(tmp_path / "x.npy"), preprocessing, (BATCH, *shape)))
    wanted = RED_OVER_BLUE.transpose(2, 0, 1) if layout == "nchw" else RED_OVER_BLUE
    assert x[0].tolist() == wanted.tolist()


def test_grey_images_get_their_channel_and_vectors_their_pixels_in_a_row(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(12, dtype=np.float32).reshape(2, 2, 3))
    assert everything(open_source(str(tmp_path / "x.npy"), None, (BATCH, 1, 2, 3)))[0].shape == (2, 1, 2, 3)
    assert everything(open_source(str(tmp_path / "x.npy"), None, (BATCH, 6)))[0].tolist()[0] == [*range(6)]


def test_the_shorter_side_is_resized_and_the_centre_is_cut(tmp_path: Path) -> None:
    wide = np.repeat(np.array([[0, 50, 100, 150, 200, 250]], dtype=np.uint8), 2, axis=0)
    np.save(tmp_path / "x.npy", np.kron(wide, np.ones((2, 2), dtype=np.uint8))[None])  # 4 high, 12 wide
    preprocessing = Preprocessing(resize=2, crop=2, scale=1.0)
    x, _ = everything(open_source(str(tmp_path / "x.npy"), preprocessing, (BATCH, 1, 2, 2)))
    resized = np.asarray(Image.fromarray(np.load(tmp_path / "x.npy")[0]).resize((6, 2), 2))
    assert x[0, 0].tolist() == resized[:, 2:4].tolist()
    stretched, _ = everything(open_source(str(tmp_path / "x.npy"), Preprocessing(resize=(3, 5))))
    assert stretched.shape == (1, 1, 3, 5)


@given(
    st.builds(
        Preprocessing,
        resize=st.none() | st.integers(1, 999) | st.tuples(st.integers(1, 999), st.integers(1, 999)),
        crop=st.none() | st.integers(1, 999),
        layout=st.sampled_from(Preprocessing.LAYOUTS),
        channels=st.sampled_from(Preprocessing.CHANNELS),
        scale=st.none() | st.floats(0.001, 255),
        mean=st.lists(st.floats(-300, 300), max_size=4).map(tuple),
        std=st.lists(st.floats(0.001, 300), max_size=4).map(tuple),
    )
)
def test_preprocessing_survives_the_report(preprocessing: Preprocessing) -> None:

    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


def test_normalizations_by_name_and_written_out() -> None:
    assert Preprocessing.normalized("none") == Preprocessing()
    assert Preprocessing.normalized("imagenet").mean == (0.485, 0.456, 0.406)
    written = Preprocessing.normalized("0.5,0.25,1/2", layout="nhwc")
    assert written == Preprocessing(layout="nhwc", mean=(0.5, 0.25, 1.0), std=(2.0,))


@pytest.mark.parametrize("text", ["imagnet", "0.5", "0.5/a", "1/2/3", "0.5/0", "nan/1"])
def test_a_normalization_that_means_nothing_is_a_wrong_request(text: str) -> None:

    with pytest.raises(UsageError):
        Preprocessing.normalized(text)


@pytest.mark.parametrize(
    ("seen", "given", "speaks"),
    [
        ((0.0, 1.0), (0.0, 0.9), False),
        ((0.0, 1.0), (0.0, 255.0), True),
        ((0.0, 255.0), (0.0, 1.0), True),
        ((-2.1, 2.6), (-1.8, 2.2), False),
        ((-2.1, 2.6), (0.0, 1.0), True),
        ((0.0, 1.0), (-2.1, 2.6), True),
        ((-1.0, 1.0), (-0.9, 2.5), False),
    ],
)
def test_a_range_that_calibration_did_not_see_is_told(
    seen: tuple[float, float], given: tuple[float, float], speaks: bool
) -> None:

    warning = range_warning(*seen, torch.tensor([given]))
    assert (warning is not None) is speaks
    assert warning is None or f"{given[0]:.4g} … {given[1]:.4g}" in warning


def test_a_wrong_shape_names_both_and_the_way_out(tmp_path: Path) -> None:
    file = npz(tmp_path / "c.npz", x=np.zeros((2, 32, 32, 3), dtype=np.uint8))
    error = refused(file, Preprocessing(), (BATCH, 3, 224, 224))
    assert error.problem == f"{file}: the data's samples are 32x32x3, the model's input is Nx3x224x224"
    assert error.hint.startswith("--resize 224x224")
    assert refused(file, Preprocessing(), (BATCH, 1, 32, 32)).hint.startswith("the number of channels")
    assert refused(file, Preprocessing(), (BATCH, 64, 64, 3)).hint.startswith("--layout nhwc")
    assert refused(file, Preprocessing(layout="nhwc"), (BATCH, 3, 32, 32)).hint.startswith("--layout nchw")
    assert refused(file, Preprocessing(), (BATCH, 10)).hint == "store the samples in the model's shape"


def test_wrong_numbers_of_channels(tmp_path: Path) -> None:
    file = npz(tmp_path / "g.npz", x=np.zeros((2, 4, 4), dtype=np.uint8))
    assert (
        "--mean has 3 values, the data have 1" in refused(file, Preprocessing.normalized("imagenet")).problem
    )
    assert "bgr is an order of 3 channels" in refused(file, Preprocessing(channels="bgr")).problem


def test_only_images_are_resized(tmp_path: Path) -> None:
    file = npz(tmp_path / "f.npz", x=np.zeros((2, 4, 4), dtype=np.float32))
    assert "these are float32 4x4" in refused(file, Preprocessing(resize=2)).problem
    file = npz(tmp_path / "u.npz", x=np.zeros((2, 4, 4), dtype=np.uint8))
    assert "smaller than the crop of 5" in refused(file, Preprocessing(crop=5)).problem


def test_a_known_normalisation_follows_the_channels_of_the_model() -> None:
    assert Preprocessing.normalized("imagenet").mean == (0.485, 0.456, 0.406)
    assert Preprocessing.normalized("imagenet", channels="bgr").mean == (0.406, 0.456, 0.485)
    assert Preprocessing.normalized("1,2,3/4,5,6", channels="bgr").mean == (1.0, 2.0, 3.0)
