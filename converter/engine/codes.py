"""Which layers run in whole numbers: neurons whose spikes are codes of a byte, and the sums that charge them.

    code     k · worth_c + zero, uint8; zero is 128 where spikes may be negative
    current  Σ_terms factor_c · (what a term says) + bias_c, in units of the membrane, 2^exponent

A term is a synapse's sum of its codes times spike codes, spikes themselves (a shortcut), something that the
image alone determines, or a value of a node that runs in floating point. Codes of up to 8 bits are one plane
of bytes, codes of up to 15 two, w = 128 · hi + lo. All of it is known to fit: sums of products into 24 bits,
currents and membranes into the 31 of an int32, or else into the 53 of a double.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from converter.graph import Node, size_of
from converter.ops import Conv, Linear

EXACT = 1 << 24
"""Up to here float32 adds whole numbers exactly, and so do the operators for codes."""
NARROW, WIDE = 1 << 31, 1 << 53
"""What fits into int32, and what float64 holds exactly."""
PLANE = 128
"""A code of more than 8 bits is hi · 128 + lo, a plane of weights each."""


@dataclass(frozen=True, eq=False)
class Code:
    """What a byte stands for: (code − zero) · gain · 2^exponent; `largest` is that of a code's size."""

    exponent: int
    gain: int
    zero: int
    largest: Tensor
    """For each channel, or one for all: int64 [channels] or [1]."""

    def reads_as(self, other: Code) -> bool:
        """Whether a byte says the same in both."""
        return (self.exponent, self.gain, self.zero) == (other.exponent, other.gain, other.zero)


@dataclass(frozen=True, eq=False)
class Weighed:
    """Σ codes · (source − zero), times `factor` [out]."""

    source: Node
    op: Conv | Linear
    codes: Tensor
    zero: int
    factor: Tensor

    @property
    def planes(self) -> tuple[Tensor, ...]:
        """The codes in planes of bytes, the last with the lowest bits."""
        if self.codes.dtype == torch.int8:
            return (self.codes,)
        high = self.codes.long().div(PLANE, rounding_mode="floor")
        return high.to(torch.int8), (self.codes.long() - PLANE * high).to(torch.int8)


@dataclass(frozen=True, eq=False)
class Spikes:
    """Spikes as they are, (source − zero) · factor."""

    source: Node
    zero: int
    factor: int


@dataclass(frozen=True, eq=False)
class Given:
    """What the image alone determines."""

    source: Node


@dataclass(frozen=True, eq=False)
class Value:
    """What a node that runs in floating point says."""

    source: Node


Term = Weighed | Spikes | Given | Value


@dataclass(frozen=True, eq=False)
class Charge:
    """A layer of neurons in whole numbers. The tensors are int64 [channels]."""

    node: Node
    terms: tuple[Term, ...]
    exponent: int
    """Of the membrane's unit."""
    kind: int
    levels: int
    threshold: Tensor
    worth: Tensor
    initial: Tensor
    bias: Tensor
    most: float
    """The largest size of a step's current, what is given by the image apart."""
    zero: int
    pool: Node | None = None
    """A max-pool between the terms and the neurons."""

    @property
    def comes(self) -> Node:
        """What the terms add up to."""
        return self.node if self.pool is None else self.pool.inputs[0]


@dataclass(frozen=True)
class Codes:
    """The layers of a graph that run in whole numbers, and what their spikes are as codes."""

    charges: Mapping[Node, Charge]
    codes: Mapping[Node, Code]
    """Of neurons, and of what only moves their spikes."""
    units: Mapping[Node, int | None]
    """The exponent of each node's values, where they are whole numbers of it."""
    layers: int
    """Layers of neurons in all."""
    left: int = 0
    """Layers that could run so, and do not, as too little of the network would."""

    @property
    def largest(self) -> int:
        """Bytes of the largest sums of a layer, for a sample and step, in 32 bits."""
        return max(
            4 * size_of(c.comes.shape)
            for c in self.charges.values()
            for t in c.terms
            if isinstance(t, Weighed)
        )

    @property
    def words(self) -> str:
        """How many layers run so."""
        count = len(self.charges)
        which = "all" if count == self.layers else str(count)
        return f"{which} of {self.layers} layers of neurons in whole numbers, spikes and weights in bytes"

    @property
    def why_left(self) -> str:
        """Why none runs so, though some could."""
        return (
            f"whole numbers do not pay for the {self.left} of {self.layers} layers of neurons that could be"
        )
