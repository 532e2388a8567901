"""Weights as a sign and an exponent: the lattice that log2 and pow2 share.

    value(q) = LUT[q mod n] · 2^⌊q / n⌋,   q = top − e,
    n steps an octave,   LUT = 2^(i / n) to 8 fractional bits

So a product with a spike is a shift and an addition, and the LUT's one entry that is not a power of two,
362/256 for √2, is a constant of the whole network (CAT: Lew et al., DAC 2022, in whole numbers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.weights import SPREAD, Format

FRACTION = 8
"""Bits after the point in the LUT."""


@dataclass(frozen=True)
class Lattice(Format):
    """A sign and one of 2^(bits−1) − 1 exponents e, or zero: a code is ±(1 + e), the scale is `top`."""

    most: ClassVar[int] = 6
    steps: ClassVar[int] = 1
    """How many values an octave has."""

    @property
    def exponents(self) -> int:
        """How many there are; one code more is zero."""
        return int(2 ** (self.bits - 1)) - 1

    @property
    def table(self) -> tuple[int, ...]:
        """The values of one octave, in 2^-8."""
        return tuple(round(2 ** (FRACTION + i / self.steps)) for i in range(self.steps))

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        exact = rows.double()
        nearest = self._nearest(exact)
        none = torch.iinfo(torch.int64).min
        top = torch.where(exact != 0, nearest, none).amax(1)
        top = torch.where(top == none, 0, top)
        chosen = top
        lowest = torch.full(top.shape, torch.inf, dtype=torch.float64, device=rows.device)
        for lower in range(4 * self.steps):
            codes = self._codes(exact, nearest, top - lower)
            error = (self._values(codes, top - lower) - exact).square().sum(1)
            chosen = torch.where(error < lowest, top - lower, chosen)
            lowest = torch.minimum(error, lowest)
        silent = (rows == 0).all(1)
        if bool(silent.any()) and not bool(silent.all()):
            chosen = torch.where(silent, chosen[~silent].max(), chosen)
        chosen = torch.maximum(chosen, chosen.max() - SPREAD * self.steps)
        return self._codes(exact, nearest, chosen).to(torch.int8), chosen.float()

    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        return self._values(codes.long(), scale.long()).float()

    def whole(self, codes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Shifted so far that the smallest exponent of the format is a whole number in 2^-8."""
        octave, entry = self._parts(codes.long(), self.start(scale))
        table = torch.tensor(self.table, device=codes.device)
        return codes.long().sign() * (table[entry] << octave), self._lowest(scale) - FRACTION

    def start(self, scale: Tensor) -> Tensor:
        return scale.long() - self.steps * self._lowest(scale)

    def _lowest(self, scale: Tensor) -> Tensor:
        """The octave of the smallest value of each channel."""
        return (scale.long() - self.exponents + 1).div(self.steps, rounding_mode="floor")

    def _parts(self, codes: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
        """For each code its octave, and which entry of the table."""
        q = top[:, None] - (codes.abs() - 1).clamp_min(0)
        octave = q.div(self.steps, rounding_mode="floor")
        return octave, q - octave * self.steps

    def _values(self, codes: Tensor, top: Tensor) -> Tensor:
        octave, entry = self._parts(codes, top)
        table = torch.tensor(self.table, dtype=torch.float64, device=codes.device)
        return codes.sign() * torch.ldexp(table[entry], octave - FRACTION)

    def _nearest(self, rows: Tensor) -> Tensor:
        """The place q of the value nearest to each weight that is not zero."""
        mantissa, exponent = torch.frexp(rows.abs())
        table = torch.tensor([*self.table, 2 * self.table[0]], dtype=torch.float64, device=rows.device)
        table = table / self.table[0]
        middles = (table[1:] + table[:-1]) / 2
        return self.steps * (exponent.long() - 1) + torch.bucketize(2 * mantissa, middles, right=True)

    def _codes(self, rows: Tensor, nearest: Tensor, top: Tensor) -> Tensor:
        """A weight above `top` is clipped to it, one below half the smallest value is zero."""
        e = (top[:, None] - nearest).clamp(0, self.exponents - 1)
        codes = rows.sign().long() * (e + 1)
        smallest = self._values(torch.full_like(top, self.exponents)[:, None], top)
        return torch.where(rows.abs() < smallest / 2, 0, codes)
