"""Weights as whole numbers times a scale of each channel: what intN and exactN share.

w ≈ code · scale,   |code| ≤ 2^(N−1) − 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.weights import Format

MANTISSAS = 16
"""A scale is 16 … 31 times a power of two."""


@dataclass(frozen=True)
class Numbers(Format):
    """Codes are numbers of `bits` bits, the same up and down."""

    most: ClassVar[int] = 15

    @property
    def largest(self) -> int:
        """The largest code."""
        return int(2 ** (self.bits - 1)) - 1

    @property
    def held(self) -> torch.dtype:
        """What a code is held in."""
        return torch.int8 if self.bits <= 8 else torch.int16

    def nearest(self, rows: Tensor, scale: Tensor) -> Tensor:
        """The codes nearest to `rows`, as floats."""
        return (rows / scale).round().clamp(-self.largest, self.largest)

    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        return codes.float() * scale[:, None]

    def whole(self, codes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        mantissa, exponent = torch.frexp(scale.double())
        return codes.long() * (mantissa * 2 * MANTISSAS).long()[:, None], exponent.long() - 5
