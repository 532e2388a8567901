"""Boxes without anchors at several strides: YuNet and its kind, for each stride class, objectness, and box.

    score = √(clip(cls) · clip(obj))        clip: to 0 … 1
    centre = (cell + (d0, d1)) · stride     size = exp(d2, d3) · stride

Outputs are [cells, 1] classes for every stride, from fine to coarse, then as many objectness, then [cells, 4]
boxes; what follows (landmarks) is not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

import torch
from torch import Tensor

from converter.errors import Refusal
from converter.tasks.boxes import Boxes, centred
from converter.tasks.decoders import Outputs, register


@register
@dataclass(frozen=True)
class YuNet:
    """Boxes that score above `score`."""

    score: float = 0.02
    overlap: float = 0.45
    task: ClassVar[str] = "detect"

    def __call__(self, outputs: Outputs, size: tuple[int, int]) -> list[Boxes]:
        """Boxes of each sample, in pixels of the input."""
        levels = self.levels(outputs)
        parts = []
        for scores, objects, boxes in zip(
            *(outputs[i : i + levels] for i in range(0, 3 * levels, levels)), strict=True
        ):
            parts.append(self.level(scores, objects, boxes, size))
        found = []
        for sample in range(len(outputs[0])):
            corners = torch.cat([corners[sample] for corners, _ in parts])
            scores = torch.cat([scores[sample] for _, scores in parts])
            kept = scores > self.score
            zeros = torch.zeros(int(kept.sum()), dtype=torch.int64, device=scores.device)
            found.append(Boxes(corners[kept], scores[kept], zeros))
        return found

    def levels(self, outputs: Outputs) -> int:
        """How many strides there are. Raises `Refusal` when the outputs are not of this kind."""
        ends = [tuple(o.shape[2:]) for o in outputs if o.dim() == 3]
        levels = ends.index((4,)) // 2 if (4,) in ends and len(ends) == len(outputs) else 0
        wanted = [(1,)] * 2 * levels + [(4,)] * levels
        cells = [o.shape[1] for o in outputs[: 3 * levels]]
        if not levels or ends[: 3 * levels] != wanted or cells != cells[:levels] * 3:
            raise Refusal(
                "it reads [cells, 1] classes for every stride, then objectness, then [cells, 4] boxes"
            )
        return levels

    @staticmethod
    def level(scores: Tensor, objects: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Corners [batch, cells, 4] and scores [batch, cells] of one stride."""
        cells = scores.shape[1]
        stride = isqrt(size[0] * size[1] // cells)
        wide = size[1] // max(stride, 1)
        if stride < 1 or wide * (size[0] // stride) != cells:
            raise Refusal(f"{cells} cells are no grid of one stride over an input of {size[0]}x{size[1]}")
        place = torch.arange(cells, device=scores.device)
        cx, cy = (place % wide + boxes[..., 0]) * stride, (place // wide + boxes[..., 1]) * stride
        # e^20 strides are beyond any image: what a spiking network says in its first steps stays finite
        width, height = (boxes[..., i].clamp(max=20).exp() * stride for i in (2, 3))
        certain = (scores.clamp(0, 1) * objects.clamp(0, 1)).sqrt()[..., 0]
        return centred(cx, cy, width, height), certain
