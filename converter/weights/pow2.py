"""pow2:N: a sign and a power of two, in N bits: a synapse is one shift.

    w ≈ ± 2^(top − e),   e = 0 … 2^(N−1) − 2,   one code is zero

Nearest value, so the relative error is at most 33.3 %. Four bits span a factor of 2^6 below the top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from converter.weights import formats
from converter.weights._lattice import Lattice


@formats.register
@dataclass(frozen=True)
class Pow2(Lattice):
    """One value an octave."""

    prefix: ClassVar[str] = "pow2:"
    most: ClassVar[int] = 5
