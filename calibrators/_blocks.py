"""Thresholds turned by a few knobs: a block of layers at a time, away from those of least squares.

A knob stands at 0 where least squares put it. `scale i` multiplies the range of every neuron in the i-th
block of consecutive layers by 2^s: a lower one rounds finer and clips more, a higher one the reverse. That is
what a lower or higher percentile does; but a scale also reaches beyond the largest activation, and is as fine
where a channel has few values (a percentile of 100 values has 100 positions). `initial` is added to the
first membrane, in thresholds: a lower one holds back spikes that come too early, which deep networks add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from calibrators import with_ranges
from converter.divergence import divergence, is_distribution, names_classes, squared_error
from converter.graph import Graph, Node, size_of
from converter.neurons import Neuron
from converter.observe import Batches
from converter.unroll import fire_in_turn, run_of, unroll

MEMORY = 1 << 27
"""Bytes that the largest value of a simulation may take, over all steps: more samples run in turn."""


@dataclass(frozen=True)
class Knob:
    """Something a search may turn, from `low` to `high`; it starts at 0."""

    name: str
    low: float
    high: float


def knobs(blocks: int) -> tuple[Knob, ...]:
    """What there is to turn."""
    return (*(Knob(scale(block), -1.5, 1.5) for block in range(blocks)), Knob("initial", -0.5, 0.5))


def scale(block: int) -> str:
    """The name of a block's knob: blocks count from 1 at the input."""
    return f"scale {block + 1}"


def warm(blocks: int, delays: Sequence[int] = (0,)) -> tuple[dict[str, float], ...]:
    """Where a search looks first: the start, all blocks scaled alike, and another membrane.

    The start is read out with the first of `delays`, then with any.
    """
    nought = {knob.name: 0.0 for knob in knobs(blocks)}
    alike = [nought | {scale(block): s for block in range(blocks)} for s in (-0.5, -0.25, 0.25)]
    free = (nought | {DELAY: float(delays[0])}, nought) if len(delays) > 1 else (nought,)
    return (*free, *alike, nought | {"initial": -0.1})


def turned(graph: Graph, ranges: Mapping[Node, Tensor], blocks: int, values: Mapping[str, float]) -> Graph:
    """`graph` with the thresholds for `ranges` and the first membrane, as `values` of the knobs have it."""
    scaled = {
        node: value * 2 ** values[scale(place * blocks // len(ranges))]
        for place, (node, value) in enumerate(ranges.items())
    }

    def rule(node: Node) -> Node:
        if not isinstance(node.op, Neuron):
            return node
        start = node.op.initial + values["initial"]
        within = start.clamp(0, 1) if isinstance(start, Tensor) else min(max(start, 0.0), 1.0)
        return replace(node, op=replace(node.op, initial=within))

    return with_ranges(graph, scaled).map(rule)


DELAY = "delay"
"""What a trial calls the read-out it was best with."""
SPREAD = 4.0
"""How far apart, in standard deviations, scores may be before they are tempered."""


def temperature(target: Tensor) -> float:
    """What the scores [batch, classes, …] are divided by where softmax would see their largest alone; else 1.

    With scores in the hundreds every answer is certain: KL is zero, or, for the one sample in a hundred whose
    answer is another, hundreds of nats. A search would mend that one sample, whatever it does to others.
    """
    return 1.0 if is_distribution(target) else max(1.0, float(target.std(1).mean()) / SPREAD)


Distances = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, Tensor]]


def distances(target: Sequence[Tensor]) -> Distances:
    """(read-outs, the ANN's outputs) -> how far they are apart, tempered and as they are, each [batch].

    What tempers scores follows from all of the ANN's outputs, `target`.
    """
    if not names_classes(target):
        return lambda readouts, wanted: (squared_error(readouts, wanted),) * 2
    heat = temperature(target[0])

    def of_classes(readouts: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        (said,), (ann,) = readouts, wanted
        return divergence(said / heat, ann / heat), divergence(said, ann)

    return of_classes


@dataclass(frozen=True)
class Answer:
    """How far an answer is from the ANN's: `distance`, and `tempered`, what a search makes small.

    Of classes they are KL in nats, of scores and of tempered scores; of other outputs both are the squared
    error.
    """

    tempered: float
    distance: float
    delay: int
    """The first steps that were not read out."""


def answers(
    graph: Graph,
    x: Tensor,
    target: Sequence[Tensor],
    timesteps: int,
    schedule: str = "stream",
    delays: Sequence[int] = (0,),
) -> tuple[tuple[Answer, ...], float]:
    """How far the answers after `timesteps` of `x` are from the ANN's outputs `target`, and what they cost.

    An answer for each of `delays` of the read-out, all of one run, and the spikes per neuron of that run; in
    a pipeline after windows of `timesteps`.
    """
    steps, fire_each = run_of(schedule, timesteps, graph)
    apart = distances(target)
    neurons = [node for node in graph if isinstance(node.op, Neuron)]
    largest = max(size_of(node.shape) for node in graph)
    size = max(1, MEMORY // (4 * timesteps * largest))
    spikes = 0.0
    found = torch.zeros(2, len(delays), dtype=torch.float64)

    def fire(node: Node, currents: Tensor) -> Tensor:
        nonlocal spikes
        if not isinstance(node.op, Neuron):
            return fire_each(node, currents)
        fired = fire_in_turn(node, charges(currents, timesteps))
        spikes += float(node.op.count(fired).sum(dtype=torch.float64))
        return fired if len(fired) == len(currents) else fired.mean(0, keepdim=True)

    with torch.inference_mode():
        for some, *wanted in zip(x.split(size), *(each.split(size) for each in target), strict=True):
            outputs = unroll(graph, some, steps, fire, delays=delays)
            of_each = zip(*(readout.split(len(some)) for readout in outputs), strict=True)
            for place, readouts in enumerate(of_each):
                found[:, place] += torch.stack([each.sum().cpu() for each in apart(readouts, wanted)])
    tempered, distance = (found / len(x)).tolist()
    return (
        tuple(Answer(*each) for each in zip(tempered, distance, delays, strict=True)),
        spikes / len(x) / max(1, sum(size_of(node.shape) for node in neurons)),
    )


def charges(currents: Tensor, timesteps: int) -> Tensor:
    """What comes in at each step, [steps, batch, …]; the mean of a window, [1, batch, …], at the first."""
    if len(currents) == timesteps:
        return currents
    return torch.cat(
        [timesteps * currents, torch.zeros_like(currents).expand(timesteps - 1, *currents.shape[1:])]
    )


def every_second(batches: Batches, first: int) -> Batches:
    """The samples number `first`, `first` + 2, … of all batches."""

    def taken() -> Sequence[Tensor]:
        seen, kept = 0, []
        for batch in batches():
            kept.append(batch[(first - seen) % 2 :: 2])
            seen += len(batch)
        return [part for part in kept if len(part)]

    return taken
