"""In which unit each value of a network in fixed point is counted: 2 to an exponent, known beforehand.

That of a sum is the finest of its terms, that of a mean over 2^n values is n bits finer, the maximum and all
that only moves values leave it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from converter.graph import Op
from converter.neurons import Neuron
from converter.neurons.first_spike import FirstSpike
from converter.ops import (
    Add,
    Affine,
    AvgPool,
    Conv,
    ConvTranspose,
    Grid,
    Linear,
    MaxPool,
    Movement,
    ReduceMax,
)
from converter.quantise import held, transposed_groups
from converter.weights import by_channel, parse

INPUT_BITS = 9
"""Bits of the largest input of the calibration data, beside its sign; what is larger has more."""
PAYLOAD_BITS = 7
"""Bits of a spike's worth: 1 … 127, so that a signed one fits into a byte."""
Synapse = Conv | ConvTranspose | Linear


def on_grid(values: Tensor, exponent: int) -> Tensor:
    """The nearest multiples of 2^exponent."""
    return torch.ldexp(
        torch.ldexp(values.double(), torch.tensor(-exponent)).round(), torch.tensor(exponent)
    ).to(values)


def unit(op: Op, given: Sequence[int | None]) -> int | None:
    """The exponent of an op's values, those of its inputs being `given`; None where it is no power of two."""
    if isinstance(op, Grid):
        return op.exponent
    if isinstance(op, Neuron):
        return op.grain if isinstance(op, FirstSpike) else payload_unit(op)
    if not given or any(g is None for g in given):
        return None
    finest = min(g for g in given if g is not None)
    match op:
        case Conv() | ConvTranspose() | Linear() if op.packed is not None:
            return finest + int(whole(op)[1].min())
        case Add() | Movement() | MaxPool() | ReduceMax() | Affine(None):
            return finest
        case AvgPool():
            return finest - (values_of(op) - 1).bit_length() if values_of(op) else None
    return None


def values_of(op: AvgPool) -> int:
    """How many values each mean is of, if it is as many everywhere, and a power of two; else 0."""
    count = math.prod(op.kernel)
    even = not op.ceil and (op.include_pad or not any(op.padding))
    return count if even and count & (count - 1) == 0 else 0


def payload_unit(neuron: Neuron) -> int:
    """k: what a spike is worth is counted in 2^k, so that the largest threshold is 64 … 127 of them."""
    return math.frexp(float(neuron.calibrated().max()))[1] - PAYLOAD_BITS


def whole(op: Synapse) -> tuple[Tensor, Tensor]:
    """The weights of `op` as whole numbers in its shape's rows, and each channel's exponent."""
    packed = held(op)
    format = parse(packed.format)
    assert format is not None
    return format.whole(by_channel(packed.codes, transposed_groups(op)), packed.scale)
