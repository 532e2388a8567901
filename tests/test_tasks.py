"""Tasks: boxes and precision, pixels and overlap, labels, decoders: by hand, then by other judges."""

from __future__ import annotations

import io
import json
import math
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from converter.errors import DataError, Refusal, UsageError
from converter.sizing import Placement, placement
from converter.tasks.boxes import Boxes, best
from converter.tasks.decoders import decoders
from converter.tasks.detection import average_precision
from converter.tasks.labels import Objects, objects, read_labels
from converter.tasks.segmentation import as_seen, confusion, in_image, named_pixels, overlap

WHOLE = placement(4, 6, None, None, "stretch")


def boxes(*rows: tuple[float, ...]) -> Boxes:
    """Rows (left, top, right, bottom, score, class)."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return Boxes(table[:, :4], table[:, 4], table[:, 5].long())


def true(*rows: tuple[float, ...]) -> Objects:
    """Rows (left, top, right, bottom, class)."""
    return objects([(*row, 0.0) for row in rows])


# boxes


def test_of_two_boxes_that_overlap_the_better_is_kept() -> None:
    # intersection 8·10 = 80, union 120: IoU 2/3; the third is of another class, the fourth elsewhere
    found = boxes(
        (2, 0, 12, 10, 0.8, 0), (0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.7, 1), (50, 0, 60, 10, 0.1, 0)
    )
    assert best(found, 0.6).scores.tolist() == [0.9, 0.7, 0.1]
    assert best(found, 0.67).scores.tolist() == [0.9, 0.8, 0.7, 0.1]


def test_boxes_that_are_not_finite_are_left_out() -> None:
    assert len(best(boxes((0, 0, math.nan, 1, 0.9, 0), (0, 0, 1, 1, math.inf, 0)), 0.5)) == 0


@given(st.lists(st.tuples(*[st.integers(0, 20)] * 4, st.integers(0, 5)), max_size=12))
def test_what_is_kept_does_not_overlap_and_covers_what_is_not(rows: list[tuple[int, ...]]) -> None:
    found = boxes(
        *[(x, y, x + w + 1, y + h + 1, (i + 1) / 20, k % 2) for i, (x, y, w, h, k) in enumerate(rows)]
    )
    kept = best(found, 0.5)

    def iou(a: torch.Tensor, b: torch.Tensor) -> float:
        sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp_min(0)
        areas = [float((c[2:] - c[:2]).prod()) for c in (a, b)]
        return float(sides.prod()) / (sum(areas) - float(sides.prod()))

    pairs = [(i, j) for i in range(len(kept)) for j in range(i) if kept.classes[i] == kept.classes[j]]
    assert all(iou(kept.corners[i], kept.corners[j]) <= 0.5 for i, j in pairs)
    for corner, score, kind in zip(found.corners, found.scores, found.classes, strict=True):
        rivals = kept.at((kept.classes == kind) & (kept.scores >= score))
        assert any(iou(corner, c) > 0.5 or torch.equal(corner, c) for c in rivals.corners)


# where an image stands in the input


@pytest.mark.parametrize(
    ("fit", "scale", "top", "left"),
    [("stretch", (2.0, 1.0), 0, 0), ("corner", (1.0, 1.0), 0, 0), ("letterbox", (1.0, 1.0), 50, 0)],
)
def test_a_wide_image_in_a_square(fit: str, scale: tuple[float, float], top: int, left: int) -> None:
    where = placement(100, 200, (200, 200), None, fit)
    assert (where.scale_y, where.scale_x) == scale
    assert (where.top, where.left, where.shown) == (top, left, (200, 200))


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["stretch", "letterbox", "corner"]))
def test_a_box_comes_back_to_where_it_was(height: int, width: int, fit: str) -> None:
    where = placement(height, width, (64, 48), None, fit)
    corners = torch.tensor([[0.0, 0.0, width, height], [1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    scale = torch.tensor([where.scale_x, where.scale_y] * 2, dtype=torch.float64)
    there = corners * scale + torch.tensor([where.left, where.top] * 2, dtype=torch.float64)
    back = Boxes(there, torch.ones(2), torch.zeros(2)).in_image(where)
    assert torch.allclose(back.corners, corners, rtol=0, atol=1e-9)
    assert tuple(where.box()[2:]) <= (48 + where.left, 64 + where.top)


def test_a_mask_goes_into_the_input_and_comes_back() -> None:
    where = placement(2, 4, (8, 8), None, "letterbox")  # twice as large, two rows of padding above and below
    mask = np.array([[0, 1, 1, 0], [2, 2, 0, 0]], dtype=np.uint8)
    seen = as_seen(mask, where)
    assert seen.shape == (8, 8)
    assert (seen[:2] == 255).all()
    assert (seen[6:] == 255).all()
    assert (seen[2:6] == mask.repeat(2, 0).repeat(2, 1)).all()
    assert (in_image(seen, where) == mask).all()


# average precision


def test_average_precision_by_hand() -> None:
    # right, wrong, right, of two objects: precision 1 up to recall 1/2, then 2/3: (51·1 + 50·2/3) / 101
    found = [boxes((0, 0, 10, 10, 0.9, 0), (50, 50, 60, 60, 0.8, 0), (20, 20, 30, 30, 0.7, 0))]
    figures, classes = average_precision(found, [true((0, 0, 10, 10, 0), (20, 20, 30, 30, 0))])
    assert figures["mAP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert figures["mAP50:95"] == pytest.approx(figures["mAP50"])  # they fit exactly, at any IoU
    assert classes == {0: figures["mAP50"]}


def test_what_is_found_in_an_image_without_objects_is_wrong() -> None:
    right, wrong = boxes((0, 0, 10, 10, 0.8, 0)), boxes((0, 0, 10, 10, 0.9, 0))
    alone, _ = average_precision([right], [true((0, 0, 10, 10, 0))])
    both, _ = average_precision([right, wrong], [true((0, 0, 10, 10, 0)), true()])
    assert alone["mAP50"] == pytest.approx(1.0)
    assert both["mAP50"] == pytest.approx(0.5)


def test_an_object_below_the_least_size_is_neither_a_miss_nor_a_mistake() -> None:
    objects_ = [true((0, 0, 10, 10, 0), (20, 20, 24, 40, 0))]
    found = boxes((0, 0, 10, 10, 0.5, 0)), boxes((0, 0, 10, 10, 0.5, 0), (20, 20, 24, 40, 0.9, 0))
    for each in found:
        assert average_precision([each], objects_, min_size=5)[0]["mAP50"] == pytest.approx(1.0)
    assert average_precision([found[0]], objects_)[0]["mAP50"] == pytest.approx(51 / 101)


def test_without_any_object_there_is_no_precision() -> None:
    figures, classes = average_precision([boxes((0, 0, 1, 1, 0.5, 0))], [true()])
    assert math.isnan(figures["mAP50"])
    assert classes == {}


# pixels


def test_overlap_by_hand() -> None:
    said = np.array([[0, 1, 1, 1]], dtype=np.uint8)
    is_ = np.array([[0, 0, 1, 255]], dtype=np.uint8)
    figures, classes = overlap(confusion(said, is_, 2, "photo"))
    assert classes == {0: 0.5, 1: 0.5}  # each: one right, one wrong; the last pixel is not looked at
    assert figures == {"mIoU": 0.5, "pixel accuracy": pytest.approx(2 / 3), "IoU": 0.5}


def test_overlap_as_scikit_learn_has_it() -> None:
    from sklearn.metrics import accuracy_score, jaccard_score

    generator = torch.Generator().manual_seed(0)
    said, is_ = (torch.randint(0, 5, (40, 30), generator=generator) for _ in range(2))
    counts = confusion(said.numpy().astype(np.uint8), is_.numpy().astype(np.uint8), 5, "photo")
    figures, classes = overlap(counts)
    flat = is_.flatten().numpy(), said.flatten().numpy()
    assert list(classes.values()) == pytest.approx(jaccard_score(*flat, average=None).tolist())
    assert figures["mIoU"] == pytest.approx(jaccard_score(*flat, average="macro"))
    assert figures["pixel accuracy"] == pytest.approx(accuracy_score(*flat))


def test_scores_name_the_pixels_of_the_input_bilinearly() -> None:
    scores = torch.tensor([[[0.0, 0.0]], [[-1.0, 1.0]]])  # class 1 is above from the middle on
    where = Placement(1, 4, 1.0, 1.0, 0.0, 0.0, (1, 4))
    assert named_pixels(scores, where).tolist() == [[0, 0, 1, 1]]


def test_a_mask_with_a_class_the_network_does_not_have() -> None:
    with pytest.raises(DataError, match=r"class 3, the network names 0 to 1") as told:
        confusion(np.zeros((2, 2), np.uint8), np.full((2, 2), 3, np.uint8), 2, "photo")
    assert "--foreground" in told.value.hint


# labels


def png(values: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def test_coco(tmp_path: Path) -> None:
    crowd = {"image_id": 7, "category_id": 18, "bbox": [0, 0, 1, 1], "iscrowd": 1}
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 7, "category_id": 44, "bbox": [1, 2, 3, 4]}, crowd],
        "categories": [{"id": 44, "name": "bottle"}, {"id": 18, "name": "dog"}],
    }
    (tmp_path / "l.json").write_text(json.dumps(content))
    labels = read_labels(str(tmp_path / "l.json"))
    assert labels.boxes is not None
    found = labels.boxes("a", 10, 10)
    assert found is not None
    assert found.corners.tolist() == [[1, 2, 4, 6], [0, 0, 1, 1]]
    assert found.classes.tolist() == [1, 0]
    assert found.crowd.tolist() == [False, True]
    assert labels.classes == {0: "dog", 1: "bottle"}
    empty = labels.boxes("b", 10, 10)
    assert empty is not None
    assert len(empty.classes) == 0
    assert labels.labelled(["x/c.png", "x/b.png"], [0, 1]) == [1]


def test_yolo_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("labels/a.txt", "3 0.5 0.5 0.2 0.4\n\n")
        archive.writestr("images/a.png", png(np.zeros((2, 2))))
    labels = read_labels(str(tmp_path / "set.zip" / "labels"))
    assert labels.boxes is not None
    found = labels.boxes("a", 100, 200)
    assert found is not None
    assert found.corners.tolist() == [pytest.approx([80, 30, 120, 70])]
    assert found.classes.tolist() == [3]
    assert labels.labelled(["a.png", "b.png"], [0, 1]) == [0, 1]  # no file: an image without objects
    with pytest.raises(DataError, match="both pictures and"):
        read_labels(str(tmp_path / "set.zip"))


def test_masks_and_their_foreground(tmp_path: Path) -> None:
    (tmp_path / "a_mask.png").write_bytes(png([[0, 7, 255]]))
    for foreground, values in ((None, [[0, 7, 255]]), (7, [[0, 1, 255]])):
        labels = read_labels(str(tmp_path), foreground)
        assert labels.mask is not None
        mask = labels.mask("a")
        assert mask is not None
        assert mask.tolist() == values


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("l.json", "[1, 2", "holds no labels that are understood"),
        ("l.json", '{"a.png": [[0, 1]]}', "holds no labels that are understood"),
        ("l.json", '{"a.png": [[0, 1, NaN, 3]]}', "a box is not finite"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=told):
        read_labels(str(tmp_path / name))


def test_a_line_of_yolo_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("0 0.5 0.5\n")
    labels = read_labels(str(tmp_path))
    assert labels.boxes is not None
    with pytest.raises(DataError, match=r"a\.txt is not understood"):
        labels.boxes("a", 10, 10)


def test_labels_of_other_images(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text('{"dog.jpg": []}')
    with pytest.raises(DataError, match="label none of the 1 images") as told:
        read_labels(str(tmp_path / "l.json")).labelled(["cat.png"], [0])
    assert "they speak of 'dog', the first image is 'cat'" in str(told.value)


# decoders


def test_fastestdet_by_hand() -> None:
    grid = torch.full((1, 7, 2, 2), 0.0)
    grid[0, :, 1, 0] = torch.tensor([0.5, 0.0, math.atanh(0.5), 0.0, 0.0, 0.2, 0.8])
    (found,) = decoders["fastestdet"]()([grid], (100, 200))
    assert found.scores.tolist() == pytest.approx([0.5**0.6 * 0.8**0.4])
    assert found.classes.tolist() == [1]
    # centre (0 + 0)/2 of 200, (1 + 0.5)/2 of 100; size σ(0) = 1/2 of each
    assert found.corners.tolist() == [pytest.approx([-50, 50, 50, 100])]


def test_yunet_by_hand() -> None:
    # an input of 16x32 at stride 16: two cells; at stride 8: eight
    outputs = [torch.zeros(1, cells, last) for last in (1, 1, 4) for cells in (8, 2)]
    outputs[1][0, 1], outputs[3][0, 1] = 0.5, 2.0  # objectness is clipped to 1
    outputs[5][0, 1] = torch.tensor([0.5, 0.25, 0.0, math.log(2)])
    (found,) = decoders["yunet"]()(outputs, (16, 32))
    assert found.scores.tolist() == pytest.approx([math.sqrt(0.5)])
    assert found.corners.tolist() == [pytest.approx([24 - 8, 4 - 16, 24 + 8, 4 + 16])]


def test_ultraface_by_hand() -> None:
    scores = torch.tensor([[[0.9, 0.1], [0.99, 0.01]]])
    corners = torch.tensor([[[0.0, 0.5, 0.25, 1.0], [0, 0, 1, 1]]])
    (found,) = decoders["ultraface"]()([scores, corners], (100, 200))
    assert found.scores.tolist() == pytest.approx([0.1])
    assert found.corners.tolist() == [[0, 50, 50, 100]]
    assert found.classes.tolist() == [0]


def test_a_threshold_parts_a_thing_from_the_ground() -> None:
    read = decoders["threshold"](0.5)([torch.tensor([[[[0.4, 0.6]]]])], (1, 2))
    assert read[0].argmax(0).tolist() == [[0, 1]]


@pytest.mark.parametrize("name", decoders.names())
def test_outputs_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(Refusal, match="it reads"):
        decoders[name]()([torch.zeros(1, 10)], (8, 8))


def test_a_decoder_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("mine", "converter.tasks.decoders.argmax:ArgMax", "ann2snn.decoders")
    monkeypatch.setattr("converter.registry.entry_points", lambda group: [entry])
    from converter.catalogue import page
    from converter.tasks.decoders.argmax import ArgMax

    assert "mine" in decoders.names()
    assert decoders["mine"] is ArgMax
    assert "mine        converter.tasks.decoders.argmax:ArgMax, of another package" in page("decoders")


def test_a_decoder_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="there is no decoder 'yulo'"):
        decoders["yulo"]
