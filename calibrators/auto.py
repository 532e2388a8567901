"""Auto: the chain of calibrators that is best for the run at hand, of those that fit into the time there is.

What is best was measured on one network, resnet20 (docs/benchmarks.md): corrections that know how long the
run is, its schedule and the kind of spikes. They cost runs of the spiking network over the calibration
samples; one run is timed here, on a few of them, and the first chain of `CHAINS` whose cost stays within
the budget is taken. What was chosen goes into run.toml, so that a run repeats on a machine of another
speed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import torch

from calibrators import Calibrator, calibrators
from calibrators._layerwise import check_run
from calibrators._room import Room, room_for
from calibrators.least_squares import LeastSquares
from converter.errors import DataError, UsageError
from converter.graph import Graph
from converter.neurons import Neuron
from converter.neurons.first_spike import FirstSpike
from converter.observe import Batches
from converter.unroll import run_of, unroll

FULL = ("least-squares", "coordinate", "reconstruction", "coordinate")
MEANS = ("least-squares", "bias-correction", "reconstruction")
CHAINS = {
    "pipelined": (MEANS, ("least-squares", "bias-correction"), ("least-squares",)),
    "continuous": (("maximum",),),
    "binary": (FULL, FULL[:2], ("least-squares", "bias-correction"), ("least-squares",)),
    "other": (MEANS, ("least-squares", "bias-correction"), ("least-squares",)),
}
"""The best chain first; what it needs most time for is left out in the next."""
COST = {"bias-correction": 3.0, "coordinate": 9.0, "reconstruction": 11.0}
"""How many runs over all samples each takes, measured on resnet20; least squares is one run of the ANN."""
LONG = 1024
"""Above so many steps there is nothing left to correct, and a run is too long to repeat."""
NEEDED = {"reconstruction": 64}
"""Samples that a calibrator needs: weights learnt from fewer are right for these alone."""
TIMED = 32
"""So many samples are timed, at most."""


@calibrators.register
@dataclass(frozen=True)
class Auto:
    """`timesteps` and `schedule` of the run; `budget` in seconds, for all that is chosen."""

    timesteps: int = 32
    schedule: str = "stream"
    budget: float = 180.0

    def __post_init__(self) -> None:
        """Raise `UsageError` for a run without steps, a schedule there is not, or no time."""
        check_run(self.timesteps, 1, self.schedule)
        if self.budget <= 0:
            raise UsageError(f"the budget is {self.budget:g} seconds; it lies above 0")

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The graph after the chosen chain. Raises what its calibrators raise."""
        for _, calibrate in self.chosen(graph, batches)[0]:
            graph = calibrate(graph, batches, ann)
        return graph

    def chosen(self, graph: Graph, batches: Batches) -> tuple[Sequence[tuple[str, Calibrator]], str]:
        """The chain for this network, data and machine, each calibrator with its name; and why, in words.

        Raises `DataError` without samples.
        """
        if self.timesteps > LONG:
            why = f"percentile: T = {self.timesteps} is above {LONG}"
            return [("percentile", self._made("percentile"))], why
        kinds = sorted({node.op.spikes for node in graph if isinstance(node.op, Neuron)})
        exact = any(isinstance(node.op, FirstSpike) and node.op.continuous for node in graph)
        kind = (
            "continuous"
            if exact
            else "pipelined"
            if self.schedule == "pipelined"
            else "binary"
            if kinds == ["binary"]
            else "other"
        )
        each, room = self._timed(graph, batches)
        best, *_ = CHAINS[kind]
        able = [c for c in CHAINS[kind] if all(room.learnt >= NEEDED.get(name, 1) for name in c)]
        cost = {c: sum(runs(name, room) for name in c) * each for c in able}
        chain = next(c for c in able if cost[c] <= self.budget)  # the last takes no time by this count
        but = ""
        if chain != able[0]:
            but = f"; {', '.join(able[0])} would take longer"
        elif chain != best:
            but = f"; {', '.join(best)} needs {max(NEEDED.values())}"
            but += f", and {room.learnt} fit into memory" * (room.learnt < room.samples)
        why = (
            f"{', '.join(chain)}: the best known for {' and '.join(kinds)} spikes, {self.schedule}, "
            f"T = {self.timesteps} in {self.budget:g} s "
            f"(about {cost[chain]:.0f} s for {room.samples} samples{but})"
        )
        return [(name, self._made(name)) for name in chain], why

    def _made(self, name: str) -> Calibrator:
        kind: Any = calibrators[name]
        told = {"timesteps": self.timesteps, "schedule": self.schedule}
        return kind(**{f.name: told[f.name] for f in fields(kind) if f.name in told})  # type: ignore[no-any-return]

    def _timed(self, graph: Graph, batches: Batches) -> tuple[float, Room]:
        """Seconds that one sample takes in a run, and the room that a correction would have."""
        sizes = [len(batch) for batch in batches()]
        steps, fire = run_of(self.schedule, self.timesteps, graph)
        room = room_for(graph, steps, sum(sizes))
        few = [batch[: min(TIMED, room.part)] for batch in islice(batches(), 1)]
        if not few:
            raise DataError("there are no calibration samples")
        network = LeastSquares(self.timesteps)(graph, lambda: few)
        with torch.inference_mode():
            unroll(network, few[0], steps, fire)
            begun = time.perf_counter()
            unroll(network, few[0], steps, fire)
            each = (time.perf_counter() - begun) / len(few[0])
        return each, room


def runs(name: str, room: Room) -> float:
    """How many runs of one sample a calibrator takes."""
    cost = COST.get(name, 0.0)
    return cost * room.looked + 2 * room.samples if cost and room.sparing else cost * room.samples
