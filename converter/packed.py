"""Weights as codes: what a chip, an integer engine or a C array holds, beside the values they stand for.

An op with packed weights keeps its `weight` as ordinary floats, exactly the values of the codes, so whatever
knows nothing of codes runs as before; and nothing has to find codes in floats again.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Packed:
    """`codes`, int8 in the shape of the weight, and `scale`, one a channel, as `format` reads them."""

    format: str
    codes: Tensor
    scale: Tensor
