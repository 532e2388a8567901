"""Boxes with scores and classes; how much two overlap; of those that overlap, the best (greedy, by class).

IoU(a, b) = |a ∩ b| / |a ∪ b|
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from converter.sizing import Placement


@dataclass(frozen=True, eq=False)
class Boxes:
    """`corners` [n, 4] (left, top, right, bottom), `scores` [n], `classes` int64 [n]."""

    corners: Tensor
    scores: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def at(self, chosen: Tensor) -> Boxes:
        """Those of these indices or this mask."""
        return Boxes(self.corners[chosen], self.scores[chosen], self.classes[chosen])

    def in_image(self, place: Placement) -> Boxes:
        """The same boxes in pixels of the image. They may reach beyond it, as objects at its edges do."""
        scale = torch.tensor([place.scale_x, place.scale_y] * 2, dtype=torch.float64)
        shift = torch.tensor([place.left, place.top] * 2, dtype=torch.float64)
        corners = (self.corners.double().cpu() - shift) / scale
        return Boxes(corners, self.scores.cpu(), self.classes.cpu())


def best(boxes: Boxes, overlap: float) -> Boxes:
    """Greedy non-maximum suppression: from the highest score down, what a kept box of its class covers goes.

    "Covers" is an IoU above `overlap`. Equal scores keep their order. Boxes that are not finite are left out.
    """
    boxes = boxes.at(torch.isfinite(boxes.corners).all(1) & torch.isfinite(boxes.scores))
    corners, scores, classes = (
        t.double().cpu().numpy() for t in (boxes.corners, boxes.scores, boxes.classes)
    )
    areas = np.clip(corners[:, 2] - corners[:, 0], 0, None) * np.clip(corners[:, 3] - corners[:, 1], 0, None)
    waiting, kept = np.argsort(-scores, kind="stable"), []
    while waiting.size:
        first, rest = waiting[0], waiting[1:]
        kept.append(int(first))
        low = np.maximum(corners[first, :2], corners[rest, :2])
        high = np.minimum(corners[first, 2:], corners[rest, 2:])
        shared = np.clip(high - low, 0, None).prod(1)
        union = np.maximum(areas[first] + areas[rest] - shared, 1e-12)
        waiting = rest[(shared / union <= overlap) | (classes[rest] != classes[first])]
    return boxes.at(torch.tensor(kept, dtype=torch.int64, device=boxes.scores.device))


def centred(cx: Tensor, cy: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Corners [..., 4] of boxes given by centre and size."""
    return torch.stack((cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2), -1)
