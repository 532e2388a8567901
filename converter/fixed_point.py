"""Fixed point: every value of a network with quantised weights is a whole number times a power of two.

Weights are that already. Here the rest follows, after the calibrators, so that the network which is measured
is the network which an integer machine runs, spike for spike:

    input       ⌊x / 2^e + ½⌋ · 2^e, with 9 bits up to the largest input of the calibration data
    threshold   θ_c = m_c · 2^k, m_c = 1 … 127 and 64 or more in the layer's largest channel
    initial     a multiple of 2^-8 thresholds
    bias        a multiple of the unit of what it is added to: a weight's last bit times its input's

The one spike of a window (`converter.neurons.first_spike`) carries a multiple of 2^(k−8), so that the last
of a window is still told to 1 in 500.

A spike of channel c is then worth m_c units of 2^k: weights keep the ANN's units and their codes, whatever
the thresholds, and the spike carries m_c to them (with one threshold a layer every spike is worth the same,
and a synapse is a bare addition). A value's unit, 2 to its exponent, is known before anything runs: that of a
sum is the finest of its terms, that of a mean over 2^n values is n bits finer, the maximum and all that only
moves values leave it. Sums of so many bits are exact in double precision, and so is everything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from converter.graph import Graph, Input, Node, Op
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
INITIAL_BITS = 8
GRAIN_BITS = 8
"""Bits that the worth of a first spike has below a threshold's unit."""
Synapse = Conv | ConvTranspose | Linear


def fixed_point(graph: Graph, largest: float) -> Graph:
    """A calibrated graph with quantised weights, in fixed point; `largest` is that of its inputs' sizes."""
    grid = Grid(math.frexp(largest or 1.0)[1] - INPUT_BITS)
    units: dict[Node, int | None] = {}
    new: dict[Node, Node] = {}
    for node in graph:
        if isinstance(node.op, Input):
            new[node] = Node(grid, (node,), f"{node.name}.grid", node.shape)
            units[new[node]] = grid.exponent
            continue
        inputs = tuple(new[i] for i in node.inputs)
        given = [units[i] for i in inputs]
        op = snapped(node.op, given)
        new[node] = replace(node, op=op, inputs=inputs)
        units[new[node]] = unit(op, given)
    return replace(graph, outputs=tuple(new[o] for o in graph.outputs)).with_unique_names()


def snapped(op: Op, given: Sequence[int | None]) -> Op:
    """The op with its numbers on the grid; as it was where that is not known."""
    match op:
        case Neuron():
            threshold, exponent = op.calibrated(), payload_unit(op)
            most = 2**PAYLOAD_BITS - 1
            worth = (threshold * 2.0**-exponent).round().clamp(1, most)
            initial = (torch.as_tensor(op.initial) * 2**INITIAL_BITS).round() / 2**INITIAL_BITS
            start = initial if isinstance(op.initial, Tensor) else float(initial)
            made = replace(op, threshold=worth * 2.0**exponent, initial=start)
            if isinstance(made, FirstSpike) and not made.continuous:
                return replace(made, grain=exponent - GRAIN_BITS)
            return made
        case Conv() | ConvTranspose() | Linear() if op.bias is not None:
            at = unit(op, given)
            return op if at is None else replace(op, bias=on_grid(op.bias, at))
        case Affine(None, shift) if shift is not None and given[0] is not None:
            return replace(op, shift=on_grid(shift, given[0]))
    return op


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
