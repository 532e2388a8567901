"""log2:N: a sign and an exponent to the base √2, in N bits: a synapse is a shift and an addition.

    w ≈ ± √2^(top − e),   e = 0 … 2^(N−1) − 2,   one code is zero

Nearest value, so the relative error is at most 17.2 %. Five bits span a factor of 2^7 below the top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from converter.weights import formats
from converter.weights._lattice import Lattice


@formats.register
@dataclass(frozen=True)
class Log2(Lattice):
    """Two values an octave."""

    prefix: ClassVar[str] = "log2:"
    steps: ClassVar[int] = 2
