"""The schedules by name: how the layers of a spiking network share the time.

stream     every layer fires at every step on what the layers before it say at that step
pipelined  a layer integrates a whole window, then fires while the next window comes in
"""

from __future__ import annotations

from collections.abc import Sequence

from converter.encodings import Encoding
from converter.errors import UsageError
from converter.first_spike import FirstSpikeModel, first_spikes
from converter.graph import Graph, size_of
from converter.neurons.first_spike import FirstSpike
from converter.pipelined import PipelinedModel
from converter.rate import RateModel
from converter.spiking import refuse_early
from converter.window import refuse_unfit, waits

SCHEDULES = ("stream", "pipelined")
Model = RateModel | PipelinedModel


def model_of(
    graph: Graph, encoding: Encoding | None = None, *, schedule: str = "stream", delay: int = 0, seed: int = 0
) -> Model:
    """The model of `graph` under this schedule. Raises `UsageError` as `check` does."""
    check(schedule, delay, ())
    if schedule == "pipelined":
        kind = FirstSpikeModel if first_spikes(graph) else PipelinedModel
        return kind(graph, encoding, seed=seed)
    check_graph(graph, schedule)
    return RateModel(graph, encoding, seed=seed, delay=delay)


def check(schedule: str, delay: int, timesteps: tuple[int, ...]) -> None:
    """`UsageError` for a schedule there is not, one that has no delay, or steps before the read-out."""
    if schedule not in SCHEDULES:
        raise UsageError(f"there is no schedule {schedule!r}", hint=" or ".join(SCHEDULES))
    if delay and schedule == "pipelined":
        raise UsageError(
            f"the schedule pipelined has no delay of the read-out, {delay} was given",
            why="its windows begin when their spikes do",
            hint="leave --delay out, or --schedule stream",
        )
    refuse_early(timesteps, delay)


def check_graph(graph: Graph, schedule: str, timesteps: Sequence[int] = ()) -> None:
    """`UsageError` naming an op of the spiking `graph` that cannot work under this schedule, or so long."""
    if schedule == "pipelined":
        refuse_unfit(graph)
    for node in graph:
        if isinstance(node.op, FirstSpike):
            if schedule != "pipelined":
                raise UsageError(f"{node.where} spikes once a window, it has the schedule pipelined")
            for time in timesteps:
                node.op.check(time)


def words(model: Model) -> tuple[str, ...]:
    """What the schedule means for this network, in words; nothing where there is nothing to say."""
    if isinstance(model, RateModel):
        steps = f"step{'s' * (model.delay > 1)}"
        return (f"the first {model.delay} {steps} are run and not read out",) if model.delay else ()
    kept = waits(model.graph)
    layers = f"{model.stages} layer{'s' * (model.stages > 1)} of neurons in a row"
    offset = model.code.offset if isinstance(model, FirstSpikeModel) else None
    if offset:
        whole = "T" if model.encoding.constant else "2·T"
        after = f"{whole} + {(model.stages - 1) * offset}"
    else:
        after = f"{model.latency(1)}·T"
    said = [f"windows of T steps, {layers}: an answer after {after} steps, an image every T"]
    if offset:
        later = f"{offset} step{'s' * (offset > 1)} after the one before"
        said.append(f"they overlap: each layer begins to fire {later}, on what has arrived by then")
    elif isinstance(model, FirstSpikeModel):
        said.append(f"one layer after the other, no two at a time: after {model.latency_in_turn(1)}·T steps")
    if isinstance(model, FirstSpikeModel) and model.continuous:
        said.append("time is continuous, its unit a window: T = 1")
    if kept:
        values = sum(wait.windows * size_of(wait.source.shape) for wait in kept)
        longest = max(wait.windows for wait in kept)
        branches = f"{len(kept)} shorter branch{'es wait' if len(kept) > 1 else ' waits'}"
        windows = f"{longest * offset} steps" if offset else f"{longest} window{'s' * (longest > 1)}"
        said.append(f"{branches} in buffers, up to {windows}: {values} values a step in all")
    return tuple(said)
