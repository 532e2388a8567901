"""Early exit: a sample is answered once its answer is decided, and leaves the batch.

After t steps the read-out is a mean, and t times it a sum of spikes. That sum is t times the ANN's output up
to what is left in the membranes, which does not grow with t. So a lead of the largest output over the second,

    t · (largest − second) ≥ margin

steps times the output's units cannot be lost any more where the margin is more than the membranes hold. What
they hold is measured, not proven: choose the margin on data that are not the test data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from converter.errors import UsageError
from converter.graph import Graph
from converter.rate import RateModel
from converter.spiking import refuse_early

CHUNK = 4
"""Steps that a decided sample goes on for at most, so that small batches are not run step by step."""
TILES = 4
"""So many times the samples of a tile that stays near are run together, as they become fewer."""


@dataclass(frozen=True)
class EarlyExit:
    """What early exit did on some data. Shares and means over the samples."""

    margin: float
    cap: int
    """The step after which every sample is answered."""
    accuracy: float | None
    agreement: float
    mean_timesteps: float
    steps_run: float
    """Steps that were computed for a sample, those until its batch was cleared of it included."""


def decided(readout: Tensor, counted: int, margin: float) -> Tensor:
    """Which samples of a read-out [batch, classes] over so many steps have their answer: [batch]."""
    first, second = readout.topk(2, dim=1).values.unbind(1)
    return counted * (first - second) >= margin


@torch.no_grad()
def answer(model: RateModel, x: Tensor, cap: int, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of each sample the class, the step of its answer, and the steps it was run for: [batch] each.

    Raises `UsageError` where samples cannot leave a batch, or there are no classes to choose from.
    """
    refuse_early([cap], model.delay)
    if not (model.program.chunks and model.encoding.constant):
        raise UsageError(
            "samples cannot leave the batch of this network",
            why="it was exported for one batch size, or its input is drawn by chance",
            hint="leave --early-exit out",
        )
    if len(model.graph.outputs[0].shape) != 2:
        raise UsageError("--early-exit waits for a class, and the network answers with something else")
    some = TILES * model.tiling(len(x)).samples
    parts = [answer_together(model, part, cap, margin) for part in x.split(some)]
    choice, when, ran = (torch.cat(each) for each in zip(*parts, strict=True))
    return choice, when, ran


def answer_together(model: RateModel, x: Tensor, cap: int, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """The same of samples that are run as one batch, which becomes smaller."""
    frame, _ = model.begin(x, cap)
    sums: list[Tensor] = []
    left = torch.arange(len(x), device=x.device)
    choice, when, ran = left.clone(), torch.full_like(left, cap), torch.full_like(left, cap)
    while True:
        start, open_ = frame.time, torch.ones(frame.samples, dtype=torch.bool, device=x.device)
        steps = min(CHUNK, model.tiling(frame.samples).steps, cap - start)
        for time, values in enumerate(model.program.advance(frame, steps), start + 1):
            sums, counted = model.summed(sums, values, time)
            readout = model.read(sums, counted)[0]
            sure = open_ & decided(readout, counted, margin) if time > model.delay else ~open_ & open_
            sure = open_ if time == cap else sure
            choice[left[sure]] = readout.argmax(1)[sure]
            when[left[sure]] = time
            open_ = open_ & ~sure
        ran[left[~open_]] = frame.time
        if not bool(open_.any()):
            return choice, when, ran
        kept = open_.nonzero().squeeze(1)
        if len(kept) < frame.samples:
            frame.keep(kept)
            left, sums = left[kept], [total.index_select(0, kept) for total in sums]


def measure(
    model: RateModel, ann: Graph, batches: Iterable[tuple[Tensor, Tensor | None]], cap: int, margin: float
) -> EarlyExit:
    """Early exit over batches of (inputs, labels or None), beside the answers of `ann`."""
    samples = right = agree = steps = ran = 0
    labelled = True
    for inputs, labels in batches:
        choice, when, took = answer(model, inputs, cap, margin)
        with torch.inference_mode():
            agree += int((choice == ann.run(inputs)[0].argmax(1)).sum())
        if labels is None:
            labelled = False
        else:
            right += int((choice == labels.reshape(-1)).sum())
        samples, steps, ran = samples + len(inputs), steps + int(when.sum()), ran + int(took.sum())
    accuracy = right / samples if labelled else None
    return EarlyExit(margin, cap, accuracy, agree / samples, steps / samples, ran / samples)
