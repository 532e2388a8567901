"""intN: whole numbers of N bits, the same up and down, times a scale of each channel.

    w ≈ code · scale,   |code| ≤ 2^(N−1) − 1,   scale = mantissa · 2^s,   mantissa = 16 … 31

A scale of a few bits makes every weight a dyadic fraction. The grid of scales is 3 to 6 % wide, and the best
of it (least squared error, from one that clips nothing downwards) is as good as any scale in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.weights import SPREAD, formats
from converter.weights._numbers import MANTISSAS, Numbers

TRIED = 40


@formats.register
@dataclass(frozen=True)
class Integer(Numbers):
    """Whole numbers of `bits` bits."""

    prefix: ClassVar[str] = "int"

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        exact = rows.double()
        top = place(exact.abs().amax(1) / self.largest)
        best = top.clone()
        lowest = torch.full(top.shape, torch.inf, dtype=torch.float64, device=rows.device)
        # The scale above is taken where it leaves no error: what was quantised finds its own again.
        for lower in range(-1, TRIED):
            scale = scale_at(top - lower)[:, None]
            error = (self.nearest(exact, scale) * scale - exact).square().sum(1)
            error = torch.where(error > 0, torch.inf, error) if lower < 0 else error
            best = torch.where(error < lowest, top - lower, best)
            lowest = torch.minimum(error, lowest)
        silent = (rows == 0).all(1)
        if bool(silent.any()) and not bool(silent.all()):
            best = torch.where(silent, best[~silent].max(), best)
        scale = scale_at(torch.maximum(best, best.max() - SPREAD * MANTISSAS))
        return self.nearest(exact, scale[:, None]).to(self.held), scale.float()


def place(least: Tensor) -> Tensor:
    """Where on the grid of scales the first one lies that is not below `least`; of nothing, that of 1."""
    mantissa, exponent = torch.frexp(torch.where(least > 0, least, 1.0))
    return (mantissa * 2 * MANTISSAS).ceil().long() + MANTISSAS * (exponent.long() - 2)


def scale_at(place: Tensor) -> Tensor:
    """The scale there: 16 … 31 times a power of two, exact."""
    octave = place.div(MANTISSAS, rounding_mode="floor")
    return torch.ldexp((place - octave * MANTISSAS + MANTISSAS).double() / MANTISSAS, octave)
