"""Quantised weights: every convolution and matrix product of a graph held as codes of one format.

It comes after the passes, which multiply weights, and before the calibrators, which then set thresholds and
biases for the weights that there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from converter.errors import ModelError
from converter.graph import Graph, Node
from converter.neurons import Neuron
from converter.ops import Conv, ConvTranspose, Linear
from converter.packed import Packed
from converter.weights import Format, as_weight, by_channel, parse

Synapse = Conv | ConvTranspose | Linear


def quantise(graph: Graph, format: Format) -> Graph:
    """`graph` with all its weights on the grid of `format`, their codes beside them; biases as they are."""

    def packed(node: Node) -> Node:
        if not isinstance(node.op, Conv | ConvTranspose | Linear):
            return node
        weight, transposed = node.op.weight, transposed_groups(node.op)
        rows, scale = format.encode(by_channel(weight, transposed))
        codes = as_weight(rows, weight.shape, transposed).cpu()
        op = replace(node.op, packed=Packed(str(format), codes, scale.cpu()))
        return replace(node, op=replace(op, weight=value(op).to(weight)))

    return graph.map(packed)


def transposed_groups(op: Synapse) -> int:
    """The groups of a ConvTranspose, 0 for others: how `by_channel` reads its weight."""
    return op.groups if isinstance(op, ConvTranspose) else 0


def value(op: Synapse) -> Tensor:
    """The weight that the codes of `op` stand for."""
    packed, transposed = held(op), transposed_groups(op)
    format = parse(packed.format)
    assert format is not None
    rows = format.decode(by_channel(packed.codes, transposed), packed.scale)
    return as_weight(rows, packed.codes.shape, transposed)


def held(op: Synapse) -> Packed:
    """The codes of `op`, which has some."""
    assert op.packed is not None
    return op.packed


def check(graph: Graph) -> Graph:
    """This graph, if each weight is what its codes say; else `ModelError`."""
    for node in graph:
        op = node.op
        if not isinstance(op, Conv | ConvTranspose | Linear) or op.packed is None:
            continue
        if op.packed.codes.shape != op.weight.shape or not torch.equal(value(op), op.weight.cpu()):
            raise ModelError(f"the weights of {node.where} are not what their codes say")
    return graph


def errors(graph: Graph, was: Graph) -> dict[str, float]:
    """For each node with codes how far its weights are from those in `was`: |w' − w| / |w|, Euclidean."""
    old = {node.name: node.op for node in was}
    found = {}
    for node in graph:
        op, before = node.op, old.get(node.name)
        if isinstance(op, Conv | ConvTranspose | Linear) and op.packed is not None:
            assert isinstance(before, Conv | ConvTranspose | Linear)
            length = float(before.weight.double().norm())
            found[node.name] = float((op.weight.double() - before.weight.double()).norm()) / (length or 1.0)
    return found


def by_layer(graph: Graph, found: Mapping[str, float]) -> dict[str, float]:
    """For each neuron, by name, the largest of the `found` errors of the synapses that feed it."""
    reached: dict[Node, float] = {}
    told = {}
    for node in graph:
        reached[node] = found.get(node.name, max((reached[i] for i in node.inputs), default=0.0))
        if isinstance(node.op, Neuron):
            told[node.name], reached[node] = reached[node], 0.0
    return told


def weight_bytes(graph: Iterable[Node]) -> int:
    """What the weights take: codes at their bits and 2 bytes a scale, or 4 bytes a weight; biases apart."""
    total = 0.0
    for node in graph:
        if isinstance(node.op, Conv | ConvTranspose | Linear):
            packed, weights = node.op.packed, node.op.weight.numel()
            if packed is None:
                total += 4 * weights
            else:
                total += weights * bits_of(packed.format) / 8 + 2 * len(packed.scale)
    return round(total)


def facts(graph: Graph, name: str, found: Mapping[str, float]) -> dict[str, object]:
    """What the report's metrics say of the weights: their format, bits and bytes; the errors of a format."""
    told: dict[str, object] = {"format": name, "bits": bits_of(name), "footprint": weight_bytes(graph)}
    return {**told, "relative_error": dict(found)} if found else told


def bits_of(name: str) -> int:
    """The bits of a weight of the format with this name."""
    format = parse(name)
    return 32 if format is None else format.bits
