"""Sums that every program adds up alike, in float32 and in any order: because nothing of them is rounded.

Whole numbers of one unit add up exactly in float32 as long as no partial sum has more than 24 bits. So two
things are done to a network in fixed point, wherever a neuron follows:

    rounding  y = ⌊x / 2^e + ½⌋ · 2^e of what one synapse, or a mean, hands to the next without a neuron
              between. It would be counted in the product of two units, and sums of it in 40 bits; a mean of
              nine in no unit at all. What a synapse hands on keeps 12 bits. A mean of n keeps a unit of at
              most 1/n of its input's: none lies halfway, and a division rounded otherwise changes nothing.
    weights   of a format that is `exact` become whole numbers of 2^g over the unit of what they read: for
              each channel the finest unit in which all of the current, with what a shortcut adds and the
              bias, has 24 bits.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from converter.graph import Graph, Node
from converter.neurons import Neuron
from converter.ops import (
    Add,
    Affine,
    AvgPool,
    Grid,
    MaxPool,
    Movement,
    ReduceMean,
)
from converter.packed import Packed
from converter.quantise import transposed_groups, value
from converter.sizes import Interval, axis_of, bits, exponent, intervals
from converter.stateful import Stateful
from converter.units import Synapse
from converter.weights import SPREAD, as_weight, by_channel, parse

EXACT = 24
"""Bits up to which float32 adds whole numbers exactly."""
USED = 0.97 * 2**EXACT
"""Up to here a current is planned: rounded weights may add up to a little more than they were."""
VALUE_BITS = 12
"""Bits, beside the sign, of the largest value that a synapse hands to another."""

Mean = AvgPool | ReduceMean


def exact_sums(graph: Graph) -> Graph:
    """`graph`, its input and spikes in fixed point, with sums that are exact as far as that can be."""
    known, charging, handed = intervals(graph), before_neurons(graph), handed_on(graph)
    totals = currents(graph)
    units: dict[Node, Tensor | None] = {}
    new: dict[Node, Node] = {}
    for node in graph:
        op, reads = node.op, tuple(new[i] for i in node.inputs)
        given = [units[i] for i in reads]
        size = known[totals[node]]
        if isinstance(op, Synapse) and node in charging and size and given[0] is not None:
            op = narrowed(op, int(given[0].min()), size.magnitudes(axis_of(op, len(node.shape))))
        new[node] = made = replace(node, op=op, inputs=reads)
        units[made] = exponent(op, given)
        if node in charging & handed and (at := rounding(node, known[node], given, units[made])) is not None:
            new[node] = Node(Grid(at), (made,), f"{node.name}.grid", node.shape)
            units[new[node]] = torch.tensor([at])
    inputs, outputs = tuple(new[i] for i in graph.inputs), tuple(new[o] for o in graph.outputs)
    return replace(graph, inputs=inputs, outputs=outputs).with_unique_names()


def before_neurons(graph: Graph) -> frozenset[Node]:
    """The nodes that a neuron follows."""
    users = graph.users()
    found: set[Node] = set()
    for node in reversed(graph.order):
        if any(u in found or isinstance(u.op, Neuron) for u in users[node]):
            found.add(node)
    return frozenset(found)


def handed_on(graph: Graph) -> frozenset[Node]:
    """The sums and means that another of them reads, with no neuron between."""
    users = graph.users()
    read: set[Node] = set()
    for node in reversed(graph.order):
        if any(
            isinstance(u.op, Synapse | Mean) or (u in read and isinstance(u.op, Movement | MaxPool | Affine))
            for u in users[node]
        ):
            read.add(node)
    return frozenset(n for n in read if isinstance(n.op, Synapse | Add | Mean))


def currents(graph: Graph) -> dict[Node, Node]:
    """For every node the sum that it is at last a term of; itself, where it is none."""
    users, found = graph.users(), dict[Node, Node]()
    for node in reversed(graph.order):
        after = users[node]
        alone = len(after) == 1 and node not in graph.outputs and after[0].shape == node.shape
        term = alone and (isinstance(after[0].op, Add) or _shifts(after[0]))
        found[node] = found[after[0]] if term else node
    return found


def _shifts(node: Node) -> bool:
    mends = isinstance(node.op, Stateful) and not isinstance(node.op, Neuron)
    return mends or (isinstance(node.op, Affine) and node.op.scale is None)


def narrowed(op: Synapse, given: int, largest: Tensor) -> Synapse:
    """Codes and bias of an `exact` format so coarse that currents this large, one a channel, have 24 bits."""
    packed = op.packed
    format = None if packed is None else parse(packed.format)
    if packed is None or format is None or not format.exact:
        return op
    finest = torch.frexp(largest / USED)[1].long()  # the least power of two above
    at = torch.where(largest > 0, finest - given, torch.iinfo(torch.int32).min)
    _, had = torch.frexp(packed.scale.double())
    at = torch.maximum(at, had.long() - 1)
    at = torch.maximum(at, at.max() - SPREAD)
    rows = by_channel(op.weight, transposed_groups(op)).double().cpu()
    scale = torch.ldexp(torch.ones(len(at), dtype=torch.float64), at)
    codes = (rows / scale[:, None]).round().to(packed.codes.dtype)
    made = Packed(packed.format, as_weight(codes, op.weight.shape, transposed_groups(op)), scale.float())
    op = replace(op, packed=made)
    op = replace(op, weight=value(op).to(op.weight))
    if op.bias is None:
        return op
    units = torch.ldexp(torch.ones(len(at), dtype=torch.float64), at + given)
    return replace(op, bias=((op.bias.double().cpu() / units).round() * units).to(op.bias))


def rounding(node: Node, size: Interval | None, given: list[Tensor | None], own: Tensor | None) -> int | None:
    """The exponent of the grid for what a sum or mean hands on; None where it needs none, or has none."""
    if size is None:
        return None
    if isinstance(node.op, Mean):
        if own is not None or given[0] is None:
            return None
        return int(given[0].min()) - count(node.op, node.inputs[0]).bit_length()
    axis = axis_of(node.op, len(node.shape))
    if own is None or bits(size, own, axis) <= VALUE_BITS:
        return None
    largest = float(size.magnitudes(axis).max())
    return math.frexp(largest)[1] - VALUE_BITS


def count(op: Mean, source: Node) -> int:
    """Of how many values a mean is, at most."""
    return math.prod(op.kernel if isinstance(op, AvgPool) else (source.shape[d] for d in op.dims))


def exact_layers(graph: Graph) -> tuple[int, int]:
    """(How many layers of neurons are charged with sums that float32 holds in any order, of how many.)"""
    known, charging = intervals(graph), before_neurons(graph)
    users = graph.users()
    units: dict[Node, Tensor | None] = {}
    loose: dict[Node, bool] = {}
    for node in graph:
        own = units[node] = exponent(node.op, [units[i] for i in node.inputs])
        size, axis = known[node], axis_of(node.op, len(node.shape))
        sums = isinstance(node.op, Synapse | Add | Mean)
        rounded = isinstance(node.op, Mean) and all(isinstance(u.op, Grid) for u in users[node])
        fits = size is not None and own is not None and bits(size, own, axis) <= EXACT
        before = any(loose[i] for i in node.inputs if not isinstance(i.op, Neuron))
        loose[node] = before or (sums and node in charging and not fits and not rounded)
    layers = [node for node in graph if isinstance(node.op, Neuron)]
    return sum(not loose[node] for node in layers), len(layers)
