"""Gradients through rates: a spiking run says what its neurons said, its ANN how that would change.

With r the mean of what a neuron emits in a run, z̄ the mean of its current and θ its threshold:

    r is what the run gave        ∂r/∂z̄ = 1 between silence and all it can say, else 0
                                  ∂r/∂θ = (r − z̄ · ∂r/∂z̄) / θ

as for a rounding whose step is a share of θ (Esser et al., ICLR 2020): what is off by a spike is off by more
with larger ones, and a full neuron says more. So gradients of the read-out reach every weight, bias and
threshold at the cost of the ANN's, whatever the length of the run; none goes back in time (Meng et al., CVPR
2022; Yu et al., NeurIPS 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from calibrators._layerwise import following
from converter.graph import Graph, Node, Op
from converter.neurons import Neuron
from converter.observe import voices_of
from converter.ops import Conv, ConvTranspose, Linear
from converter.plan import Plan
from converter.schedules import Model

Synapse = Conv | ConvTranspose | Linear


@dataclass
class Means:
    """Hears a run: the sums of what each layer of neurons said after the first `delay` steps, by its name."""

    voices: Mapping[Node, Node]
    delay: int = 0
    steps: dict[Node, int] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)

    @property
    def told(self) -> frozenset[Node]:
        """What it listens to."""
        return frozenset(self.voices)

    def __call__(self, node: Node, value: Tensor) -> None:
        if (neuron := self.voices.get(node)) is None:
            return
        self.steps[node] = self.steps.get(node, 0) + 1
        if self.steps[node] <= self.delay:
            return
        if neuron.name in self.sums:
            self.sums[neuron.name] += value
        else:
            self.sums[neuron.name] = value.clone()


def rates(model: Model, x: Tensor, timesteps: int) -> dict[str, Tensor]:
    """What each layer says on average over the steps that are read out, by its neuron's name: [batch, …]."""
    voices = voices_of(model.graph)
    *_, (_, _, heard) = model.answers(x, [timesteps], lambda: Means(voices, model.delay))
    return {name: model.mean(total, timesteps - model.delay) for name, total in heard.sums.items()}


@dataclass(frozen=True, eq=False)
class Said(Op):
    """In place of `neuron`: its `rate` in a run of so many steps, with the gradients above."""

    neuron: Neuron
    rate: Tensor
    timesteps: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        (current,), threshold, rate = inputs, self.neuron.calibrated(), self.rate
        z, limit = current.detach(), self.neuron.limit().detach()
        lowest, highest = self.neuron(-limit), self.neuron(limit)
        below = -self.neuron(-torch.ones_like(limit))
        spike = limit / self.timesteps / 2
        spoke = (rate > lowest) & (rate < highest - spike)
        meant = ((z > 0) | (below != 0)) & (z < highest)
        gain = torch.where(spoke | meant, torch.where((z < 0) & (below != 0), below, 1.0), 0.0)
        size = (rate - gain * z) / threshold.detach()
        return rate + gain * (current - z) + size * (threshold - threshold.detach())


def read_out(graph: Graph) -> Graph:
    """The spiking graph up to what is read out; what comes after it is said once."""
    return replace(graph, outputs=Plan.of(graph).frontier)


Key = tuple[str, str]
"""The name of a node, and of its tensor."""


@dataclass(frozen=True)
class Parameters:
    """What is tuned of `graph`: its weights, biases and thresholds, each by how many `units` it is `moved`.

    The unit of a weight is the mean magnitude of those of its channel, that of a bias the spread of its
    channel; a threshold is what it was times exp(moved), and never above its activation's ceiling.
    """

    graph: Graph
    units: Mapping[Key, Tensor]
    moved: Mapping[Key, Tensor]

    @staticmethod
    def of(graph: Graph, x: Tensor) -> Parameters:
        """Those of a calibrated graph, where it stands; spreads are those of its ANN for `x` [batch, …]."""
        units: dict[Key, Tensor] = {}

        def listen(node: Node, value: Tensor) -> None:
            if isinstance(node.op, Neuron):
                units[node.name, "threshold"] = torch.ones_like(node.op.calibrated())
            elif isinstance(node.op, Synapse) and node.op.packed is None:
                weight, axis = node.op.weight, (-1 if isinstance(node.op, Linear) else 1) % value.dim()
                whole = isinstance(node.op, ConvTranspose)  # its channels do not stand first
                size = weight.abs().mean([*range(0 if whole else 1, weight.dim())], keepdim=True)
                units[node.name, "weight"] = size.expand_as(weight)
                units[node.name, "bias"] = value.movedim(axis, 0).flatten(1).std(1, correction=0)

        with torch.no_grad():
            graph.run(x, listen=listen)
        return Parameters(graph, units, {key: torch.zeros_like(unit) for key, unit in units.items()})

    def learning(self) -> Parameters:
        """The same, `moved` being leaves that take gradients."""
        return replace(self, moved={key: m.clone().requires_grad_() for key, m in self.moved.items()})

    def settled(self) -> Graph:
        """The graph as it stands, without gradients."""
        still = replace(self, moved={key: m.detach() for key, m in self.moved.items()})
        return still.graph.map(lambda node: following(replace(node, op=still._op(node)), still._neurons()))

    def through(self, rates: Mapping[str, Tensor], timesteps: int) -> Graph:
        """`read_out` of the graph over a run in which neurons said `rates`: means, with gradients."""

        def rule(node: Node) -> Node:
            op = self._op(node)
            return replace(node, op=Said(op, rates[node.name], timesteps) if isinstance(op, Neuron) else op)

        return read_out(self.graph).map(rule)

    def _neurons(self) -> dict[str, Neuron]:
        ops = {node.name: self._op(node) for node in self.graph if isinstance(node.op, Neuron)}
        return {name: op for name, op in ops.items() if isinstance(op, Neuron)}

    def _op(self, node: Node) -> Op:
        op = node.op
        if isinstance(op, Neuron):
            threshold = op.calibrated() * self.moved[node.name, "threshold"].exp()
            ceiling = None if op.ceiling is None else op.ceiling / op.parts
            return replace(op, threshold=threshold if ceiling is None else threshold.clamp(max=ceiling))
        if (node.name, "weight") not in self.moved:
            return op
        assert isinstance(op, Synapse)
        weight, bias = (self.moved[node.name, n] * self.units[node.name, n] for n in ("weight", "bias"))
        return replace(op, weight=op.weight + weight, bias=bias if op.bias is None else op.bias + bias)
