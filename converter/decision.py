"""Early decision: the read-out of a first-spike network answers as soon as one output leads by enough.

The outputs integrate the last layer's spikes as they come, the largest first. What is still to come falls
along the kernel, and so does the lead that is asked for: after step k the network answers if its largest
output leads the second by margin · κ(k + 1), κ(T) = 0. An output neuron that all others inhibit, with a
threshold falling like that of every other neuron, spikes just then: the first to spike is the answer.

Margins are in units of the mean lead that calibration samples have at the end of the window. `chosen` is the
first of at least twice the smallest under which none of these samples answers otherwise than at the end:
they may be those the network was trained on, which it finds easier than others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from converter.first_spike import FirstSpikeModel, spike_of
from converter.graph import Input, Node
from converter.kernels import kernel_values
from converter.neurons import Neuron
from converter.report import Decision

MARGINS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
SAFETY = 2.0
Labelled = Iterable[tuple[Tensor, Tensor | None]]


def decides(model: FirstSpikeModel) -> bool:
    """Whether the network has steps, and one read-out [batch, classes] in which an output can lead."""
    readout = model.plan.frontier
    return not model.continuous and len(readout) == 1 and len(readout[0].shape) == 2


def tail(model: FirstSpikeModel) -> tuple[Node, ...]:
    """The nodes between the last neurons and the read-out, in order; these neurons and inputs among them."""
    wanted, waiting = set[Node](), [model.plan.frontier[0]]
    while waiting:
        node = waiting.pop()
        if node not in wanted:
            wanted.add(node)
            waiting += () if isinstance(node.op, Neuron | Input) else node.inputs
    return tuple(node for node in model.graph if node in wanted)


def readouts(model: FirstSpikeModel, x: Tensor, window: int) -> Iterator[Tensor]:
    """The read-out after each step of its window, [batch, classes]: what has come in up to there."""
    _, times = model.spikes(x, window)
    nodes = tail(model)
    neurons = [node for node in nodes if isinstance(node.op, Neuron)]
    carried = {n: spike_of(n).worth(times[n.name], window) for n in neurons}
    given = dict(zip(model.graph.inputs, model.mean_input(x, window), strict=True))
    for step in range(window):
        have = {n: torch.where(times[n.name] <= step, carried[n], 0.0) for n in neurons} | given
        for node in nodes:
            if node not in have:
                have[node] = node.op(*(have[i] for i in node.inputs))
        yield have[nodes[-1]]


@dataclass(frozen=True)
class Leads:
    """Of each sample, after each step of the read-out's window: who leads, and by how much."""

    leader: Tensor
    """[steps, batch], a class."""
    lead: Tensor
    """[steps, batch], largest less second."""

    @staticmethod
    def of(model: FirstSpikeModel, x: Tensor, window: int) -> Leads:
        """Those of the samples `x`."""
        best = [answer.topk(2, dim=1) for answer in readouts(model, x, window)]
        first, second = torch.stack([b.values for b in best]).unbind(2)
        return Leads(torch.stack([b.indices[:, 0] for b in best]), first - second)

    def decided(self, falling: Tensor) -> tuple[Tensor, Tensor]:
        """(the step 0 … T − 1 of the answer, the answer), [batch] each, for the lead `falling` [T] asked."""
        step = (self.lead >= falling.to(self.lead)[:, None]).to(torch.int8).argmax(0)
        return step, self.leader.gather(0, step[None])[0]


def falling_lead(model: FirstSpikeModel, window: int, margin: float) -> Tensor:
    """The lead that is asked for after each step, [window]; none after the last."""
    code = model.code
    return margin * kernel_values(code.form, window, code.reach(window))[1:]


@torch.inference_mode()
def decisions(
    model: FirstSpikeModel,
    calibration: Iterable[Tensor],
    batches: Labelled,
    window: int,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Decision, ...]:
    """Answers at each of `MARGINS`, measured on `batches`; the unit of margins from `calibration` samples.

    Nothing where `decides` says no.
    """
    if not decides(model):
        return ()
    held = [Leads.of(model, x, window) for x in calibration]
    unit = float(torch.cat([leads.lead[-1] for leads in held]).mean())
    rows = {margin: falling_lead(model, window, margin * unit) for margin in MARGINS}
    faithful = [
        margin
        for margin, row in rows.items()
        if all(torch.equal(leads.decided(row)[1], leads.leader[-1]) for leads in held)
    ]
    chosen = next((m for m in MARGINS if faithful and m >= SAFETY * faithful[0]), None)
    right, same, steps = (dict.fromkeys(MARGINS, 0.0) for _ in range(3))
    samples, labelled = 0, True
    for x, labels in batches:
        leads = Leads.of(model, x, window)
        labelled = labelled and labels is not None
        samples += len(x)
        for margin, row in rows.items():
            step, answer = leads.decided(row)
            steps[margin] += float((step + 1).sum())
            same[margin] += float((answer == leads.leader[-1]).sum())
            if labels is not None:
                right[margin] += float((answer == labels.reshape(-1)).sum())
        progress(len(x))
    before = model.latency(window) - window
    return tuple(
        Decision(
            window=window,
            margin=margin,
            accuracy=right[margin] / samples if labelled else None,
            agreement=same[margin] / samples,
            steps=steps[margin] / samples,
            latency=before + steps[margin] / samples,
            samples=samples,
            chosen=margin == chosen,
        )
        for margin in MARGINS
    )
