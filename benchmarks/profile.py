"""`profile`: where does the time of a step go, and what would its convolutions alone take?

    python -m benchmarks profile
    python -m benchmarks profile squeezenet --batch 16 -T 16

Every instruction of a run is timed, in processor time, and they are added up by kind: synapses, neurons,
pools, what only moves values, all else; what no instruction takes is the run's own (currents of the image,
sums of the read-out).
Where spikes are weighed in the pass over the neurons, that is one kind. Beside it the roofline: the same
convolutions with the same inputs alone, each again and again in oneDNN, of which a step cannot take less with
these operators; and the bytes that neurons in floating point move, against what copying moves in a second.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks._common import environment, markdown, write_result
from benchmarks.latency import NETWORKS, Given, models_of, opened
from converter.engine import Frame, native, onednn
from converter.engine.functions import Convolution, Product
from converter.engine.instructions import Apply, Fire, Telescope
from converter.engine.whole import Decode, Move
from converter.engine.whole import Fire as FireCodes
from converter.graph import Node, size_of
from converter.ops import AvgPool, Concat, Gather, MaxPool, Movement
from converter.rate import RateModel

SYNAPSES, NEURONS, BOTH, POOLS = "synapses", "neurons", "spikes weighed and neurons", "pools"
MOVES, REST, RUN = "moving values", "other operators", "the run itself"
KINDS = (SYNAPSES, NEURONS, BOTH, POOLS, MOVES, REST, RUN)
Step = Callable[[Frame], None]


def kind_of(node: Node, run: object) -> str:
    """What an instruction does."""
    if isinstance(run, FireCodes):
        return BOTH if run.within else NEURONS
    if isinstance(run, Fire):
        return NEURONS
    if isinstance(run, Telescope) or isinstance(node.op, MaxPool | AvgPool):
        return POOLS
    if isinstance(run, Move | Decode) or isinstance(node.op, Concat | Movement | Gather):
        return MOVES
    if isinstance(run, Apply) and isinstance(run.function, Convolution | Product):
        return SYNAPSES
    return REST


@dataclass
class Timed:
    """A model whose instructions are timed, in seconds by kind, and whose convolutions are remembered."""

    model: RateModel
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[tuple[Node, tuple[int, ...]], int] = field(default_factory=dict)
    """How often a convolution was called with an input of this shape."""
    functions: dict[Node, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    moved: float = 0.0
    """Bytes that neurons in floating point read and write."""

    def __post_init__(self) -> None:
        """Put a clock around every instruction."""
        lines = tuple((n, self._timed(n, run), done) for n, run, done in self.model.program.instructions)
        self.model.program = replace(self.model.program, instructions=lines)

    def _timed(self, node: Node, run: Step) -> Step:
        kind = kind_of(node, run)

        def timed(frame: Frame) -> None:
            if kind == SYNAPSES and isinstance(run, Apply):
                call = node, tuple(frame.read(node.inputs[0]).shape)
                self.functions[node] = run.function
                self.calls[call] = self.calls.get(call, 0) + 1
            start = time.process_time()
            run(frame)
            self.seconds[kind] += time.process_time() - start
            if isinstance(run, Fire):
                self.moved += 8 * (frame.steps + 1) * frame.samples * size_of(node.shape)

        return timed

    def alone(self) -> float:
        """Seconds that the same convolutions take, one after the other with nothing between."""
        total = 0.0
        for (node, shape), count in self.calls.items():
            function = self.functions[node]
            x = torch.rand(shape)
            x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
            total += count * usual(lambda function=function, x=x: function(x))  # type: ignore[misc]
        return total


def usual(run: Callable[[], object], times: int = 7) -> float:
    """Processor time of a run, the median of some."""
    found = []
    for _ in range(times):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return median(found)


def bandwidth(size: int) -> float:
    """Bytes that copying a memory of this size reads and writes in a second."""
    source, target = torch.zeros(size // 4), torch.zeros(size // 4)
    return 2 * size / usual(lambda: target.copy_(source), 50)


@torch.no_grad()
def rows(name: str, batch: int, timesteps: int) -> list[dict[str, Any]]:
    """One network: a row for each of our contestants."""
    graph, reference = opened(name, 1)
    given = Given.of(name, graph, batch, noise=False)
    models, x = models_of(graph, given), given.x
    each = 1e6 / (len(x) * timesteps)
    found = []
    for who, model in models.items():
        model(x, timesteps, at=(timesteps,))
        timed = Timed(model)
        model(x, timesteps, at=(timesteps,))
        timed.seconds.clear()
        timed.calls.clear()
        timed.moved = 0.0
        start = time.process_time()
        for _ in range(timesteps):
            reference.run([x])
        ann, start = time.process_time() - start, time.process_time()
        model(x, timesteps, at=(timesteps,))
        whole = time.process_time() - start
        timed.seconds[RUN] = whole - sum(timed.seconds.values())
        neurons = timed.seconds.get(NEURONS, 0.0)
        found.append(
            {
                **{"network": name, "batch": len(x), "timesteps": timesteps, "who": who},
                "ann_microseconds": ann * each,
                "microseconds": whole * each,
                "by_kind": {kind: timed.seconds.get(kind, 0.0) * each for kind in KINDS},
                "convolutions_alone": timed.alone() * each,
                "neurons_bytes_per_second": timed.moved / neurons if timed.moved else None,
            }
        )
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """A line for each model: shares of one inference of the ANN."""
    return markdown(
        f"network|batch|who|× ANN|{'|'.join(KINDS)}|convolutions alone",
        [
            [
                *(r["network"], r["batch"], r["who"], f"{r['microseconds'] / r['ann_microseconds']:.2f}"),
                *(f"{r['by_kind'][kind] / r['ann_microseconds']:.2f}" for kind in KINDS),
                f"{r['convolutions_alone'] / r['ann_microseconds']:.2f}" if r["convolutions_alone"] else "",
            ]
            for r in found
        ],
    )


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, keep `profile.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks profile", description=__doc__)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], help="[default: all]")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("-T", "--timesteps", type=int, default=16)
    parser.add_argument("--keep", metavar="NAME", default="profile", help="the JSON's name")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = [r for name in given.networks or NETWORKS for r in rows(name, given.batch, given.timesteps)]
    print(table(found))
    copying = {str(size): bandwidth(size) for size in (1 << 19, 1 << 22, 1 << 26)}
    facts = {**environment(1), "onednn": onednn.available(), "whole": onednn.whole()}
    facts |= {"sums_bytes": native.sums_bytes(), "copying_bytes_per_second": copying, "rows": found}
    write_result(given.keep, ["profile", *arguments], facts)
    print("copying, GB/s: " + ", ".join(f"{int(s) >> 10} KiB {b / 1e9:.0f}" for s, b in copying.items()))
    moved = [r for r in found if r["neurons_bytes_per_second"]]
    for r in moved:
        print(f"neurons of {r['network']}, {r['who']}: {r['neurons_bytes_per_second'] / 1e9:.0f} GB/s")
    return 0
