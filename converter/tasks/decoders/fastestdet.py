"""Boxes from one grid with objectness: FastestDet and its kind, [5 + classes, h, w].

    score = obj^0.6 · max(class)^0.4
    centre = (cell + tanh(c1, c2)) / grid     size = sigmoid(c3, c4)     as fractions of the input

obj is channel 0, the classes begin at channel 5; obj and classes are probabilities (after Sigmoid, Softmax).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from converter.errors import Refusal
from converter.tasks.boxes import Boxes, centred
from converter.tasks.decoders import Outputs, register


@register
@dataclass(frozen=True)
class FastestDet:
    """Boxes that score above `score`."""

    score: float = 0.01
    overlap: float = 0.45
    task: ClassVar[str] = "detect"

    def __call__(self, outputs: Outputs, size: tuple[int, int]) -> list[Boxes]:
        """Boxes of each sample, in pixels of the input."""
        if len(outputs) != 1 or outputs[0].dim() != 4 or outputs[0].shape[1] < 6:
            raise Refusal("it reads one grid, [batch, 5 + classes, h, w]")
        grid = outputs[0]
        objects, (classes, labels) = grid[:, 0].clamp_min(0), grid[:, 5:].clamp_min(0).max(1)
        scores = objects**0.6 * classes**0.4
        high, wide = grid.shape[2:]
        rows = torch.arange(high, device=grid.device)[:, None]
        columns = torch.arange(wide, device=grid.device)
        cx, cy = (columns + grid[:, 1].tanh()) / wide, (rows + grid[:, 2].tanh()) / high
        corners = centred(cx, cy, grid[:, 3].sigmoid(), grid[:, 4].sigmoid())
        corners = corners * torch.tensor([size[1], size[0]] * 2, device=grid.device)
        found = []
        for sample in range(len(grid)):
            kept = scores[sample] > self.score
            found.append(Boxes(corners[sample][kept], scores[sample][kept], labels[sample][kept]))
        return found
