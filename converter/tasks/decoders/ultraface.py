"""Boxes from two lists: scores [N, classes], of which class 0 is the ground, and boxes [N, 4] as fractions.

So UltraFace and many exports of SSD end. Boxes are (left, top, right, bottom); class 1 of the scores is
class 0
of what is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from converter.errors import Refusal
from converter.tasks.boxes import Boxes
from converter.tasks.decoders import Outputs, register


@register
@dataclass(frozen=True)
class UltraFace:
    """Boxes that score above `score`."""

    score: float = 0.02
    overlap: float = 0.4
    task: ClassVar[str] = "detect"

    def __call__(self, outputs: Outputs, size: tuple[int, int]) -> list[Boxes]:
        """Boxes of each sample, in pixels of the input."""
        if (
            len(outputs) != 2
            or any(o.dim() != 3 for o in outputs)
            or outputs[0].shape[1] != outputs[1].shape[1]
            or outputs[0].shape[2] < 2
            or outputs[1].shape[2] != 4
        ):
            raise Refusal("it reads scores [batch, N, 1 + classes] and boxes [batch, N, 4]")
        certain, labels = outputs[0][..., 1:].max(2)
        corners = outputs[1] * torch.tensor([size[1], size[0]] * 2, device=outputs[1].device)
        found = []
        for sample in range(len(certain)):
            kept = certain[sample] > self.score
            found.append(Boxes(corners[sample][kept], certain[sample][kept], labels[sample][kept]))
        return found
