"""Weight formats: what a weight may be, so that a synapse is small and its arithmetic is that of integers.

A format turns the weights of an output channel into codes of a few bits and one scale. Its values are whole
numbers times a power of two, so floating point holds them exactly, and adding them up is exact too:

    int8, int4   value = code · scale           |code| < 2^(bits−1),  scale = (16 … 31) · 2^s
    exact15      value = code · scale           |code| < 2^14 and as sums in float32 ask for,  scale = 2^s
    log2:5       value = ± √2^(top − e)         a sign and one of 2^(bits−1) − 1 exponents e, or zero
    pow2:5       value = ± 2^(top − e)          the same in whole powers of two: a synapse is one shift

Scale and top are chosen for the least squared error, so the few largest weights may be clipped. What has been
quantised is quantised to itself again. No channel's scale lies more than 2^4 below its layer's largest, so
that sums of all channels fit the same few bits.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.errors import UsageError
from converter.registry import Registry

SPREAD = 4
"""Octaves that a channel's scale may lie below its layer's largest."""
FLOAT = "float32"
"""Weights as they are: no format at all."""


@dataclass(frozen=True)
class Format:
    """Base of all formats; `bits` is what a code takes."""

    bits: int
    fewest: ClassVar[int] = 2
    most: ClassVar[int] = 8
    prefix: ClassVar[str] = ""
    """What it is called before its bits."""
    exact: ClassVar[bool] = False
    """Whether codes are made as short as sums in float32 ask for (`converter.sums`)."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for a code of too few bits to say anything, or more than are of use."""
        if not self.fewest <= self.bits <= self.most:
            raise UsageError(
                f"a weight of {self.bits} bit{'s' * (self.bits != 1)} is not to be had as {self}",
                hint=f"{self.fewest} to {self.most} bits",
            )

    def __str__(self) -> str:
        return f"{self.prefix}{self.bits}"

    @abstractmethod
    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Codes, int8 like `rows` [channels, weights], 0 for zero; and what scales them, one a channel."""

    @abstractmethod
    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        """The values, float32, of codes [channels, weights]: exact."""

    @abstractmethod
    def whole(self, codes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The same values as whole numbers, int64, times 2 to an exponent, int64 [channels]."""

    @property
    def table(self) -> tuple[int, ...]:
        """The values of one octave where a code is an exponent; empty where it is a number."""
        return ()

    def start(self, scale: Tensor) -> Tensor:
        """For codes that are exponents, the q that the code ±1 has in `whole`: the value is LUT[q mod n] <<
        ⌊q / n⌋ with n = len(table), one less with each exponent.
        """
        return torch.zeros_like(scale, dtype=torch.int64)

    def quantise(self, rows: Tensor) -> Tensor:
        """The nearest values of the format for `rows` [channels, weights]."""
        return self.decode(*self.encode(rows)).to(rows)


formats: Registry[type[Format]] = Registry("weight format", "converter.weights")


def parse(name: str) -> Format | None:
    """`int8` -> the format; None for `float32`. Raises `UsageError` for what is no format."""
    if name == FLOAT:
        return None
    found = re.fullmatch(r"([a-z]+|[a-z]+2:)([1-9]\d?)", name)
    kind = next((kind for _, kind in formats if found and kind.prefix == found[1]), None)
    if found is None or kind is None:
        raise UsageError(
            f"there are no weights of the kind {name!r}",
            hint="float32, exact15, int8, int4, log2:5 or pow2:5",
        )
    return kind(int(found[2]))


def by_channel(weight: Tensor, transposed: int = 0) -> Tensor:
    """`weight` as [output channels, weights]: of Conv and Linear [out, in, …].

    Of a ConvTranspose of `transposed` groups, [in, out / groups, …].
    """
    if not transposed:
        return weight.reshape(len(weight), -1)
    grouped = weight.reshape(transposed, -1, *weight.shape[1:]).transpose(1, 2)
    return grouped.reshape(transposed * weight.shape[1], -1)


def as_weight(rows: Tensor, shape: torch.Size, transposed: int = 0) -> Tensor:
    """What `by_channel` took apart, in the `shape` of the weight."""
    if not transposed:
        return rows.reshape(shape)
    grouped = rows.reshape(transposed, shape[1], shape[0] // transposed, *shape[2:]).transpose(1, 2)
    return grouped.reshape(shape)


def fake(weight: Tensor, format: Format, transposed: int = 0) -> Tensor:
    """`weight` on the grid of `format`, each output channel with its own scale; as `by_channel` reads it."""
    return as_weight(format.quantise(by_channel(weight, transposed)), weight.shape, transposed)


__all__ = ["FLOAT", "Format", "as_weight", "by_channel", "fake", "formats", "parse"]
