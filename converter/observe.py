"""Run a graph over batches and stream chosen values to observers; nothing is kept but what they keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

from converter.graph import Graph, Node
from converter.neurons import Neuron
from converter.stateful import Stateful

Batches = Callable[[], Iterable[Tensor]]
"""Gives the calibration inputs anew each time it is called: tensors [batch, …] in the network's layout."""


class Observer(Protocol):
    """Something that looks at a value, batch by batch."""

    def update(self, value: Tensor) -> None:
        """Take in one batch, [batch, …]."""


def observe(graph: Graph, batches: Batches, observers: Iterable[tuple[Node, Observer]]) -> None:
    """Run the ANN meaning of `graph` over every batch; each observer sees the values of its node."""
    watching: dict[Node, list[Observer]] = {}
    for node, observer in observers:
        watching.setdefault(node, []).append(observer)

    def listen(node: Node, value: Tensor) -> None:
        for observer in watching.get(node, ()):
            observer.update(value)

    with torch.inference_mode():
        for batch in batches():
            graph.run(batch, listen=listen)


def voices_of(graph: Graph) -> dict[Node, Node]:
    """Where a neuron's spikes are heard -> the neuron: at itself, or at what mends its spikes."""
    users = graph.users()

    def voice(node: Node) -> Node:
        readers = users[node]
        mended = len(readers) == 1 and isinstance(readers[0].op, Stateful) and readers[0].op.mends_spikes
        return readers[0] if mended else node

    return {voice(node): node for node in graph if isinstance(node.op, Neuron)}


def activations_of(graph: Graph, inputs: Tensor) -> dict[Node, Tensor]:
    """The ANN's activation where each neuron of a spiking graph stands."""
    found: dict[Node, Tensor] = {}

    def listen(node: Node, value: Tensor) -> None:
        if isinstance(node.op, Neuron):
            found[node] = value

    graph.run(inputs, listen=listen)
    return found
