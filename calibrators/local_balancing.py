"""Local threshold balancing: a threshold climbs towards the largest activation, by what lies above it.

For each channel θ starts at 0, and with the activations x of each batch

    θ ← θ + 2 · mean((x − θ)₊)        over samples and places, and never above the largest x

What is passed on is min(x, θ), so a layer sees its predecessors clipped at their new thresholds (Bu, Li & Yu,
CVPR 2025). θ comes to rest at the largest; the number of batches decides how near it comes, and where few of
a channel's values are large it takes many. It depends on no T; runs of many steps gain most.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from calibrators import calibrators, with_ranges
from calibrators.statistics import as_threshold, by_channel
from converter.errors import DataError, UsageError
from converter.graph import Graph, Node, Op, batch_axes
from converter.neurons import Neuron
from converter.observe import Batches


@calibrators.register
@dataclass(frozen=True)
class LocalBalancing:
    """`rounds` over all batches; `per_channel`: a threshold for each channel, else one for the layer."""

    rounds: int = 40
    per_channel: bool = True

    def __post_init__(self) -> None:
        """Raise `UsageError` for no round at all."""
        if self.rounds < 1:
            raise UsageError(f"rounds is {self.rounds}; it takes at least 1")

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The thresholds are where the last batch leads. Raises `DataError` without samples."""
        climbs = {
            node.name: Climb(self.per_channel and 1 not in batch_axes(node.shape))
            for node in graph
            if isinstance(node.op, Neuron)
        }

        def climbing(node: Node) -> Node:
            neuron = node.op
            return (
                replace(node, op=Clipped(neuron, climbs[node.name])) if isinstance(neuron, Neuron) else node
            )

        clipped = (ann or graph).map(climbing)
        with torch.inference_mode():
            for _ in range(self.rounds):
                for batch in batches():
                    clipped.run(batch)
        neurons = [node for node in graph if node.name in climbs]
        return with_ranges(graph, {n: as_threshold(climbs[n.name].value(), len(n.shape)) for n in neurons})


@dataclass
class Climb:
    """Where θ is, and the largest activation seen: [channels], or [1] for the layer."""

    per_channel: bool
    reached: Tensor | None = None
    largest: Tensor | None = None

    def update(self, value: Tensor) -> None:
        """Take in one batch of activations."""
        rows = by_channel(value, self.per_channel)
        now = rows.amax(1)
        self.largest = now if self.largest is None else torch.maximum(self.largest, now)
        reached = torch.zeros_like(now) if self.reached is None else self.reached
        missed = (rows - reached[:, None]).clamp_min(0).mean(1)
        self.reached = torch.minimum(reached + 2 * missed, self.largest)

    def value(self) -> Tensor:
        """θ of each channel [channels]. Raises `DataError` when no batch was seen."""
        if self.reached is None:
            raise DataError("there are no calibration samples")
        return self.reached


@dataclass(frozen=True, eq=False)
class Clipped(Op):
    """What stands for a neuron in the meantime: θ climbs by each batch that passes, and clips it."""

    neuron: Neuron
    climb: Climb

    def __call__(self, *inputs: Tensor) -> Tensor:
        self.climb.update(self.neuron.magnitude(inputs[0]))
        threshold = as_threshold(self.climb.value(), inputs[0].dim()) / self.neuron.parts
        return replace(self.neuron, threshold=threshold).rate(inputs[0])
