"""How large the values of a network in fixed point can become in a step, and in which unit they are whole.

A value lies within low ≤ 0 ≤ high, known from what spikes and the input are worth. As a term's interval
holds 0, a sum's holds all its partial sums, in every order. The unit is 2^exponent for each channel, the
finest that the numbers of a weight really have, whatever their format could hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from converter.graph import BATCH, Graph, Input, Node, Op
from converter.neurons import Neuron
from converter.neurons.negative_slope import NegativeSlope
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
    ReduceMean,
)
from converter.quantise import transposed_groups
from converter.stateful import Stateful
from converter.units import INPUT_BITS, Synapse, unit
from converter.weights import by_channel

NONNEGATIVE = ("binary", "burst", "first")
"""What the spikes of neurons are that never say less than 0."""


@dataclass(frozen=True, eq=False)
class Interval:
    """low ≤ 0 and high ≥ 0 for each value of one sample."""

    low: Tensor
    high: Tensor

    def magnitudes(self, axis: int) -> Tensor:
        """The largest magnitude of each channel."""
        return torch.maximum(self.high, -self.low).movedim(axis, 0).flatten(1).amax(1).double()


def intervals(graph: Graph) -> dict[Node, Interval | None]:
    """Of every node; None where it is not known."""
    found: dict[Node, Interval | None] = {}
    for node in graph:
        given = [found[i] for i in node.inputs]
        if isinstance(node.op, Grid) and isinstance(node.inputs[0].op, Input):
            most = torch.full(one(node), 2.0 ** (node.op.exponent + INPUT_BITS))
            found[node] = Interval(-most, most)
        elif isinstance(node.op, Neuron):
            found[node] = spikes(node, node.op)
        else:
            known = [g for g in given if g is not None]
            found[node] = interval(node.op, known) if known and len(known) == len(given) else None
    return found


def one(node: Node) -> tuple[int, ...]:
    """The shape of a sample, the batch 1."""
    return tuple(d // BATCH if d >= BATCH else d for d in node.shape)


def spikes(node: Node, neuron: Neuron) -> Interval | None:
    """What a neuron can say in a step."""
    if isinstance(neuron, NegativeSlope):
        return None
    most = (neuron.calibrated() * neuron.most).float().cpu().expand(one(node))
    return Interval(torch.zeros_like(most) if neuron.alphabet in NONNEGATIVE else -most, most)


def interval(op: Op, given: Sequence[Interval]) -> Interval | None:
    """Of an op on values of these."""
    first = given[0]
    match op:
        case Conv() | ConvTranspose() | Linear():
            return charged(op, first)
        case Add() | Movement() | AvgPool() | ReduceMean() | MaxPool() | ReduceMax():
            low = -op(-first.low) if isinstance(op, MaxPool | ReduceMax) else op(*(g.low for g in given))
            return Interval(low.clamp(max=0), op(*(g.high for g in given)).clamp(min=0))
        case Affine(None, shift) if shift is not None:
            shift = shift.float().cpu()
            return Interval(first.low + shift.clamp(max=0), first.high + shift.clamp(min=0))
        case Grid():
            half = 2.0 ** (op.exponent - 1)
            return Interval(first.low - half, first.high + half)
        case Stateful():
            most = torch.maximum(first.high, -first.low)
            return Interval(-most, most)
    return None


def charged(op: Synapse, given: Interval) -> Interval:
    """Of a sum of weights times values."""
    weight = op.weight.float().cpu()
    up = replace(op, weight=weight.clamp(min=0), bias=None, packed=None)
    down = replace(op, weight=weight.clamp(max=0), bias=None, packed=None)
    low, high = down(given.high), up(given.high)
    if bool(given.low.any()):
        low, high = low + up(given.low), high + down(given.low)
    if op.bias is not None:
        bias = op.bias.float().cpu()
        bias = bias if isinstance(op, Linear) else bias.reshape(-1, *[1] * (weight.dim() - 2))
        low, high = low + bias.clamp(max=0), high + bias.clamp(min=0)
    return Interval(low, high)


def exponent(op: Op, given: Sequence[Tensor | None]) -> Tensor | None:
    """Of the unit in which the values of an op are whole, int64 [channels] or [1]; None if there is none."""
    match op:
        case Conv() | ConvTranspose() | Linear():
            return None if given[0] is None else finest(op) + given[0].min()
        case Add() if all(g is not None for g in given):
            known = torch.broadcast_tensors(*(g for g in given if g is not None))
            return torch.stack(known).amin(0)
        case Stateful() if not isinstance(op, Neuron):
            return given[0]
    scalar = unit(op, [None if g is None else int(g.min()) for g in given])
    return None if scalar is None else torch.tensor([scalar])


def finest(op: Synapse) -> Tensor:
    """For each output channel the exponent of the unit in which its weights are whole numbers."""
    rows = by_channel(op.weight, transposed_groups(op)).double().cpu()
    mantissa, exponents = torch.frexp(rows)
    numbers = (mantissa * 2.0**53).long()
    lowest = torch.frexp((numbers & -numbers).double())[1] - 1
    places = torch.where(numbers == 0, 1 << 20, exponents.long() - 53 + lowest)
    found = places.amin(1)
    return torch.where(found == 1 << 20, int(found.min()), found)


def axis_of(op: Op, rank: int) -> int:
    """Where the channels of a value are that a node of `rank` dimensions computes."""
    return rank - 1 if isinstance(op, Linear) else min(1, rank - 1)


def bits(interval: Interval, exponents: Tensor, axis: int) -> float:
    """How many bits the largest value has, counted in its channel's unit."""
    largest = interval.magnitudes(axis)
    exponents = exponents if len(exponents) == len(largest) else exponents.min().reshape(1)
    return math.log2(max(float(torch.ldexp(largest, -exponents).max()), 1.0))
