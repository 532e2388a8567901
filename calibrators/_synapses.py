"""The synapses that feed a layer of neurons alone: which they are; layer and graph with other weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from calibrators._layerwise import Layer
from converter.graph import Graph, Node
from converter.neurons import Neuron
from converter.ops import Add, Affine, Conv, ConvTranspose, Linear
from converter.temporal_bias import TemporalBias
from converter.unroll import each_step


def synapses(graph: Graph) -> dict[Node, tuple[Node, ...]]:
    """For each layer of neurons the convolutions and matrix products that feed it alone, through sums."""
    users = graph.users()

    def behind(node: Node, fed: Node) -> tuple[Node, ...]:
        if len(users[node]) > 1 or node in graph.outputs or node.shape != fed.shape:
            return ()
        match node.op:
            case Conv() | ConvTranspose() | Linear():
                return (node,) if node.op.packed is None else ()
            case Add() | Affine(None) | TemporalBias():
                return tuple(found for source in node.inputs for found in behind(source, fed))
        return ()

    return {node: behind(node.inputs[0], node) for node in graph if isinstance(node.op, Neuron)}


def synapse(node: Node) -> Conv | ConvTranspose | Linear:
    """The op of a node found by `synapses`."""
    assert isinstance(node.op, Conv | ConvTranspose | Linear)
    return node.op


def with_weights(layer: Layer, weights: Mapping[Node, Tensor]) -> Layer:
    """The layer on the currents that these weights would give it."""
    currents, changed = layer.currents, dict[Node, Node]()
    for node, weight in weights.items():
        op = synapse(node)
        change = replace(op, weight=weight.detach() - op.weight, bias=None)
        currents = currents + each_step(change, [layer.given[node]])
        changed[node] = replace(node, op=replace(op, weight=weight.detach()))
    return replace(layer, currents=currents, changed=changed)


def reweighted(graph: Graph, weights: Mapping[str, Tensor]) -> Graph:
    """The graph with these weights, by the names of their nodes."""

    def rule(node: Node) -> Node:
        if node.name not in weights:
            return node
        return replace(node, op=replace(synapse(node), weight=weights[node.name]))

    return graph.map(rule)
