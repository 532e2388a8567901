"""The class of each pixel from scores [classes, h, w]: the largest. Other outputs are not read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from converter.errors import Refusal
from converter.tasks.decoders import Outputs, register


@register
@dataclass(frozen=True)
class ArgMax:
    """The first output, as it is."""

    task: ClassVar[str] = "segment"

    def __call__(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """The scores."""
        if outputs[0].dim() != 4 or outputs[0].shape[1] < 2:
            raise Refusal("it reads scores [batch, classes, h, w] of two classes or more")
        return outputs[0]
