"""A first-spike network spike by spike: only synapses whose neuron has spiked are touched, and counted.

Convolutions and matrix products are run over the list of what arrives at them: each spike adds its value
times the weight to every membrane it reaches, borders and strides as they are. What has no weights (pools,
sums, layout) hands spikes on. So silence costs nothing, and what it touched is what `converter.operations`
counts by fan-out: one accumulate for each arriving spike and weight that is not zero. Where windows overlap
spikes arrive in several views, each once; a mean of several spikes arrives anew in each that changes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from converter.first_spike import FirstSpikeModel, spike_of
from converter.graph import Input
from converter.neurons import Neuron
from converter.ops import Conv, ConvTranspose, Linear

AT_ONCE = 1 << 22
"""So many products are formed at a time, at most."""


@dataclass(frozen=True)
class Run:
    """The read-out of a run, and by the name of each layer of synapses what spikes cost it."""

    readout: tuple[Tensor, ...]
    accumulates: dict[str, int]
    """All samples together; what the image alone reaches is computed once and not among them."""
    events: dict[str, int]
    """How many spikes arrived there."""


def simulate(model: FirstSpikeModel, x: Tensor, window: int) -> Run:
    """Run `model` on `x` [batch, …] event by event: the same spikes as `model.spikes(x, window)`.

    Membranes are sums in another order, so they agree up to rounding.
    """
    model.code.check(window)
    views = model.code.views(window)
    have = dict(zip(model.graph.inputs, model.mean_input(x, window), strict=True))
    static = frozenset(model.plan.static)
    accumulates, events = dict[str, int](), dict[str, int]()
    for node in model.graph:
        given = [have[i] for i in node.inputs]
        if isinstance(node.op, Neuron):
            have[node] = spike_of(node).window(given[0], window)
        elif isinstance(node.op, Conv | ConvTranspose | Linear) and node not in static:
            spikes = arriving(given[0], views)
            have[node], accumulates[node.name] = arrive(node.op, spikes, node.shape[1:], views)
            events[node.name] = int((spikes != 0).sum())
        elif not isinstance(node.op, Input):
            have[node] = node.op(*given)
    return Run(tuple(model.whole(have[o], window) for o in model.graph.outputs), accumulates, events)


def arriving(said: Tensor, views: int) -> Tensor:
    """What is new in each view of what was `said` so far: [views · batch, …]."""
    seen = said.chunk(views)
    return torch.cat([seen[0], *(now - before for before, now in pairwise(seen))])


def arrive(
    op: Conv | ConvTranspose | Linear, spikes: Tensor, shape: tuple[int, ...], views: int = 1
) -> tuple[Tensor, int]:
    """The membranes after `spikes` have arrived, of this `shape` a sample; how many synapses that touched.

    Both are [views · batch, …]; what arrives in a view stays in those after it.
    """
    if isinstance(op, Linear):
        new, touched = _products(op, spikes)
    else:
        new, touched = _convolved(op, spikes, (len(spikes), *shape))
    membrane = torch.stack(new.chunk(views)).cumsum(0).flatten(0, 1)
    if op.bias is not None:
        membrane = membrane + op.bias.reshape(-1, *[1] * (0 if isinstance(op, Linear) else len(shape) - 1))
    return membrane, touched


def _products(op: Linear, spikes: Tensor) -> tuple[Tensor, int]:
    rows = spikes.reshape(-1, spikes.shape[-1])
    weight = op.weight.T.contiguous()
    membrane, touched = rows.new_zeros(len(rows), weight.shape[1]), 0
    for part in rows.nonzero().split(max(1, AT_ONCE // weight.shape[1])):
        row, column = part.T
        reached = weight[column]
        membrane.index_add_(0, row, reached * rows[row, column, None])
        touched += int((reached != 0).sum())
    return membrane.reshape(*spikes.shape[:-1], weight.shape[1]), touched


def _convolved(op: Conv | ConvTranspose, spikes: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, int]:
    _, channels, *places = shape
    reached_from = _by_source(op)  # [groups, inputs of a group, kernel place, outputs of a group]
    groups, inputs, _, outputs = reached_from.shape
    steps = [torch.tensor(size, device=spikes.device) for size in places]
    count = int(torch.tensor(places).prod())
    membrane = spikes.new_zeros(len(spikes) * count * groups, outputs)
    touched = 0
    for part in spikes.nonzero().split(max(1, AT_ONCE // outputs)):
        sample, channel, *place = part.T
        value, group, source = spikes[tuple(part.T)], channel // inputs, channel % inputs
        for index, offset in enumerate(product(*map(range, op.weight.shape[2:]))):
            at, inside = sample, torch.ones_like(sample, dtype=torch.bool)
            for d, size in enumerate(steps):
                to, lands = _target(op, d, place[d], offset[d], size)
                at, inside = at * size + to, inside & lands
            weights = reached_from[group[inside], source[inside], index]
            row = at[inside] * groups + group[inside]
            membrane.index_add_(0, row, weights * value[inside, None])
            touched += int((weights != 0).sum())
    return membrane.reshape(len(spikes), count, channels).transpose(1, 2).reshape(shape), touched


def _target(
    op: Conv | ConvTranspose, dim: int, place: Tensor, offset: int, size: Tensor
) -> tuple[Tensor, Tensor]:
    """Where along `dim` a spike at `place` goes through this place of the kernel, and whether it lands."""
    shift = op.dilation[dim] * offset
    if isinstance(op, ConvTranspose):
        to = place * op.stride[dim] + shift - op.padding[dim]
        return to, (to >= 0) & (to < size)
    to = place + op.padding[dim] - shift
    onto = to.div(op.stride[dim], rounding_mode="floor")
    return onto, (to % op.stride[dim] == 0) & (onto >= 0) & (onto < size)


def _by_source(op: Conv | ConvTranspose) -> Tensor:
    """The weights as a spike meets them: [groups, inputs of a group, kernel place, outputs of a group]."""
    kernel = op.weight[0, 0].numel()
    if isinstance(op, ConvTranspose):
        inputs, outputs = op.weight.shape[0] // op.groups, op.weight.shape[1]
        return op.weight.reshape(op.groups, inputs, outputs, kernel).transpose(2, 3).contiguous()
    outputs, inputs = op.weight.shape[0] // op.groups, op.weight.shape[1]
    return op.weight.reshape(op.groups, outputs, inputs, kernel).permute(0, 2, 3, 1).contiguous()
