"""How well pixels are named: intersection over union of each class, and the share that is right.

    IoU_c = |said c and is c| / |said c or is c|     over the pixels of all images together
    mIoU  = the mean over the classes that are in the masks or were said
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converter.errors import DataError
from converter.sizing import Placement
from converter.tasks.labels import VOID

Mask = np.ndarray[Any, np.dtype[np.uint8]]


def named_pixels(scores: Tensor, place: Placement) -> Mask:
    """The class of each pixel of the image, [height, width], from scores [classes, h, w] that cover the input.

    The scores are brought to the input's size and then, what is beside the image cut off, to the image's:
    bilinear, corners not aligned. Scores that are not finite count as the lowest.
    """
    scores = scores.float().cpu().nan_to_num(nan=-3e38)[None]
    if tuple(scores.shape[2:]) != place.shown:
        scores = torch.nn.functional.interpolate(scores, size=place.shown, mode="bilinear")
    top, left = max(round(place.top), 0), max(round(place.left), 0)
    bottom = min(round(place.top + place.height * place.scale_y), place.shown[0])
    right = min(round(place.left + place.width * place.scale_x), place.shown[1])
    scores = scores[:, :, top:bottom, left:right]
    if tuple(scores.shape[2:]) != (place.height, place.width):
        scores = torch.nn.functional.interpolate(scores, size=(place.height, place.width), mode="bilinear")
    return np.asarray(scores[0].argmax(0).numpy(), dtype=np.uint8)


def confusion(said: Mask, true: Mask, classes: int, name: str) -> Tensor:
    """How many pixels of class i were said to be class j: [classes, classes]. `DataError` for what cannot be."""
    if said.shape != true.shape:
        sizes = ["x".join(map(str, each.shape)) for each in (true, said)]
        raise DataError(
            f"the mask of '{name}' is {sizes[0]}, its image {sizes[1]}", hint="is it the mask of this image?"
        )
    measured = true != VOID
    is_, was = true[measured].astype(np.int64), said[measured].astype(np.int64)
    if is_.size and int(is_.max()) >= classes:
        raise DataError(
            f"the mask of '{name}' has the class {int(is_.max())}, the network names 0 to {classes - 1}",
            hint="--foreground V takes the value V as class 1 and all others as class 0",
        )
    return torch.from_numpy(np.bincount(is_ * classes + was, minlength=classes**2)).reshape(classes, classes)


def overlap(counts: Tensor) -> tuple[dict[str, float], dict[int, float]]:
    """mIoU and pixel accuracy, and the IoU of each class, from `confusion` summed over images; NaN of nothing."""
    counts = counts.double()
    right, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    by_class = {c: float(right[c] / union[c]) for c in range(len(counts)) if union[c] > 0}
    total = float(counts.sum())
    mean = sum(by_class.values()) / len(by_class) if by_class else math.nan
    return {"mIoU": mean, "pixel accuracy": float(right.sum()) / total if total else math.nan}, by_class
