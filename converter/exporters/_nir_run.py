"""A reader of NIR of our own: the definition of each node, with the conventions that the file states."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.errors import ArtefactError
from converter.exporters._check import Check, apart
from converter.graph import Node
from converter.neurons import Neuron
from converter.rate import RateModel
from converter.spiking import State

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Reader:
    """A NIR graph, its nodes in the order in which they can be computed."""

    graph: Any
    order: tuple[str, ...]
    subtract: bool

    @staticmethod
    def of(graph: Any) -> Reader:
        """Raises `ArtefactError` for a graph with a cycle."""
        waiting = dict.fromkeys(graph.nodes, 0)
        for _, target in graph.edges:
            waiting[target] += 1
        order = [name for name, count in waiting.items() if count == 0]
        for name in order:
            for source, target in graph.edges:
                if source == name:
                    waiting[target] -= 1
                    if waiting[target] == 0:
                        order.append(target)
        if len(order) != len(graph.nodes):
            raise ArtefactError("the NIR graph has a cycle")
        said = graph.metadata["conventions"]
        said = json.loads(said if isinstance(said, str) else bytes(said).decode())
        return Reader(graph, tuple(order), said["reset"] == "subtract")

    def run(self, x: Tensor) -> Iterator[Values]:
        """What every node emits, step after step, without end."""
        sources: dict[str, list[str]] = {name: [] for name in self.order}
        for source, target in self.graph.edges:
            sources[target].append(source)
        membranes = {n: self.initial(self.graph.nodes[n]) for n in self.order if self.kind(n) == "IF"}
        while True:
            values: Values = {}
            for name in self.order:
                given = x if self.kind(name) == "Input" else sum(values[s] for s in sources[name])
                assert isinstance(given, Tensor)
                if name in membranes:
                    membranes[name], values[name] = self.fire(self.graph.nodes[name], membranes[name], given)
                else:
                    values[name] = compute(self.graph.nodes[name], given)
            yield values

    def kind(self, name: str) -> str:
        return type(self.graph.nodes[name]).__name__

    def layer(self, name: str) -> str:
        """Which layer of the network a neuron is."""
        told = self.graph.nodes[name].metadata["layer"]
        return told.decode() if isinstance(told, bytes) else str(told)

    def initial(self, node: Any) -> Tensor:
        return torch.from_numpy(node.metadata["v_initial"])

    def fire(self, node: Any, membrane: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """v ← v + R·I; a spike of 1 where v ≥ v_threshold; the reset."""
        threshold, reset = torch.from_numpy(node.v_threshold), torch.from_numpy(node.v_reset)
        membrane = membrane + torch.from_numpy(node.r) * current
        fires = membrane >= threshold
        spikes = fires.to(current.dtype)
        after = membrane - spikes * threshold if self.subtract else torch.where(fires, reset, membrane)
        return after, spikes


def compute(node: Any, x: Tensor) -> Tensor:
    """What a node without a state makes of the sum of its inputs [batch, …]."""
    match type(node).__name__:
        case "Input" | "Output":
            return x
        case "Conv2d":
            weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
            stride, padding, dilation = (
                tuple(map(int, v)) for v in (node.stride, node.padding, node.dilation)
            )
            return F.conv2d(x, weight, bias, stride, padding, dilation, int(node.groups))
        case "Affine":
            return F.linear(x, torch.from_numpy(node.weight), torch.from_numpy(node.bias))
        case "AvgPool2d":
            kernel, stride, padding = (
                tuple(map(int, v)) for v in (node.kernel_size, node.stride, node.padding)
            )
            return F.avg_pool2d(x, kernel, stride, padding)
        case "Flatten":
            return x.flatten(int(node.start_dim) + 1, int(node.end_dim))
        case "Scale":
            return x * torch.from_numpy(node.scale)
    raise ArtefactError(f"a NIR node of kind {type(node).__name__} is not read")


def check_run(graph: Any, model: RateModel, x: Tensor, timesteps: int) -> Check:
    """The whole run beside that of `model`: spikes of every layer, and the mean output."""
    reader, state = Reader.of(graph), State()
    layers = {reader.layer(name): name for name in graph.nodes if reader.kind(name) == "IF"}
    fires = [layers[node.name] for node in model.neurons]
    count = len(model.graph.outputs)
    ends = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    heard: dict[Node, Tensor] = {}

    def listen(node: Node, value: Tensor) -> None:
        if isinstance(node.op, Neuron):
            heard[node] = value

    spikes = differing = 0
    sums = [torch.zeros(())] * len(ends)
    with torch.inference_mode():
        currents = model.currents(x)
        for _, values in zip(range(timesteps), reader.run(x), strict=False):
            readout, state = model.advance(currents, state, listen)
            for name, node in zip(fires, model.neurons, strict=True):
                spikes += values[name].numel()
                differing += int(((values[name] != 0) != (heard[node] != 0)).sum())
            sums = [total + values[name] for total, name in zip(sums, ends, strict=True)]
        worst = max(apart(a, b / timesteps) for a, b in zip(readout, sums, strict=True))
    return Check("our reader of NIR", len(x), timesteps, worst, spikes, differing)
