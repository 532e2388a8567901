"""The integer program: a network in fixed point as instructions on whole numbers, to run or to emit.

Every value is a whole number times 2^`exponent`, the same for all of it, so an instruction is integer
arithmetic and shifts. Those that are `static` depend on the image alone and run once, the others at each
step.

    input   ⌊x / 2^exponent + ½⌋                          the only place where floating point comes in
    weigh   y_c = ((Σ code · x) · factor_c << shift_c) + bias_c                            codes as numbers
            y_c = ((Σ ± (LUT[q mod n] << ⌊q / n⌋) · x) << shift_c) + bias_c     code ±(1 + e), q = start_c − e
    add     Σ (x_i << shift_i)
    shift   (x << shift) + bias
    round   (x + 2^(shift − 1)) >> shift                  what one synapse hands to another, in fewer bits
    sum     the sum of each window of an average pool, whose division is in the exponent
    max     the largest; of spikes the change of the largest of their sums so far
    move    values in other places, shapes or orders, several of them shifted to one exponent first
    fire    v ← v + (z << shift);  k as the neuron says;  v ← v − k · threshold_c;  the spike is k · worth_c
    once    worth_kc of the first k with z ≥ threshold_kc, 0 for none: the one spike of a window of steps k

The program of a first-spike network runs once, a window of every layer after the other: its one step is all.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from converter.errors import Refusal, Unsupported
from converter.graph import Graph, Input, Node, Op
from converter.kernels import kernel_thresholds
from converter.neurons import Neuron
from converter.neurons.burst import Burst
from converter.neurons.first_spike import FirstSpike
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.multi_level import MultiLevel
from converter.neurons.signed import Signed
from converter.ops import (
    Add,
    Affine,
    AvgPool,
    Conv,
    ConvTranspose,
    Grid,
    Linear,
    MaxPool,
    Movement,
    ReduceMax,
)
from converter.plan import Plan
from converter.quantise import held
from converter.units import Synapse, payload_unit, unit, values_of, whole
from converter.weights import as_weight, parse

INITIAL = 8
"""Bits that a membrane has below a threshold's unit at least, for the first membrane."""


@dataclass(frozen=True, eq=False)
class Instruction:
    """One of the kinds above. `op` has the geometry; a synapse's weight there is that of the sum, in doubles.

    `tensors` are whole numbers: codes, factor, shift, bias, start; threshold, worth, initial.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    exponent: int
    static: bool
    op: Op
    shape: tuple[int, ...]
    shifts: tuple[int, ...] = ()
    """To the left, one an input; of `round` to the right."""
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON has it."""
        facts = {key: value for key, value in self.__dict__.items() if key not in ("op", "tensors")}
        geometry = {"op": self.op.kind, **self.op.settings()} if not isinstance(self.op, Neuron) else {}
        return {**facts, "geometry": geometry, "tensors": sorted(self.tensors)}


@dataclass(frozen=True)
class Program:
    """The instructions in order; `frontier` names what is summed over time for the read-out.

    `graph` is the network in fixed point that the program is of; what stands in `plan.head`, after the last
    neuron, is left in floating point and applied to the mean.
    """

    graph: Graph
    plan: Plan
    instructions: tuple[Instruction, ...]
    frontier: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The program as JSON has it; the tensors are `tensors()`."""
        return {"instructions": [i.document() for i in self.instructions], "frontier": list(self.frontier)}

    def tensors(self) -> dict[str, Tensor]:
        """`instruction.tensor`: whole numbers all."""
        return {f"{i.name}.{key}": t for i in self.instructions for key, t in i.tensors.items()}


def program_of(graph: Graph, window: int = 1) -> Program:
    """The program of a graph that `fixed_point` gave, for a constant input current.

    `window` is how many steps one of first spikes has. Raises `Unsupported`, naming every node that has no
    meaning in whole numbers here.
    """
    plan = Plan.of(graph)
    units: dict[Node, int] = {}
    made: list[Instruction] = []
    refused: list[tuple[str, str]] = []
    for node in (*plan.static, *plan.step):
        if node in graph.inputs:
            continue
        try:
            if any(i not in units and i not in graph.inputs for i in node.inputs):
                continue  # what it reads has been refused already
            given = [units.get(i, 0) for i in node.inputs]
            if isinstance(node.op, FirstSpike):
                instruction = once(node, node.op, given[0], window)
            else:
                instruction = lowered(node, given, node in plan.static)
        except Refusal as refusal:
            refused.append((node.where, refusal.why))
            continue
        made.append(instruction)
        units[node] = instruction.exponent
    if refused:
        raise Unsupported(
            f"{graph.name} does not run in whole numbers",
            refused,
            hint="ann2snn convert --weights int8 --spikes signed makes networks that do",
        )
    return Program(graph, plan, tuple(made), tuple(n.name for n in plan.frontier))


def lowered(node: Node, given: list[int], static: bool) -> Instruction:
    """The instruction for a node whose inputs have these exponents. Raises `Refusal`."""
    op, inputs = node.op, tuple(i.name for i in node.inputs)
    at = None if isinstance(op, Neuron) else unit(op, given)
    plain = Instruction("move", node.name, inputs, at or 0, static, op, node.shape)
    if isinstance(op, Neuron):
        return fire(op, given[0], replace(plain, kind="fire"))
    if at is None:
        raise Refusal(
            "its values are no whole numbers times a power of two"
            if not isinstance(op, Synapse)
            else "its weights are no codes"
        )
    shifts = tuple(g - at for g in given)
    match op:
        case Grid() if isinstance(node.inputs[0].op, Input):
            return replace(plain, kind="input")
        case Grid() if at > given[0]:
            return replace(plain, kind="round", shifts=(at - given[0],))
        case Conv() | ConvTranspose() | Linear():
            return weigh(op, given[0], replace(plain, kind="weigh"))
        case Add():
            return replace(plain, kind="add", shifts=shifts)
        case Affine(None, shift) if shift is not None:
            return replace(plain, kind="shift", shifts=shifts, tensors={"bias": counted(shift, at)})
        case AvgPool() if values_of(op):
            return replace(plain, kind="sum")
        case MaxPool() | ReduceMax():
            return replace(plain, kind="max")
        case Movement():
            return replace(plain, shifts=shifts)
    raise Refusal("has no instruction")


def weigh(op: Synapse, given: int, plain: Instruction) -> Instruction:
    """A synapse: codes and what turns a sum of them into a value of the exponent."""
    packed = held(op)
    format = parse(packed.format)
    numbers, exponents = whole(op)
    shift = exponents + given - plain.exponent
    tensors = {"codes": packed.codes, "shift": shift}
    if format is not None and format.table:
        tensors["start"] = format.start(packed.scale)
        summed = as_weight(numbers, packed.codes.shape, op.groups if isinstance(op, ConvTranspose) else 0)
        settings: dict[str, Any] = {"format": packed.format, "table": format.table}
    else:
        mantissa, _ = torch.frexp(packed.scale.double())
        tensors["factor"] = (mantissa * 32).long()
        summed, settings = packed.codes, {"format": packed.format}
    if op.bias is not None:
        tensors["bias"] = counted(op.bias, plain.exponent)
    summing = replace(op, weight=summed.double(), bias=None, packed=None)
    return replace(plain, op=summing, settings=settings, tensors=tensors)


def fire(neuron: Neuron, given: int, plain: Instruction) -> Instruction:
    """A neuron: thresholds in the membrane's unit, which is fine enough for currents and first membranes."""
    settings: dict[str, Any]
    match neuron:
        case IntegrateFire():
            settings = {"neuron": "integrate-fire", "reset": neuron.reset}
        case Signed():
            settings = {"neuron": "signed"}
        case MultiLevel():
            settings = {"neuron": "multi-level", "levels": neuron.levels}
        case Burst():
            settings = {"neuron": "burst", "levels": neuron.burst}
        case _:
            raise Refusal(f"the neuron {neuron.kind} has no instruction")
    exponent = payload_unit(neuron)
    membrane = min(given, exponent - INITIAL)
    threshold = neuron.calibrated()
    tensors = {
        "threshold": counted(threshold, membrane),
        "worth": counted(threshold, exponent),
        "initial": counted(neuron.init()[0], membrane),
    }
    return replace(plain, exponent=exponent, shifts=(given - membrane,), settings=settings, tensors=tensors)


def once(node: Node, neuron: FirstSpike, given: int, window: int) -> Instruction:
    """A first spike: for each step of a window the membrane that it takes, and what it is worth."""
    if neuron.grain is None:
        raise Refusal("spikes in continuous time, or was not put in fixed point")
    if neuron.offset is not None:
        raise Refusal("fires while its input still arrives (--offset), so it is no table")
    neuron.check(window)
    scale = neuron.calibrated().double()
    steps = torch.arange(window).reshape(-1, *[1] * scale.dim())
    falling = kernel_thresholds(neuron.form, window, neuron.reach(window), neuron.coder)
    tensors = {
        "threshold": torch.ldexp(scale * falling[steps], torch.tensor(-given)).ceil().long(),
        "worth": counted(neuron.worth(steps, window), neuron.grain),
    }
    inputs = tuple(i.name for i in node.inputs)
    told = {"neuron": neuron.kind, "window": window}
    return Instruction("once", node.name, inputs, neuron.grain, False, neuron, node.shape, (), told, tensors)


def counted(values: Tensor, exponent: int) -> Tensor:
    """How many units of 2^exponent these values are, int64. Raises `Refusal` where one is no whole number."""
    count = torch.ldexp(values.detach().double().cpu(), torch.tensor(-exponent))
    if not torch.equal(count, count.round()) or float(count.abs().max()) >= 2**53:
        raise Refusal("a value of its is no whole number of units")
    return count.long()
