"""A spiking graph to train: weights and thresholds are parameters, neurons a recipe's activation.

Convolutions and linear layers train; what moves, pools or scales stays as it is. A layer's threshold is
λ = λ₀ · s, and s is what is trained: so a step means the same for a layer of activations up to 300 as for one
up to 0.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from calibrators.training import Activation, Phase, straight_through
from converter.graph import Graph, Input, Node, Op
from converter.neurons import Neuron
from converter.neurons.negative_slope import NegativeSlope
from converter.ops import Clip, Conv, ConvTranspose, LeakyRelu, Linear, PRelu
from converter.unroll import fire_in_turn, unroll

SYNAPSES = (Conv, ConvTranspose, Linear)
"""The ops whose weights are trained."""
SMALLEST = 0.01
"""What a threshold may shrink to, as a share of where it began."""


@dataclass(frozen=True, eq=False)
class Trained(Op):
    """A recipe's activation with the threshold `start` · `share`, computed in single precision."""

    activation: Activation
    start: Tensor
    share: Tensor

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.activation(inputs[0].float(), self.start * self.share)


@dataclass(frozen=True, eq=False)
class Simulated(Op):
    """What a neuron said in a run that was simulated, with the gradients of the mean current and of λ."""

    start: Tensor
    share: Tensor
    name: str
    said: Mapping[str, Tensor]

    def __call__(self, *inputs: Tensor) -> Tensor:
        threshold, said = self.start * self.share, self.said[self.name]
        share = (inputs[0].float() / threshold).clamp(0, 1)
        return straight_through(threshold * straight_through(share, said / threshold), said)


@dataclass(frozen=True, eq=False)
class Faked(Op):
    """`op`, its weight replaced by what is left of it in another format."""

    op: Any
    weight: Callable[[Any, Tensor], Tensor]

    def __call__(self, *inputs: Tensor) -> Tensor:
        changed: Tensor = replace(self.op, weight=self.weight(self.op, self.op.weight))(*inputs)
        return changed


def learns(node: Node) -> bool:
    """Whether the node is a neuron with a threshold to learn; one with a negative slope has none."""
    return isinstance(node.op, Neuron) and not isinstance(node.op, NegativeSlope)


@dataclass(frozen=True, eq=False)
class Network:
    """The parameters of a spiking `graph` by name, in its order: `conv1.weight`, `relu1.threshold`.

    `starts` are the λ₀ by the name of the neuron, `peak` the largest magnitude of the input.
    """

    graph: Graph
    parameters: Mapping[str, Parameter]
    starts: Mapping[str, Tensor]
    peak: Tensor
    said: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """What neurons said in the run simulated last, by their names."""

    @staticmethod
    def of(graph: Graph, starts: Mapping[str, Tensor], peak: Tensor) -> Network:
        """Parameters that begin as the graph's weights, and thresholds at `starts`."""
        found: dict[str, Parameter] = {}
        for node in graph:
            if isinstance(node.op, SYNAPSES):
                for name in ("weight", "bias"):
                    if (value := getattr(node.op, name)) is not None:
                        found[f"{node.name}.{name}"] = Parameter(value.detach().clone())
            elif learns(node):
                found[f"{node.name}.threshold"] = Parameter(torch.ones_like(starts[node.name]))
        return Network(graph, found, starts, peak)

    def thresholds(self) -> dict[str, float]:
        """λ of every layer as it is now, by the name of its neuron."""
        return {
            name: float(start * self.parameters[f"{name}.threshold"].detach())
            for name, start in self.starts.items()
        }

    def at(self, phase: Phase) -> Graph:
        """The network as it runs in this phase: it reads the parameters as they change."""

        def during(node: Node) -> Node:
            if isinstance(node.op, Input) or not node.inputs:
                return node
            op = self._with_parameters(node)
            if learns(node):
                start, share = self.starts[node.name], self.parameters[f"{node.name}.threshold"]
                op = Trained(phase.activation, start, share)
                if phase.steps is not None:
                    op = Simulated(start, share, node.name, self.said)
            elif phase.weight is not None and isinstance(node.op, SYNAPSES):
                op = Faked(op, phase.weight)
            return replace(node, op=op)

        return self.graph.map(during)

    def run(self, graph: Graph, phase: Phase, x: Tensor, **listening: Any) -> tuple[Tensor, ...]:
        """The outputs of `graph`, which is `at(phase)`, for the input x."""
        if phase.steps is not None:
            self.simulate(x, phase.steps)
        return graph.run(x if phase.encode is None else phase.encode(x, self.peak), **listening)

    @torch.no_grad()
    def simulate(self, x: Tensor, steps: int) -> None:
        """Run the spiking network for so many steps, and keep the mean spikes of every neuron."""
        self.said.clear()

        def now(node: Node) -> Node:
            op = self._with_parameters(node)
            if isinstance(op, Neuron) and learns(node):
                threshold = self.starts[node.name] * self.parameters[f"{node.name}.threshold"]
                op = replace(op, threshold=threshold)
            return replace(node, op=op)

        def fire(node: Node, currents: Tensor) -> Tensor:
            spikes = fire_in_turn(node, currents)
            self.said[node.name] = spikes.mean(0)
            return spikes

        unroll(self.graph.map(now), x, steps, fire)

    def trained(self, phase: Phase) -> Graph:
        """The network as an ANN again: trained weights as `phase` leaves them, activations Clip(0, λ)."""
        thresholds = self.thresholds()

        def after(node: Node) -> Node:
            if learns(node):
                return replace(node, op=Clip(0.0, thresholds[node.name]))
            if isinstance(node.op, NegativeSlope):
                slope = node.op.slope
                assert slope is not None
                return replace(node, op=LeakyRelu(float(slope)) if slope.numel() == 1 else PRelu(slope))
            op: Any = self._with_parameters(node)
            if isinstance(node.op, SYNAPSES) and phase.weight is not None:
                op = replace(op, weight=phase.weight(op, op.weight))
            return replace(node, op=op.map_tensors(lambda t: t.detach().clone()))

        return self.graph.map(after).verify()

    def _with_parameters(self, node: Node) -> Op:
        if not isinstance(node.op, SYNAPSES):
            return node.op
        mine = {n: self.parameters.get(f"{node.name}.{n}") for n in ("weight", "bias")}
        return replace(node.op, **mine)  # type: ignore[arg-type]

    @torch.no_grad()
    def bound(self) -> None:
        """Keep every threshold above zero: after each step."""
        for name, parameter in self.parameters.items():
            if name.endswith(".threshold"):
                parameter.clamp_(min=SMALLEST)
