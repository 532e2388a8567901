"""How an image becomes the input of each time step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from converter.registry import Registry


@dataclass(frozen=True)
class Encoding:
    """Base of all encodings. The mean of `encode` over many steps is the image itself."""

    constant: ClassVar[bool] = True
    """Whether every step sees the same input, so what lies before the first neuron is computed once."""

    def encode(self, x: Tensor, generator: Generator) -> Tensor:
        """The input of one step: [batch, …] -> [batch, …]. `generator` is the only source of chance."""
        raise NotImplementedError

    @property
    def kernel(self) -> Callable[..., Tensor] | None:
        """The pure function (x, generator, *fields) behind `encode`, for emitted models; or None."""
        return None


encodings: Registry[type[Encoding]] = Registry("encoding", "converter.encodings")
