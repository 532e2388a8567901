"""One thing against the ground from a map [1, h, w]: what lies above the threshold.

`threshold` is in the units of the output: 0.5 for one that ends in Sigmoid, 0 for one before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.errors import Refusal
from converter.tasks.decoders import Outputs, register


@register
@dataclass(frozen=True)
class Threshold:
    """Class 1 is what lies above `threshold`, class 0 the rest."""

    threshold: float = 0.5
    task: ClassVar[str] = "segment"

    def __call__(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """The threshold and the map, as scores of the ground and the thing."""
        if outputs[0].dim() != 4 or outputs[0].shape[1] != 1:
            raise Refusal("it reads one map, [batch, 1, h, w]")
        return torch.cat((torch.full_like(outputs[0], self.threshold), outputs[0]), 1)
