"""What is in a network, what of it converts and how, and what does not: everything `ann2snn inspect` says."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from converter.errors import Unsupported
from converter.graph import Graph, Node, show_shape, size_of
from converter.importer import load_with_source
from converter.neurons import Neuron
from converter.onnx_file import read as read_file
from converter.passes import apply
from converter.passes.spike import Spike, in_the_way
from converter.plan import Plan

ROLES = {
    "neuron": "becomes a spiking neuron",
    "synapse": "linear: acts on the spikes of every step",
    "input": "before the first neuron: computed once for each sample",
    "pool": "lossless: the change of what it makes of the summed spikes",
    "head": "analog: after the last neuron, on the mean over time",
    "kept": "analog, as asked: on running means",
    "refused": "no spiking counterpart",
}
"""The part a node plays in the spiking network -> what that means. The order is that of the table."""


@dataclass(frozen=True)
class Part:
    """One node of the spiking network."""

    name: str
    kind: str
    shape: str
    role: str
    why: str = ""


@dataclass(frozen=True)
class Inspection:
    """What was found. Of a file with nodes that cannot be imported, what needs the graph is empty or None."""

    name: str
    bytes: int
    producer: str
    opset: int
    nodes: int
    """In the file."""
    graph_nodes: int | None
    """After the algebraic passes."""
    parameters: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    neurons: int | None
    """Spiking neurons for one sample."""
    parts: tuple[Part, ...]
    refused: tuple[tuple[str, str], ...]
    """(node, why), in the words of the error that `convert` would raise."""
    hint: str

    @property
    def convertible(self) -> bool:
        """Whether `convert` takes this network, as asked."""
        return not self.refused

    def kinds(self) -> list[tuple[str, str, int]]:
        """(role, kind, how many), in the order of `ROLES`, the most frequent first."""
        counts: dict[tuple[str, str], int] = {}
        for part in self.parts:
            counts[part.role, part.kind] = counts.get((part.role, part.kind), 0) + 1
        order = list(ROLES)
        rows = [(role, kind, count) for (role, kind), count in counts.items()]
        return sorted(rows, key=lambda row: (order.index(row[0]), -row[2], row[1]))


def inspect(
    path: str | os.PathLike[str],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    outputs: Sequence[str] = (),
    keep_analog: Collection[str] = (),
) -> Inspection:
    """Look into the ONNX file at `path`. Raises `ModelError` when it cannot be read at all."""
    try:
        ann, _ = load_with_source(path, shapes=shapes, outputs=outputs)
    except Unsupported as error:
        return _found(path, None, None, (), error.refusals, error.hint)
    graph, _ = apply(ann.verify())
    # keeping every kind analog refuses nothing, so the whole network can be shown with what is in its way
    everything = {node.op.kind for node in graph}
    try:
        spiking = Spike(keep_analog=everything)(graph)
    except Unsupported as error:
        return _found(path, ann, graph, (), error.refusals, error.hint)
    parts = parts_of(spiking, keep_analog)
    refusals: Sequence[tuple[str, str]] = ()
    hint = ""
    try:
        Spike(keep_analog=keep_analog)(graph)
    except Unsupported as error:
        refusals, hint = error.refusals, error.hint.rpartition("; ")[2]
    return _found(path, ann, spiking, parts, refusals, hint)


def parts_of(spiking: Graph, keep_analog: Collection[str] = ()) -> tuple[Part, ...]:
    """Every node with the part it plays, sources first; inputs left out."""
    plan = Plan.of(spiking)
    obstacles = {node: "kept" if node.op.kind in keep_analog else "refused" for node in in_the_way(spiking)}
    static = set(plan.static)

    def role(node: Node) -> str:
        if isinstance(node.op, Neuron):
            return "neuron"
        if node in obstacles:
            return obstacles[node]
        if node in static:
            return "input"
        if node in plan.cumulative:
            return "pool"
        return "head" if node in plan.head else "synapse"

    return tuple(
        Part(node.name, node.op.kind, show_shape(node.shape), role(node))
        for node in spiking
        if node not in spiking.inputs
    )


def _found(
    path: str | os.PathLike[str],
    ann: Graph | None,
    graph: Graph | None,
    parts: tuple[Part, ...],
    refused: Sequence[tuple[str, str]],
    hint: str,
) -> Inspection:
    proto, _, name = read_file(path)
    weights = {t.name for t in proto.graph.initializer}
    ends = (
        {n.name: show_shape(n.shape) for n in ann.inputs} if ann else _declared(proto.graph.input, weights),
        {n.name: show_shape(n.shape) for n in ann.outputs} if ann else _declared(proto.graph.output, set()),
    )
    sizes = [prod(t.dims) for t in proto.graph.initializer]
    opsets = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    return Inspection(
        name=name,
        bytes=Path(path).stat().st_size,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        opset=(opsets or [1])[0],
        nodes=len(proto.graph.node),
        graph_nodes=len(graph) if graph else None,
        parameters=sum(t.numel() for n in ann for t in n.op.tensors().values()) if ann else sum(sizes),
        inputs=ends[0],
        outputs=ends[1],
        neurons=sum(size_of(n.shape) for n in graph if isinstance(n.op, Neuron)) if parts and graph else None,
        parts=parts,
        refused=tuple(refused),
        hint=hint,
    )


def _declared(values: Iterable[Any], weights: Collection[str]) -> dict[str, str]:
    """Name -> shape as the file has it, for a network that could not be read further."""
    return {
        v.name: "x".join(str(d.dim_value or d.dim_param or "?") for d in v.type.tensor_type.shape.dim) or "()"
        for v in values
        if v.name not in weights
    }
