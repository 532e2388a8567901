"""Direct current: the analog image is injected at every step; the first layer's neurons make the spikes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from converter.encodings import Encoding, encodings


@encodings.register
@dataclass(frozen=True)
class Current(Encoding):
    """The image as it is, at every step."""

    def encode(self, x: Tensor, generator: Generator) -> Tensor:
        return x
