"""One time step, or one window, as a torch.export program, which torch runs without a line of ours.

    answers, spikes, states = torch.export.load(FILE).module()(inputs, states)

each a tuple of tensors: the answers so far, the spikes of every layer, the next states. Which is which, and
what the states are before the first step, stands beside the program as JSON:
torch.export.load(FILE, extra_files={"notes.json": ""}). The batch is free.

Of first spikes, and under the schedule pipelined, layers work window by window, and the program is the run:

    answers, said = torch.export.load(FILE).module()(inputs)

the answers, and what each layer says in its window: what its one spike carries, or the mean of its spikes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converter.cumulative import telescope, telescope_mean
from converter.errors import UsageError
from converter.exporters._check import Check, Order, apart
from converter.exporters._compare import compare_steps
from converter.exporters._onnx_notes import notes, states
from converter.exporters._onnx_step import Step
from converter.first_spike import FirstSpikeModel
from converter.graph import BATCH, Input, Node, Shape
from converter.neurons import Neuron
from converter.pipelined import PipelinedModel
from converter.rate import RateModel
from converter.schedules import Model
from converter.stateful import Stateful
from converter.temporal_bias import TemporalBias
from converter.window import windowed
from converter.withdrawal import Withdrawal

Tensors = tuple[Tensor, ...]
NOTES = "notes.json"


class Program(nn.Module):
    """One step of `model`: what `RateModel.advance` does, with the number of steps as a tensor."""

    def __init__(self, model: RateModel) -> None:
        super().__init__()
        self.model, self.step = model, Step.of(model)

    def forward(self, inputs: Tensors, held: Tensors) -> tuple[Tensors, Tensors, Tensors]:
        """(inputs, states) -> (answers so far, spikes of every layer, next states)."""
        plan, graph = self.model.plan, self.model.graph
        before = dict(zip((h.name for h in self.step.all), held, strict=True))
        have: dict[Node, Tensor] = dict(zip(graph.inputs, inputs, strict=True))
        time = before[self.step.time.name]
        done = time + 1
        after: dict[str, Tensor] = {self.step.time.name: done}
        for node in (*plan.static, *plan.step):
            if isinstance(node.op, Input):
                continue
            given = tuple(have[i] for i in node.inputs)
            names = [h.name for h in self.step.nodes.get(node, ())]
            own = tuple(before[name] for name in names)
            if isinstance(node.op, Stateful):
                state, have[node] = node.op.step(_complete(node.op, own, time), *given)
                after |= dict(zip(names, state, strict=False))
            elif node in plan.cumulative and node.op.homogeneous:
                state, have[node] = telescope(node.op, own, *given)
                after |= dict(zip(names, state, strict=True))
            elif node in plan.cumulative:
                state, have[node] = telescope_mean(node.op, own, done, *given)  # type: ignore[arg-type]
                after |= dict(zip(names, state, strict=True))
            else:
                have[node] = node.op(*given)
        counted = (done - self.model.delay).clamp(min=1)
        means = {}
        for node, total in zip(plan.frontier, self.step.sums, strict=True):
            summed = before[total.name] + have[node]
            after[total.name] = torch.where(counted > 1, summed, have[node]) if self.model.delay else summed
            means[node] = after[total.name] / counted
        for node in plan.head:
            means[node] = node.op(*(means[i] for i in node.inputs))
        answers = tuple(means[o] for o in graph.outputs)
        return (
            answers,
            tuple(have[n] for n in self.model.neurons),
            tuple(after[h.name] for h in self.step.all),
        )


class Windows(nn.Module):
    """A run of `model`, whose windows have `timesteps` steps."""

    def __init__(self, model: PipelinedModel, timesteps: int) -> None:
        super().__init__()
        self.model, self.timesteps = model, timesteps

    def forward(self, inputs: Tensors) -> tuple[Tensors, Tensors]:
        """inputs -> (answers, what each layer says)."""
        graph = windowed(self.model.graph, self.timesteps)
        said: dict[str, Tensor] = {}
        answers = graph.run(
            *self.model.mean_input(inputs, self.timesteps), listen=lambda n, v: said.__setitem__(n.name, v)
        )
        ends = (*answers, *(said[node.name] for node in self.model.neurons))
        if isinstance(self.model, FirstSpikeModel):
            ends = tuple(self.model.whole(value, self.timesteps) for value in ends)
        return ends[: len(answers)], ends[len(answers) :]


def _complete(op: Stateful, own: Tensors, time: Tensor) -> Tensors:
    """The state as `op` has it, where the number of steps is part of it."""
    if isinstance(op, TemporalBias):
        return (time.long(),)
    return (*own, time) if isinstance(op, Withdrawal) else own


def write(model: Model, order: Order, path: Path) -> None:
    """Raises `Unsupported` for a neuron without a form, `UsageError` for windows of a drawn input."""
    inputs = tuple(_example(node.shape) for node in model.graph.inputs)
    if isinstance(model, PipelinedModel):
        return _write_windows(model, order, path, inputs)
    program = Program(model)
    held = tuple(h.initial.expand(_sizes(h.shape, 2)).clone() for h in program.step.all)
    shapes = tuple(map(_free, (n.shape for n in model.graph.inputs)))
    told = notes(model, order.report, order.timesteps, "step") | {"states": states(program.step.all)}
    told["outputs"] = json.dumps([node.name for node in model.graph.outputs])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own deprecations
        made = torch.export.export(
            program, (inputs, held), dynamic_shapes=(shapes, tuple(_free(h.shape) for h in program.step.all))
        )
        torch.export.save(made, path, extra_files={NOTES: json.dumps(told)})


def _write_windows(model: PipelinedModel, order: Order, path: Path, inputs: Tensors) -> None:
    if not model.encoding.constant:
        raise UsageError(
            f"the input is encoded by {type(model.encoding).__name__.lower()}, at random in every step",
            why="a program that is a whole run has nothing to draw from",
            hint="ann2snn convert --encoding current",
        )
    if isinstance(model, FirstSpikeModel):
        model.code.check(order.timesteps)
    told = notes(model, order.report, order.timesteps, "windows")
    told["outputs"] = json.dumps([node.name for node in model.graph.outputs])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own deprecations
        free = tuple(map(_free, (n.shape for n in model.graph.inputs)))
        made = torch.export.export(Windows(model, order.timesteps), (inputs,), dynamic_shapes=(free,))
        torch.export.save(made, path, extra_files={NOTES: json.dumps(told)})


def _free(shape: Shape) -> dict[int, Any]:
    """The batch, left open."""
    return {i: torch.export.Dim.AUTO for i, d in enumerate(shape) if d >= BATCH}


def _sizes(shape: Shape, batch: int) -> list[int]:
    return [d // BATCH * batch if d >= BATCH else d for d in shape]


def _example(shape: Shape) -> Tensor:
    return torch.zeros(_sizes(shape, 2))


def check(path: Path, model: Model, x: Tensors, timesteps: int) -> Check:
    """In torch; of steps each from the states that `model` is in."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.load(path).module()
        if isinstance(model, PipelinedModel):
            return compare_windows(program, model, x, timesteps)
        return compare(program, model, x, timesteps)


def compare(program: Callable[..., Any], model: RateModel, x: Tensors, timesteps: int) -> Check:
    """What `program` says, beside what `model` says, each step from the states that `model` is in."""
    names = [held.name for held in Step.of(model).all]

    def told(frame: Tensors, states: dict[str, Tensor]) -> tuple[Tensors, Tensors]:
        answers, spikes, _ = program(frame, tuple(states[name] for name in names))
        return answers, spikes

    return compare_steps("torch", told, model, x, timesteps)


def compare_windows(program: Callable[..., Any], model: PipelinedModel, x: Tensors, timesteps: int) -> Check:
    """What `program` says, beside what `model` says."""
    answers, said = program(x)
    mine, currents = model.window(x, timesteps)
    worst = max(apart(a, b) for a, b in zip(mine, answers, strict=True))
    spikes = differing = 0
    for node, other in zip(model.neurons, said, strict=True):
        assert isinstance(node.op, Neuron)
        own = node.op.window(currents[node.name], timesteps)
        own = model.whole(own, timesteps) if isinstance(model, FirstSpikeModel) else own
        spikes += own.numel()
        differing += int((own != other).sum())
    return Check("torch", len(x[0]), timesteps, worst, spikes, differing)
