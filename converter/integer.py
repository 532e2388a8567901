"""IntegerModel: a program run in whole numbers alone; the reference for what is emitted and for fast engines.

Its spikes are those of the network in fixed point, simulated in double precision, one by one: both compute
the same sums of whole numbers times powers of two, and neither rounds. Values are int64; a convolution or
matrix product runs in a floating-point unit that is wide enough to be exact, which is checked at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from converter.errors import ModelError
from converter.graph import Op
from converter.ops import AvgPool, Conv, ConvTranspose, Linear
from converter.program import Instruction, Program
from converter.units import values_of

EXACT = ((torch.float32, 2**24), (torch.float64, 2**53))
"""Floating-point units and up to where they add whole numbers exactly."""
Values = dict[str, Tensor]
Listener = Callable[[str, Tensor], None]


@dataclass
class State:
    """Membranes, counts and sums by name; `widest` is the largest whole number that any membrane has held."""

    held: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    widest: int = 0


@dataclass(frozen=True)
class IntegerModel:
    """Runs a program. `listen` hears the whole numbers of every instruction of a step by its name."""

    program: Program

    @torch.no_grad()
    def steps(
        self, x: Tensor, state: State | None = None, listen: Listener | None = None
    ) -> Iterator[Tensor]:
        """The first output after each step, without end: [batch, …]."""
        state = state or State()
        static: Values = {}
        for instruction in self.program.instructions:
            if instruction.static:
                static[instruction.name] = self._given(instruction, x, static)
        time = 0
        while True:
            time += 1
            values = dict(static)
            for instruction in self.program.instructions:
                if not instruction.static:
                    values[instruction.name] = stepped(instruction, values, state)
                    if listen is not None:
                        listen(instruction.name, values[instruction.name])
            for name in self.program.frontier:
                state.sums[name] = state.sums[name] + values[name] if name in state.sums else values[name]
            yield self._read(state, time)

    def _given(self, instruction: Instruction, x: Tensor, values: Values) -> Tensor:
        """A value that the image alone determines."""
        if instruction.kind == "input":
            return (x.double() * 2.0**-instruction.exponent + 0.5).floor().long()
        return computed(instruction, [values[i] for i in instruction.inputs])

    def _read(self, state: State, time: int) -> Tensor:
        """The first output, of the mean over `time` steps."""
        exponents = {i.name: i.exponent for i in self.program.instructions}
        nodes = {node.name: node for node in self.program.plan.frontier}
        have = {
            nodes[name]: (total.double() * 2.0 ** exponents[name] / time).float()
            for name, total in state.sums.items()
        }
        for node in self.program.plan.head:
            have[node] = node.op(*(have[i] for i in node.inputs))
        return have[self.program.graph.outputs[0]]


def stepped(instruction: Instruction, values: Values, state: State) -> Tensor:
    """One step of an instruction, `state` carried on."""
    given = [values[i] for i in instruction.inputs]
    if instruction.kind == "fire":
        return fired(instruction, given[0], state)
    if instruction.kind == "once":
        return fired_once(instruction, given[0], state)
    if instruction.kind == "max":
        total, before = state.held.get(instruction.name, (0, 0))
        total = total + given[0]
        largest = computed(instruction, [total])
        state.held[instruction.name] = (total, largest)
        return largest - before
    return computed(instruction, given)


def computed(instruction: Instruction, given: list[Tensor]) -> Tensor:
    """What an instruction without a state makes of whole numbers."""
    op, tensors = instruction.op, instruction.tensors
    if instruction.kind == "round":
        (by,) = instruction.shifts
        return (given[0] + (1 << (by - 1))) >> by
    shifted = (
        [x << by for x, by in zip(given, instruction.shifts, strict=True)] if instruction.shifts else given
    )
    match instruction.kind:
        case "weigh":
            total = exactly(op, given[0])
            axis = total.dim() - 1 if isinstance(op, Linear) else 1
            total = total * along(tensors["factor"], total, axis) if "factor" in tensors else total
            total = total << along(tensors["shift"], total, axis)
            return total + along(tensors["bias"], total, axis) if "bias" in tensors else total
        case "add":
            return op(*shifted)
        case "shift":
            return shifted[0] + tensors["bias"]
        case "sum":
            assert isinstance(op, AvgPool)
            return (op(given[0].double()) * values_of(op)).round().long()
        case "max":
            return op(given[0].double()).long()
    return op(*shifted)


def exactly(op: Op, x: Tensor) -> Tensor:
    """A sum of whole numbers, in a floating-point unit that holds all of it exactly."""
    weight = op.weight if isinstance(op, Conv | ConvTranspose | Linear) else None
    bound = float(x.abs().max()) if x.numel() else 0.0
    if weight is not None:
        sizes = weight.abs()
        bound *= max(
            float(sizes.flatten(1).sum(1).max()), float(sizes.transpose(0, 1).flatten(1).sum(1).max())
        )
    for kind, limit in EXACT:
        if bound < limit:
            return op.map_tensors(lambda t: t.to(kind))(x.to(kind)).long()  # noqa: B023  (called at once)
    raise ModelError(
        f"a sum of up to {bound:.3g} does not fit into 53 bits", hint="fewer bits: --weights int8"
    )


def along(values: Tensor, like: Tensor, axis: int) -> Tensor:
    """One value a channel, to broadcast against a tensor with its channels on `axis`."""
    return values.reshape([-1 if i == axis else 1 for i in range(like.dim())])


def fired(instruction: Instruction, current: Tensor, state: State) -> Tensor:
    """The neuron's equation in whole numbers: charge, count, subtract; what its spikes are worth."""
    settings, tensors = instruction.settings, instruction.tensors
    threshold, neuron = tensors["threshold"], settings["neuron"]
    membrane, net = state.held.get(instruction.name, (tensors["initial"], torch.zeros_like(threshold)))
    membrane = membrane + (current << instruction.shifts[0])
    state.widest = max(state.widest, int(membrane.abs().max()))
    above = membrane >= threshold
    if neuron == "integrate-fire":
        count = above.long()
    elif neuron == "signed":
        count = above.long() - ((membrane < 0) & (net > 0)).long()
    else:
        most = settings["levels"]
        count = membrane.div(threshold, rounding_mode="floor").clamp(max=most)
        least = -net.clamp(max=most) if neuron == "multi-level" else torch.zeros_like(net)
        count = torch.maximum(count, least)
    left = membrane - count * threshold
    if settings.get("reset") == "hard":
        left = torch.where(above, 0, membrane)
    state.held[instruction.name] = (left, net + count)
    return count * tensors["worth"]


def fired_once(instruction: Instruction, membrane: Tensor, state: State) -> Tensor:
    """What the one spike of each neuron is worth, its membrane having integrated a window."""
    state.widest = max(state.widest, int(membrane.abs().max()))
    value = torch.zeros_like(membrane)
    rows = zip(instruction.tensors["threshold"], instruction.tensors["worth"], strict=True)
    for threshold, worth in reversed(list(rows)):
        value = torch.where(membrane >= threshold, worth, value)
    return value
