"""How many samples and steps are run at once: as many as the caches hold, spikes before memory.

All T steps of a tile of samples are run before the next tile, so that its membranes stay near, and some steps
of it as one batch (layer-major): neurons go through them in one pass, so that membranes are read once in so
many steps. Where there is no room for more than one step, or steps are no batch, the run is step-major.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from converter.graph import Graph, size_of
from converter.plan import Plan

AT_ONCE, ROOM = 2 << 20, 8 << 20
"""Bytes of the largest value of a tile: so that it lies near the processor; at most, for some steps."""
SUMS_AT_ONCE = 4 << 20
"""The same for the sums of a layer in whole numbers: they are read once, and the next layer's stand there."""
MOST, MOST_WHOLE = 32, 64
"""Samples times steps beyond which larger batches gain nothing: in floating point, in whole numbers."""
TOGETHER, CHUNK = 4, 8
"""Steps that a pass over membranes is worth sharing between: in floating point, in whole numbers."""


@dataclass(frozen=True)
class Tiling:
    """`samples` at a time through all steps, `steps` of them as one batch."""

    samples: int
    steps: int

    def __post_init__(self) -> None:
        """A tile holds something."""
        if min(self.samples, self.steps) < 1:
            raise ValueError(f"a tile of {self.samples} samples and {self.steps} steps runs nothing")

    def tiles(self, batch: int) -> Iterator[slice]:
        """The tiles of a batch, of sizes as even as can be."""
        count = -(-batch // self.samples)
        bounds = [batch * i // max(count, 1) for i in range(count + 1)]
        yield from (slice(a, b) for a, b in pairwise(bounds))

    @property
    def schedule(self) -> str:
        """In words."""
        return "step-major" if self.steps == 1 else f"layer-major over chunks of {self.steps} steps"


def stepwise(largest: int, batch: int) -> Tiling:
    """The tiling for layers in whole numbers, whose `largest` sums take so many bytes a sample and step.

    Some steps at once first, then as many samples as fit: neurons go through all steps of a chunk in a pass,
    so their membranes are read once in so many steps.
    """
    fitting = max(CHUNK, min(MOST_WHOLE, SUMS_AT_ONCE // largest))
    samples = max(1, min(batch, fitting // CHUNK))
    return Tiling(samples, fitting // samples)


def tiling_for(graph: Graph, plan: Plan, batch: int, *, chunks: bool = True) -> Tiling:
    """The tiling for a batch of this size; `chunks` says whether steps can be run as one batch.

    What the image alone determines does not count: it is there once, whatever the number of steps.
    """
    largest = max(4 * size_of(node.shape) for node in plan.step or graph.order)
    near = min(MOST, AT_ONCE // largest)
    fitting = max(near, min(CHUNK, ROOM // largest), 1)
    if graph.batch is not None:
        return Tiling(graph.batch, 1)
    samples = max(1, min(batch, near // TOGETHER if chunks else fitting))
    return Tiling(samples, max(1, fitting // samples) if chunks else 1)
