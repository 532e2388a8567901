"""How well pixels are named: intersection over union of each class, and the share that is right.

IoU_c = |said c and is c| / |said c or is c|     over the pixels of all inputs together
mIoU  = the mean over the classes that are in the masks or were said
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from converter.errors import DataError
from converter.sizing import Placement
from converter.tasks.labels import VOID

Mask = np.ndarray[Any, np.dtype[np.uint8]]


def named_pixels(scores: Tensor, place: Placement) -> Mask:
    """The class of each pixel of the input, [height, width], from scores [classes, h, w] that cover it.

    Smaller scores are brought to its size: bilinear, corners not aligned. NaN counts as the lowest.
    """
    scores = scores.float().cpu().nan_to_num(nan=-3e38)[None]
    if tuple(scores.shape[2:]) != place.shown:
        scores = torch.nn.functional.interpolate(scores, size=place.shown, mode="bilinear")
    return np.asarray(scores[0].argmax(0).numpy(), dtype=np.uint8)


def as_seen(mask: Mask, place: Placement) -> Mask:
    """The mask of an image as the input shows it: nearest values, 255 beside the image."""
    left, top, right, bottom = place.box()
    image = Image.fromarray(mask)
    if image.size != (right - left, bottom - top):
        image = image.resize((right - left, bottom - top), Image.Resampling.NEAREST)
    seen = Image.new("L", (place.shown[1], place.shown[0]), VOID)
    seen.paste(image, (left, top))
    return np.asarray(seen)


def in_image(said: Mask, place: Placement) -> Mask:
    """What was said, as the image shows it, [height, width]; 255 where it was not in the input."""
    left, top, right, bottom = place.box()
    seen = Image.new("L", (right - left, bottom - top), VOID)
    seen.paste(Image.fromarray(said), (-left, -top))
    return np.asarray(seen.resize((place.width, place.height), Image.Resampling.NEAREST))


def check_size(mask: Mask, place: Placement, name: str) -> None:
    """`DataError` when a mask is not of the size of its image."""
    if mask.shape != (place.height, place.width):
        size = "x".join(map(str, mask.shape))
        raise DataError(
            f"the mask of '{name}' is {size}, its image {place.height}x{place.width}",
            hint="is it the mask of this image?",
        )


def confusion(said: Mask, true: Mask, classes: int, name: str) -> Tensor:
    """How many pixels of class i were said to be class j. `DataError` for a class there is not."""
    measured = true != VOID
    is_, was = true[measured].astype(np.int64), said[measured].astype(np.int64)
    if is_.size and int(is_.max()) >= classes:
        raise DataError(
            f"the mask of '{name}' has the class {int(is_.max())}, the network names 0 to {classes - 1}",
            hint="--foreground V takes the value V as class 1 and all others as class 0",
        )
    return torch.from_numpy(np.bincount(is_ * classes + was, minlength=classes**2)).reshape(classes, classes)


def overlap(counts: Tensor) -> tuple[dict[str, float], dict[int, float]]:
    """mIoU and pixel accuracy, and the IoU of each class, from sums of `confusion`; NaN of nothing."""
    counts = counts.double()
    right, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    by_class = {c: float(right[c] / union[c]) for c in range(len(counts)) if union[c] > 0}
    total = float(counts.sum())
    mean = sum(by_class.values()) / len(by_class) if by_class else math.nan
    figures = {"mIoU": mean, "pixel accuracy": float(right.sum()) / total if total else math.nan}
    if len(counts) == 2:  # one thing against the ground
        figures["IoU"] = by_class.get(1, math.nan)
    return figures, by_class
