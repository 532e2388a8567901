"""What the exporters of whole numbers share: which networks they take, and where values go.

One image goes in and one answer comes out; what a program leaves in floating point after the last neuron is
left out where it changes no order (a softmax), and refused by name elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from converter.encodings.current import Current
from converter.errors import Refusal, Unsupported, UsageError
from converter.first_spike import FirstSpikeModel
from converter.graph import BATCH, Shape
from converter.ops import AvgPool, Conv, ConvTranspose, Linear, MaxPool, ReduceMax
from converter.program import Instruction, Program, program_of
from converter.rate import RateModel
from converter.schedules import Model

Axis = tuple[int, int, int, int, int, int]
"""Inputs, outputs, kernel, stride, padding before, dilation."""


SPIKES = ("fire", "once")
"""The instructions that are layers of neurons."""


def length(model: Model, timesteps: int) -> int:
    """How many steps a run of so many time steps has in whole numbers: of first spikes, all at once, one."""
    return 1 if isinstance(model, FirstSpikeModel) else timesteps


def whole(model: Model, timesteps: int) -> Program:
    """The network in whole numbers. Raises `UsageError` or `Unsupported` for one that has none."""
    if not isinstance(model, RateModel | FirstSpikeModel):
        raise UsageError(
            "whole numbers run step by step, the network was converted for windows",
            hint="ann2snn convert --schedule stream --spikes signed --weights int8, or --code first-spike",
        )
    if not isinstance(model.encoding, Current):
        raise UsageError(
            "the encoding draws at random, whole numbers take the same image at every step",
            hint="ann2snn convert --encoding current",
        )
    program = program_of(model.graph, timesteps)
    refuse(program)
    return program


def refuse(program: Program) -> None:
    """Raise `Unsupported` for what a program has and one image and one answer have not."""
    graph = program.graph
    refused: list[tuple[str, str]] = []
    if len(graph.inputs) != 1:
        refused += [(node.where, "one image goes in") for node in graph.inputs]
    if len(program.frontier) != 1 or len(graph.outputs) != 1:
        refused += [(node.where, "one answer comes out") for node in program.plan.frontier]
    if graph.batch not in (None, 1):
        refused.append((graph.inputs[0].where, "one image at a time goes in"))
    for node in program.plan.head:
        if node.op.kind not in ("Softmax", "LogSoftmax", "Reshape"):
            refused.append((node.where, "stands after the last neuron and is left in floating point"))
    if not any(i.kind in SPIKES for i in program.instructions):
        refused.append((graph.outputs[0].where, "there are no neurons before it"))
    if refused:
        raise Unsupported(f"{graph.name} is not written in whole numbers", refused)


def one(shape: Shape) -> tuple[int, ...]:
    """The shape for a single image."""
    return tuple(d // BATCH if d >= BATCH else d for d in shape)


def synapse(instruction: Instruction, given: tuple[int, ...]) -> tuple[int, int, list[Axis], Tensor]:
    """(rows, groups, axes, codes [groups, inputs, taps, outputs]) of a weighted sum."""
    op, codes = instruction.op, instruction.tensors["codes"]
    if isinstance(op, Linear):
        return prod(given[:-1]), 1, [], codes.T.reshape(1, len(codes.T), 1, -1)
    assert isinstance(op, Conv | ConvTranspose)
    sizes = (op.weight.shape[2:], op.stride, op.padding, op.dilation)
    axes = list(zip(given[2:], one(instruction.shape)[2:], *sizes, strict=True))
    grouped = codes.reshape(op.groups, -1, codes.shape[1], prod(codes.shape[2:]))
    grouped = grouped.transpose(1, 2) if isinstance(op, Conv) else grouped
    return given[0], op.groups, axes, grouped.transpose(2, 3)


def windows(instruction: Instruction, given: tuple[int, ...]) -> tuple[int, list[Axis]]:
    """(how many planes, axes) of a pool. Raises `Refusal` for a maximum over axes in the middle."""
    op, shape = instruction.op, one(instruction.shape)
    if isinstance(op, ReduceMax):
        dims = sorted(d % len(given) for d in op.dims)
        if dims != list(range(len(given) - len(dims), len(given))):
            raise Refusal("takes the largest along other axes than the last ones")
        size = prod(given[d] for d in dims)
        return prod(shape), [(size, 1, size, 1, 0, 1)]
    assert isinstance(op, MaxPool | AvgPool)
    rank = len(op.kernel)
    before = [0] * rank
    dilation = op.dilation if isinstance(op, MaxPool) else (1,) * rank
    if isinstance(op, MaxPool) and op.pad:
        before = [op.pad[2 * (rank - 1 - d)] for d in range(rank)]
    padding = [p + b for p, b in zip(op.padding, before, strict=True)]
    first = len(given) - rank
    axes = list(zip(given[first:], shape[first:], op.kernel, op.stride, padding, dilation, strict=True))
    return prod(given[:first]), axes


def gathered(instruction: Instruction, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """(which input, −1 for a zero; which of its values) for each value that a movement gives."""
    starts = [1 + sum(prod(s) for s in shapes[:n]) for n in range(len(shapes))]
    numbered = [
        torch.arange(start, start + prod(s)).reshape(s).double()
        for start, s in zip(starts, shapes, strict=True)
    ]
    places = instruction.op(*numbered).flatten().long()
    source = torch.bucketize(places, torch.tensor(starts), right=True) - 1
    return source, torch.where(source < 0, 0, places - torch.tensor([0, *starts])[source + 1])


def scales(instruction: Instruction) -> Tensor:
    """What the sum of each output channel is multiplied with: factor << shift."""
    t = instruction.tensors
    scale = torch.ones_like(t["shift"]) << t["shift"]
    return scale * t["factor"] if "factor" in t else scale
