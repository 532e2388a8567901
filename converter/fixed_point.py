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
from dataclasses import replace

import torch
from torch import Tensor

from converter.graph import Graph, Input, Node, Op
from converter.neurons import Neuron
from converter.neurons.first_spike import FirstSpike
from converter.ops import Affine, Conv, ConvTranspose, Grid, Linear
from converter.sums import exact_sums
from converter.units import INPUT_BITS, PAYLOAD_BITS, on_grid, payload_unit, unit

INITIAL_BITS = 8
GRAIN_BITS = 8
"""Bits that the worth of a first spike has below a threshold's unit."""


def fixed_point(graph: Graph, largest: float) -> Graph:
    """A calibrated graph with quantised weights, in fixed point; `largest` is that of its inputs' sizes."""
    grid = Grid(math.frexp(largest or 1.0)[1] - INPUT_BITS)
    new: dict[Node, Node] = {}
    for node in graph:
        if isinstance(node.op, Input):
            new[node] = Node(grid, (node,), f"{node.name}.grid", node.shape)
        else:
            op = snapped(node.op) if isinstance(node.op, Neuron) else node.op
            new[node] = replace(node, op=op, inputs=tuple(new[i] for i in node.inputs))
    return biased(exact_sums(replace(graph, outputs=tuple(new[o] for o in graph.outputs))))


def snapped(neuron: Neuron) -> Neuron:
    """The neuron with whole thresholds and first membranes."""
    threshold, exponent = neuron.calibrated(), payload_unit(neuron)
    worth = (threshold * 2.0**-exponent).round().clamp(1, 2**PAYLOAD_BITS - 1)
    initial = (torch.as_tensor(neuron.initial) * 2**INITIAL_BITS).round() / 2**INITIAL_BITS
    start = initial if isinstance(neuron.initial, Tensor) else float(initial)
    made = replace(neuron, threshold=worth * 2.0**exponent, initial=start)
    if isinstance(made, FirstSpike) and not made.continuous:
        return replace(made, grain=exponent - GRAIN_BITS)
    return made


def biased(graph: Graph) -> Graph:
    """What is added to sums as multiples of their unit; as it was where that is not known."""
    units: dict[Node, int | None] = {}

    def added(node: Node) -> Node:
        given, op = [units[i] for i in node.inputs], node.op
        made: Op = op
        match op:
            case Conv() | ConvTranspose() | Linear() if op.bias is not None:
                at = unit(op, given)
                made = op if at is None else replace(op, bias=on_grid(op.bias, at))
            case Affine(None, shift) if shift is not None and given[0] is not None:
                made = replace(op, shift=on_grid(shift, given[0]))
        node = replace(node, op=made)
        units[node] = unit(made, given)
        return node

    return graph.map(added).with_unique_names()
