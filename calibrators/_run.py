"""The run that corrections share: from layer to layer over the calibration samples, each mended in turn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from calibrators._layerwise import Layer, check_thresholds, following
from calibrators._room import Places, Room, places_of, room_for
from converter.errors import DataError
from converter.graph import Graph, Node
from converter.neurons import Neuron
from converter.observe import Batches, activations_of
from converter.segments import Kept, Runner, Segment, segments
from converter.spike_bits import packed
from converter.unroll import run_of


def layer_by_layer(
    who: str,
    graph: Graph,
    batches: Batches,
    timesteps: int,
    schedule: str,
    mend: Callable[[Layer], Layer],
    ann: Graph | None = None,
    synapses: Mapping[Node, Collection[Node]] | None = None,
) -> None:
    """Run `graph` operator by operator; `mend(layer)` gives each layer of neurons as it goes on from there.

    `ann`: whose activations they should say (None: those of `graph`). `synapses`: for a layer of neurons, the
    nodes whose spiking input it wants to know. Raises `DataError` for fewer than two samples, `UsageError`
    while there are no thresholds to run with; errors name the correction `who`.
    """
    check_thresholds(graph, who)
    steps, fire = run_of(schedule, timesteps, graph)
    with torch.no_grad():
        room = room_for(graph, steps, sum(map(len, batches())))
        x = samples(who, batches, room.samples)
        way = segments(graph, sparing=room.sparing)
        generator = torch.Generator().manual_seed(0)
        looked = {
            s.end.name: places_of(s.end, room, steps, [*(synapses or {}).get(s.end, ())], generator)
            for s in way
            if isinstance(s.end.op, Neuron)
        }
        activations = watched(ann or graph, x.split(room.part), looked)
        kept: list[Kept] = [{graph.inputs[0]: some} for some in x.split(room.part)]
        del x
        run = Run(Runner.of(graph, steps, fire), room, kept)
        mended: dict[str, Neuron] = {}
        for segment in way:
            node = segment.end
            if isinstance(node.op, Neuron):
                wanted = (synapses or {}).get(node, ())
                layer = mend(run.layer(segment, looked[node.name], activations.pop(node.name), wanted))
                mended[node.name] = layer.neuron
                run.advance(segment, partial(run.spikes, segment, layer), layer.neuron.calibrated())
                del layer
            else:
                mender = following(node, mended)
                threshold = mender.op.tensors()["threshold"]
                run.advance(segment, partial(run.passed, segment, mender), threshold)


@dataclass(frozen=True)
class Run:
    """Where a run stands: what is `kept` of each part of the samples."""

    runner: Runner
    room: Room
    kept: Sequence[Kept]

    def layer(
        self, segment: Segment, looked: Places, activation: Tensor, synapses: Collection[Node]
    ) -> Layer:
        """The layer at the end of `segment`, with the inputs of its `synapses`, where it is looked at."""
        given: dict[Node, list[Tensor]] = {}
        currents: list[Tensor] = []
        for place, kept in enumerate(self.kept):
            first = place * self.room.part
            if first >= looked.samples:
                break

            def listen(node: Node, value: Tensor, first: int = first) -> None:
                if node in synapses:
                    given.setdefault(node, []).append(looked.of(value, first, 1))

            currents.append(looked.of(self.runner.current(segment, kept, listen), first, 1))
        inputs = {node: joined(values, 1) for node, values in given.items()}
        return Layer(segment.end, joined(currents, 1), activation, self.runner.fire, inputs)

    def spikes(self, segment: Segment, layer: Layer, kept: Kept) -> Tensor:
        """What `layer`, at the end of `segment`, emits of all places of a part of the samples."""
        if not self.room.sparing:  # it was looked at everywhere
            return layer.spikes()
        return layer.emitted(self.runner.current(segment, kept, changed=layer.changed))

    def passed(self, segment: Segment, node: Node, kept: Kept) -> Tensor:
        """What `node`, at the end of `segment`, makes of the spikes of a part of the samples."""
        return self.runner.fire(node, self.runner.current(segment, kept))

    def advance(self, segment: Segment, emitted: Callable[[Kept], Tensor], threshold: Tensor) -> None:
        """All samples go on from `segment`, whose end has `emitted` of what is kept of each part."""
        for kept in self.kept:
            if segment.emits:
                spikes = emitted(kept)
                kept[segment.end] = packed(spikes, threshold) if self.room.sparing else spikes
            for node in segment.done:
                kept.pop(node, None)


def samples(who: str, batches: Batches, count: int) -> Tensor:
    """The first `count` calibration inputs: [batch, …]. Raises `DataError` for fewer than two."""
    kept: list[Tensor] = []
    for batch in batches():
        kept.append(batch[: count - sum(map(len, kept))])
        if sum(map(len, kept)) == count:
            break
    if sum(map(len, kept)) < 2:
        raise DataError(f"{who} needs two samples or more, there are {sum(map(len, kept))}")
    return torch.cat(kept)


def watched(ann: Graph, parts: Sequence[Tensor], looked: Mapping[str, Places]) -> dict[str, Tensor]:
    """The activations of each layer of neurons, by name, where it is looked at."""
    found: dict[str, list[Tensor]] = {name: [] for name in looked}
    first = 0
    for some in parts:
        for node, value in activations_of(ann, some).items():
            if node.name in looked and first < looked[node.name].samples:
                found[node.name].append(looked[node.name].of(value, first, 0))
        first += len(some)
    return {name: joined(values, 0) for name, values in found.items()}


def joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """One tensor of all parts; a single part as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)
