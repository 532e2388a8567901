"""Calibrators: passes that look at data. (graph, batches) -> graph, in any order the user names.

A calibrator is a frozen dataclass whose fields are its options; its file is its public name. It sees the
graph's ANN meaning through `converter.observe` and sets the neurons' thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from converter.graph import Graph, Node, batch_axes
from converter.neurons import Neuron
from converter.observe import Batches, Observer, observe
from converter.registry import Registry
from converter.withdrawal import Withdrawal


class Calibrator(Protocol):
    """Sets what the graph itself cannot say."""

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """`graph` calibrated. Deterministic for the same batches.

        `ann` is `graph` before any calibrator, its neurons by the same names: what it says as an ANN is what
        the spikes should say, also when weights have been changed since. None: none has been.
        """


S = TypeVar("S", bound=Observer)


@dataclass(frozen=True)
class Watched(Generic[S]):
    """A statistic of what a neuron's threshold must cover, fed with the neuron's input."""

    neuron: Neuron
    statistic: S

    def update(self, value: Tensor) -> None:
        """Take in one batch of the neuron's input."""
        self.statistic.update(self.neuron.magnitude(value))


def watch(
    graph: Graph, batches: Batches, statistic: Callable[[bool], S], ann: Graph | None = None
) -> dict[Node, S]:
    """One statistic for each neuron of `graph`, having seen its activation in `ann` over all batches.

    `statistic(has_channels)` makes it: whether dimension 1 may have values of its own, not being the batch.
    """
    watched = {
        node.name: (node.inputs[0], Watched(node.op, statistic(1 not in batch_axes(node.shape))))
        for node in ann or graph
        if isinstance(node.op, Neuron)
    }
    observe(ann or graph, batches, watched.values())
    return {node: watched[node.name][1].statistic for node in graph if isinstance(node.op, Neuron)}


calibrators: Registry[type[Calibrator]] = Registry("calibrator", "calibrators")


def with_ranges(graph: Graph, ranges: Mapping[Node, Tensor]) -> Graph:
    """The graph with thresholds such that a neuron which says all it can at every step says these values.

    None is above its activation's ceiling and none zero. A channel that was silent on the calibration data
    has no scale of its own and takes its layer's; a layer that was silent takes 1. A threshold of zero would
    fire at every step.
    """
    new = {
        node.name: _sound(node.op, value) / node.op.parts
        for node, value in ranges.items()
        if isinstance(node.op, Neuron)
    }

    def rule(node: Node) -> Node:
        if node.name in new and isinstance(node.op, Neuron):
            return replace(node, op=replace(node.op, threshold=new[node.name]))
        if isinstance(node.op, Withdrawal) and node.inputs[0].name in new:
            return replace(node, op=replace(node.op, threshold=new[node.inputs[0].name]))
        return node

    return graph.map(rule)


def _sound(neuron: Neuron, values: Tensor) -> Tensor:
    largest = values.max()
    layer = largest if float(largest) > 0 else largest.new_ones(())
    sound = values.where(values > DEAD * layer, layer)
    return sound if neuron.ceiling is None else sound.clamp(max=neuron.ceiling)


DEAD = 1e-4
"""A channel whose range is below this share of its layer's is taken for silent."""
