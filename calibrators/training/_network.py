"""A spiking graph to train: weights and thresholds are parameters, neurons a recipe's activation.

Convolutions and linear layers train; what moves, pools or scales stays as it is. A layer's threshold is
λ = λ₀ · s, and s is what is trained: so a step means the same for a layer of activations up to 300 as for one
up to 0.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from calibrators.training import Activation, Phase
from calibrators.training._through_time import fire
from converter.graph import Graph, Input, Listener, Node, Op
from converter.neurons import Neuron
from converter.neurons.negative_slope import NegativeSlope
from converter.ops import Clip, Conv, ConvTranspose, LeakyRelu, Linear, PRelu
from converter.unroll import unroll

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
                if phase.steps is None:
                    op = Trained(phase.activation, *self._threshold(node))
            elif phase.weight is not None and isinstance(node.op, SYNAPSES):
                op = Faked(op, phase.weight)
            return replace(node, op=op)

        return self.graph.map(during)

    def run(
        self, graph: Graph, phase: Phase, x: Tensor, listen: Listener | None = None
    ) -> tuple[Tensor, ...]:
        """The outputs of `graph`, which is `at(phase)`, for the input x; `listen` hears what nodes say."""
        if phase.steps is None:
            return graph.run(x if phase.encode is None else phase.encode(x, self.peak), listen=listen)

        def emitted(node: Node, currents: Tensor) -> Tensor:
            assert isinstance(node.op, Neuron)
            start, share = self._threshold(node)
            spikes = fire(currents, start * share, node.op.initial)
            if listen is not None:
                listen(node, spikes.mean(0))
            return spikes

        return unroll(graph, x, phase.steps, emitted)

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

    def _threshold(self, node: Node) -> tuple[Tensor, Tensor]:
        """λ₀ of a neuron, and what it is multiplied by."""
        return self.starts[node.name], self.parameters[f"{node.name}.threshold"]

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
