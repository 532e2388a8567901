"""Decoders: how the outputs of a family of networks are read, one family a file.

A decoder is a frozen dataclass whose fields are its options; its file is its public name, or an entry point
of
the group `ann2snn.decoders` is. It reads the ANN's outputs and the spiking network's alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from converter.registry import Registry
from converter.tasks.boxes import Boxes

TASKS = ("classify", "detect", "segment")
Outputs = Sequence[Tensor]
"""The network's outputs in their order, batch first."""


class Detector(Protocol):
    """Reads boxes."""

    task: ClassVar[str]
    """`detect`."""
    overlap: float
    """Of two boxes of a class that overlap by more than this IoU, the one with the lower score is dropped."""

    def __call__(self, outputs: Outputs, size: tuple[int, int]) -> list[Boxes]:
        """For each sample its boxes, in pixels of the input, which is of `size` (height, width).

        Raises `Refusal` when the outputs are not what it reads.
        """


class Segmenter(Protocol):
    """Reads scores of pixels."""

    task: ClassVar[str]
    """`segment`."""

    def __call__(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Scores [batch, classes, h, w] that cover the input; the largest names the pixel's class, 0 the
        ground.

        Raises `Refusal` when the outputs are not what it reads.
        """


D = TypeVar("D", bound=type)

decoders: Registry[Any] = Registry("decoder", "converter.tasks.decoders", group="ann2snn.decoders")


def register(decoder: D) -> D:
    """Decorator: this class is the decoder that its module is named after."""
    decoders.register(decoder)
    return decoder


__all__ = ["TASKS", "Boxes", "Detector", "Outputs", "Segmenter", "decoders", "register"]
