"""How well boxes are found: average precision as COCO counts it, at IoU 0.5 and over 0.5 … 0.95.

A class counts where an object of it is in the images. Objects smaller than a least size are ignored:
neither is
it a miss not to find them, nor a mistake to do so. An image without objects counts: what is found there is
wrong.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from converter.errors import ConversionError
from converter.tasks.boxes import Boxes
from converter.tasks.labels import Objects

AT_MOST = 1000
"""Boxes of an image and class that count, the best; COCO's own 100 are few for crowds of faces."""
FAR = 1e10
Figures = dict[str, float]


def average_precision(
    found: Sequence[Boxes], true: Sequence[Objects], min_size: float = 0.0
) -> tuple[Figures, dict[int, float]]:
    """mAP50 and mAP50:95 over the classes, and AP50 for each class; NaN where there is no object at all.

    `found[i]` and `true[i]` are of the same image, in its pixels. `min_size` is the least side of a box that
    counts. Raises `ConversionError` where pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ModuleNotFoundError as error:
        raise ConversionError(
            "average precision needs pycocotools, which is not installed", hint="pip install 'ann2snn[tasks]'"
        ) from error
    annotations = [row for i, each in enumerate(true) for row in _true(i, each)]
    results = [row for i, each in enumerate(found) for row in _found(i, each)]
    counted = sorted({r["category_id"] for r in annotations if r["area"] >= min_size**2 and not r["iscrowd"]})
    if not counted:
        return {"mAP50": math.nan, "mAP50:95": math.nan}, {}
    for number, row in enumerate(annotations, 1):
        row["id"] = number
    for number, row in enumerate(results, 1):
        row["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of its progress
        sides = []
        for rows in (annotations, results):
            side = COCO()
            images = [{"id": i} for i in range(len(true))]
            side.dataset = {"images": images, "annotations": rows, "categories": [{"id": c} for c in counted]}
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, iouType="bbox")
        evaluation.params.catIds = counted
        evaluation.params.maxDets = [AT_MOST]
        # It ignores by area alone: the squared least side stands there, and nothing found has so little.
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[min_size**2, FAR]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])[..., 0, 0]  # [IoU, recall, class]
    by_class = {c: float(precision[0, :, k].mean()) for k, c in enumerate(counted)}
    return {"mAP50": float(precision[0].mean()), "mAP50:95": float(precision.mean())}, by_class


def _true(image: int, objects: Objects) -> list[dict[str, Any]]:
    rows = []
    each = zip(objects.corners.tolist(), objects.classes.tolist(), objects.crowd.tolist(), strict=True)
    for (left, top, right, bottom), kind, crowd in each:
        width, height = right - left, bottom - top
        rows.append(
            {
                "image_id": image,
                "category_id": kind,
                "bbox": [left, top, width, height],
                "area": min(width, height) ** 2,
                "iscrowd": int(crowd),
            }
        )
    return rows


def _found(image: int, boxes: Boxes) -> list[dict[str, Any]]:
    rows = []
    each = zip(boxes.corners.tolist(), boxes.scores.tolist(), boxes.classes.tolist(), strict=True)
    for (left, top, right, bottom), score, kind in each:
        width, height = right - left, bottom - top
        box = {"bbox": [left, top, width, height], "area": FAR, "score": score}
        rows.append({"image_id": image, "category_id": kind, "iscrowd": 0, **box})
    return rows


def named(by_class: Mapping[int, float], names: Mapping[int, str] | None) -> dict[str, float]:
    """The figures by the classes' names, where these are known."""
    return {(names or {}).get(kind, str(kind)): value for kind, value in by_class.items()}
