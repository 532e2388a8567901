"""How much a run over the calibration samples may hold: which of them, how many at a time, which places.

Where the values of all samples fit, all are kept and looked at. Where not, between layers only spikes are
kept, bit by bit; what lies between is computed anew for a few samples at a time; and a layer is looked at in
places drawn at random from each sample, the same for all channels. A neuron knows nothing of its neighbours,
so what it says there is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from converter.graph import Graph, Node, batch_axes, size_of
from converter.neurons import Neuron
from converter.segments import largest_in_time, most_kept, segments

MEMORY = 1 << 30
"""Bytes that the largest value may take, over all steps and samples, where all values are kept."""
STORED = 1 << 30
"""Bytes that spikes kept between layers may take, where only these are: samples beyond are left out."""
PART = 1 << 27
"""Bytes that the largest value of the samples that are computed at a time may take."""
JUDGED = 1 << 28
"""Bytes that the currents of a layer may take at the places that are looked at, over all steps."""
LEARNT = 1 << 30
"""Bytes that the currents of a layer and what its synapses read may take, where these are to be learnt."""
LEARNING = 5
"""So many times the currents of a layer are held while its synapses learn."""
FLOAT = 4
BITS = {"binary": 1, "signed": 2}
"""Of a packed spike; of others a byte."""


@dataclass(frozen=True)
class Room:
    """`samples` run, `part` of them at a time; `sparing`: only spikes are kept between layers.

    Of the largest layer as many values are looked at as `looked` samples have, and where synapses learn, all
    of `learnt` samples.
    """

    samples: int
    part: int
    sparing: bool
    looked: int
    learnt: int

    @staticmethod
    def ample(samples: int) -> Room:
        """Room for all there is of these samples."""
        return Room(samples, samples, sparing=False, looked=samples, learnt=samples)


def room_for(graph: Graph, steps: int, samples: int) -> Room:
    """What a run of so many steps over `samples`, if there are that many, may hold; at least 2 samples."""
    each = FLOAT * steps * largest_in_time(graph)
    fit = max(2, MEMORY // each)
    if samples <= fit:
        return Room.ample(samples)
    stored = most_kept(segments(graph, sparing=True), lambda node: steps * bits(node, steps))
    run = min(samples, max(fit, STORED // max(stored, 1)))
    looked, learnt = (min(run, max(2, most // each)) for most in (JUDGED, LEARNT // LEARNING))
    return Room(run, max(1, PART // each), sparing=True, looked=looked, learnt=learnt)


def bits(node: Node, steps: int) -> int:
    """How many bits a value of a step takes between layers: means of windows and sloped spikes all 32."""
    neuron = node.op
    if steps == 1 or (isinstance(neuron, Neuron) and not neuron.choosable):
        return 8 * FLOAT
    return BITS.get(neuron.alphabet, 8) if isinstance(neuron, Neuron) else BITS["signed"]


@dataclass(frozen=True)
class Places:
    """Where a layer is looked at: the first `samples`, at these `places` of each [samples, places] or all."""

    samples: int
    places: Tensor | None = None

    def of(self, value: Tensor, first: int, axis: int) -> Tensor:
        """What is looked at of `value`, the samples from number `first` on along dimension `axis`.

        [samples, channels, …] (axis 0) or [steps, samples, channels, …] (axis 1) -> the same, or
        […, channels, places, 1, …].
        """
        here = value.narrow(axis, 0, max(0, min(value.shape[axis], self.samples - first)))
        if self.places is None:
            return here
        flat = here.flatten(axis + 2)
        index = self.places[first : first + flat.shape[axis], None].to(value.device)
        found = flat.gather(-1, index.expand(*flat.shape[:-1], -1))
        return found.reshape(*found.shape, *[1] * (here.dim() - flat.dim()))


def places_of(
    node: Node, room: Room, steps: int, synapses: Sequence[Node], generator: torch.Generator
) -> Places:
    """Where the layer `node` is looked at; all of a few samples when the input of its synapses is wanted too.

    Of a layer whose parameters differ from place to place all are looked at as well.
    """
    if not room.sparing:
        return Places(room.samples)
    size = size_of(node.shape)
    if synapses:
        read = max(size_of(synapse.inputs[0].shape) for synapse in synapses)
        return Places(min(room.samples, max(2, LEARNT // (LEARNING * FLOAT * steps * max(size, read)))))
    fit = JUDGED // (FLOAT * steps)
    if size * room.samples <= fit or not alike(node):
        return Places(min(room.samples, max(2, fit // size)))
    channels = size_of(node.shape[1:2])
    samples = min(room.samples, max(2, fit // channels))
    here, drawn = size // channels, max(1, fit // (channels * samples))
    if drawn >= here:
        return Places(samples)
    rows = [torch.randperm(here, generator=generator)[:drawn].sort().values for _ in range(samples)]
    return Places(samples, torch.stack(rows))


def alike(node: Node) -> bool:
    """Whether a layer of neurons has places beside channels, and is the same at all of them."""
    rank = len(node.shape)
    if rank < 3 or batch_axes(node.shape) != (0,):
        return False
    per_channel = (node.shape[1], *[1] * (rank - 2))
    return all(t.numel() == 1 or tuple(t.shape) == per_channel for t in node.op.tensors().values())
