"""exactN: whole numbers of at most N bits times a power of two, so few that float32 adds up spikes exactly.

    w ≈ code · 2^s,   |code| ≤ 2^(N−1) − 1

How many bits a channel has is found where the sizes of spikes and shortcuts are known, in `converter.sums`:
as many as leave a current 24 bits, whatever the order in which a program adds it up. Nothing is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.weights import SPREAD, formats
from converter.weights._numbers import Numbers


@formats.register
@dataclass(frozen=True)
class Exact(Numbers):
    """Whole numbers of up to `bits` bits, without a mantissa of their own."""

    prefix: ClassVar[str] = "exact"
    exact: ClassVar[bool] = True

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        largest = rows.double().abs().amax(1)
        mantissa, octave = torch.frexp(torch.where(largest > 0, largest, 1.0) / self.largest)
        octave = torch.where(mantissa == 0.5, octave - 1, octave)
        if bool((largest > 0).any()):
            octave = torch.where(largest > 0, octave, octave[largest > 0].max())
        octave = torch.maximum(octave, octave.max() - SPREAD)
        scale = torch.ldexp(torch.ones_like(largest), octave)
        return self.nearest(rows.double(), scale[:, None]).to(self.held), scale.float()
