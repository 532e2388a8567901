"""Hearing a run: each neuron's spikes, each synapse's input events, and what they cost, at little cost.

Spikes that are all of one threshold are summed up, and how many they were follows from the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from converter.graph import Node
from converter.neurons import Neuron

COUNTABLE = 2000
"""So many equal spikes can be summed up in float32 and still be counted: n² · 2⁻²⁵ stays below ½."""


@dataclass(frozen=True)
class Totals:
    """What all layers of a batch have emitted up to a step."""

    spikes: float
    active: float
    """How often a neuron was not silent in a step."""
    accumulates: float
    """What all spikes would cost if each reached one weight."""


@dataclass
class Watch:
    """Listens to a simulation of one batch: each neuron's spikes, each synapse's input events."""

    sources: frozenset[Node]
    voices: Mapping[Node, Node]
    """Where a layer's spikes are heard -> its neuron."""
    exact: bool = True
    """Whether sums of spikes tell how many they were: not after so many that rounding adds up to one."""
    sums: dict[Node, Tensor] = field(default_factory=dict)
    counts: dict[Node, Tensor] = field(default_factory=dict)
    """How many spikes, of neurons whose sums do not say it."""
    events: dict[Node, Tensor] = field(default_factory=dict)
    counted: Tensor | float = 0.0
    nonzero: Tensor | float = 0.0
    paid: Tensor | float = 0.0
    """The totals of these neurons."""

    @property
    def told(self) -> frozenset[Node]:
        """What it listens to."""
        return self.sources | frozenset(self.voices)

    def __call__(self, node: Node, value: Tensor) -> None:
        if (neuron := self.voices.get(node)) is not None:
            add_to(self.sums, neuron, value)
            if not self.follows(neuron):
                assert isinstance(neuron.op, Neuron)
                spikes = neuron.op.count(value)
                add_to(self.counts, neuron, spikes)
                self.counted = self.counted + spikes.sum(dtype=torch.float64)
                self.nonzero = self.nonzero + (value != 0).sum(dtype=torch.float64)
                self.paid = self.paid + neuron.op.bits * spikes.sum(dtype=torch.float64)
        elif node in self.sources:
            add_to(self.events, node, value != 0, value.dtype)

    def follows(self, neuron: Node) -> bool:
        """Whether the number of spikes follows from their sum, being all of one threshold."""
        assert isinstance(neuron.op, Neuron)
        return self.exact and neuron.op.alphabet == "binary" and self.voices.get(neuron) is neuron

    def fired(self, neuron: Node) -> Tensor:
        """How many spikes each neuron of a layer has emitted so far."""
        if not self.follows(neuron):
            return self.counts[neuron]
        assert isinstance(neuron.op, Neuron)
        return (self.sums[neuron] / neuron.op.calibrated()).round_()

    def follow(self) -> Totals:
        """What all layers have emitted so far."""
        sums = (self.fired(n).sum(dtype=torch.float64) for n in self.sums if self.follows(n))
        binary = float(sum(sums, torch.zeros((), dtype=torch.float64)))
        return Totals(float(self.counted) + binary, float(self.nonzero) + binary, float(self.paid) + binary)

    def cost(self, source: Node, totals: Totals) -> Tensor:
        """The accumulates that each value of `source` has cost so far at every weight it reaches.

        Where spikes were pooled or added on their way, each that is left costs what a spike of the network
        costs on average.
        """
        if source in self.voices:
            neuron = self.voices[source]
            assert isinstance(neuron.op, Neuron)
            return neuron.op.bits * self.fired(neuron)
        mean = totals.accumulates / max(totals.active, 1.0) or 1.0
        return mean * self.events[source]


def add_to(sums: dict[Node, Tensor], node: Node, value: Tensor, dtype: torch.dtype | None = None) -> None:
    """Add `value`, which may change afterwards, to the running sum of `node`."""
    if node in sums:
        sums[node].add_(value)
    else:
        sums[node] = value.to(dtype or value.dtype, copy=True)


def operations_of(watch: Watch, totals: Totals, fan_out: Mapping[Node, Tensor]) -> float:
    """The accumulates that the spikes of the batch have cost so far; `fan_out` of each synapse's inputs."""
    return sum(
        float((watch.cost(synapse.inputs[0], totals) * reached).sum(dtype=torch.float64))
        for synapse, reached in fan_out.items()
    )
