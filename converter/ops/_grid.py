"""Rounding to a grid of powers of two: what a value is on a machine that counts in whole numbers.

Within a network it is done in every step: a machine that counts has no other numbers there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from converter.graph import Op


@dataclass(frozen=True, eq=False)
class Grid(Op):
    """y = ⌊x / 2^exponent + ½⌋ · 2^exponent."""

    exponent: int
    stepwise: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        return (inputs[0] * 2.0**-self.exponent + 0.5).floor() * 2.0**self.exponent

    def code(self, name: str, *inputs: str) -> str:
        return f"({inputs[0]} * {2.0**-self.exponent!r} + 0.5).floor() * {2.0**self.exponent!r}"
