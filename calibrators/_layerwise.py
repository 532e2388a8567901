"""Layer by layer: each layer is mended on what its already mended, *spiking* predecessors give it.

What all correctors share: how far a layer's spikes are from its ANN activations, which half of the samples
has to agree, and how a shift of a layer's current gets into the weights before it. The run itself: `_run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from converter.errors import UsageError
from converter.graph import Graph, Node, batch_axes
from converter.neurons import Neuron
from converter.ops import Affine
from converter.passes.fold_affine import fold_affine
from converter.schedules import check
from converter.temporal_bias import TemporalBias
from converter.unroll import Fire, said
from converter.withdrawal import Withdrawal

C = TypeVar("C")

CACHED = 1 << 15
"""So many values of a step are judged at a time."""


@dataclass(frozen=True)
class Layer:
    """A layer of neurons within a run: what comes in, what it should say on average, and how it fires.

    `currents` [steps, batch, …]; `activation` [batch, …], the ANN's; `given` [steps, batch, …], the inputs of
    the synapses asked for; `shift`, added to the currents, broadcasts to them; `changed`, synapses and what
    they were changed to. The first half of the samples is to fit, the second to agree. Where not all of a
    large map fits into memory, of each sample some of its places stand in their order: [samples, channels,
    places, 1, …].
    """

    node: Node
    currents: Tensor
    activation: Tensor
    fire: Fire
    given: Mapping[Node, Tensor]
    shift: Tensor | float = 0.0
    changed: Mapping[Node, Node] = field(default_factory=dict)

    @property
    def neuron(self) -> Neuron:
        """The neuron of the layer."""
        assert isinstance(self.node.op, Neuron)
        return self.node.op

    @property
    def half(self) -> int:
        """How many samples are to fit."""
        return len(self.activation) // 2

    def of(self, samples: slice | Tensor) -> Layer:
        """The same layer on some of the samples."""
        return replace(
            self,
            currents=self.currents[:, samples],
            activation=self.activation[samples],
            given={node: value[:, samples] for node, value in self.given.items()},
        )

    def spikes(self) -> Tensor:
        """What the layer emits: [steps, batch, …]."""
        return self.emitted(self.currents)

    def emitted(self, currents: Tensor) -> Tensor:
        """What it would emit of other currents [steps, batch, …]."""
        charged = currents if isinstance(self.shift, float) and not self.shift else currents + self.shift
        return self.fire(self.node, charged)

    def said(self) -> Tensor:
        """What its spikes say, [batch, …]; a few samples at a time, so that their steps stay in the cache."""
        few = max(1, CACHED // max(self.activation[0].numel(), 1))
        parts = self.currents.split(few, dim=1)
        return torch.cat([said(self.fire, self.fire(self.node, part + self.shift)) for part in parts])

    def error(self) -> Tensor:
        """The mean squared difference of its mean spikes and its activation: [channels, 1, …] or a scalar."""
        return by_channel((self.said() - self.activation).square(), self.node)

    def bias(self) -> Tensor:
        """How much more its spikes say than its activation, on average: [channels, 1, …] or a scalar."""
        return by_channel(self.said() - self.activation, self.node)

    def shifted(self, shift: Tensor) -> Layer:
        """The layer with `shift` added to its current, the same at every step or [steps, 1, …]."""
        return replace(self, shift=self.shift + shift)


def by_channel(value: Tensor, node: Node) -> Tensor:
    """The means of `value` [batch, channels, …] over all but channels, [channels, 1, …]; else a scalar."""
    if value.dim() < 2 or 1 in batch_axes(node.shape):
        return value.mean()
    return value.mean([d for d in range(value.dim()) if d != 1], keepdim=True)[0]


def agreed(
    layer: Layer,
    correction: C,
    rounds: int,
    under: Callable[[Layer, C], Layer],
    improved: Callable[[Layer, C], C],
) -> C:
    """The best correction of a layer after 0 to `rounds` improvements.

    `improved` looks at the first half of the samples; the best is that of least squared error on the second.
    """
    fit, held = layer.of(slice(layer.half)), layer.of(slice(layer.half, None))
    best, lowest = correction, under(held, correction).error().mean()
    for _ in range(rounds):
        correction = improved(fit, correction)
        error = under(held, correction).error().mean()
        if error < lowest:
            best, lowest = correction, error
    return best


def check_thresholds(graph: Graph, who: str) -> None:
    """Raise `UsageError` when a neuron has no threshold yet."""
    for node in graph:
        if isinstance(node.op, Neuron) and node.op.threshold is None:
            raise UsageError(
                f"{who} mends what a network makes of its thresholds, and {node.where} has none yet",
                hint=f"--calibrator least-squares --calibrator {who}",
            )


def check_run(timesteps: int, rounds: int, schedule: str) -> None:
    """Raise `UsageError` for a run or a correction without steps, and for a schedule that there is not."""
    if timesteps < 1 or rounds < 1:
        raise UsageError(f"{timesteps} timesteps and {rounds} rounds: either is at least 1")
    check(schedule, 0, ())


@dataclass(frozen=True)
class Correction:
    """Base of corrections that go over each layer a few times.

    `timesteps` and `schedule` of the run it is meant for; `rounds` for each layer.
    """

    timesteps: int = 32
    rounds: int = 3
    schedule: str = "stream"

    def __post_init__(self) -> None:
        """Raise `UsageError` for a run without steps or rounds, or a schedule there is not."""
        check_run(self.timesteps, self.rounds, self.schedule)


def following(node: Node, neurons: Mapping[str, Neuron]) -> Node:
    """What withdraws the spikes of one of these neurons, by name, with its threshold; else the node."""
    if not isinstance(node.op, Withdrawal) or node.inputs[0].name not in neurons:
        return node
    return replace(node, op=replace(node.op, threshold=neurons[node.inputs[0].name].calibrated()))


def with_neurons(graph: Graph, neurons: Mapping[str, Neuron], shifts: Mapping[str, Tensor]) -> Graph:
    """The graph with these neurons, by name, and `shifts` added to their currents.

    A shift goes into the biases before the neuron where that is exact; a bias of each step comes after it.
    """

    def rule(node: Node) -> Node:
        if not isinstance(node.op, Neuron):
            return following(node, neurons)
        node = replace(node, op=neurons.get(node.name, node.op))
        shift = shifts.get(node.name)
        if shift is None or not bool(shift.any()):
            return node
        return replace(node, inputs=(moved(node.inputs[0], shift, f"{node.name}.shift"),))

    return fold_affine(graph.map(rule)).with_unique_names()


def moved(node: Node, shift: Tensor, name: str) -> Node:
    """`node` with `shift` added to it, before what adds to each step."""
    if isinstance(node.op, TemporalBias):
        return replace(node, inputs=(moved(node.inputs[0], shift, name),))
    return Node.of(Affine(None, shift), node, name=name)
