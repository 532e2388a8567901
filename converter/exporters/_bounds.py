"""How large every whole number of an integer program can become, so that each has a type that holds it.

Bounds are of magnitudes, element by element: a sum's is the sum of |weight| · (bound of what it reads), a
neuron's spike is worth at most its largest count times its worth, and a membrane that is charged with at most
b a step lies within max(|first|, θ) + T · b + θ after T steps, whatever the image (resets only bring it
nearer). The same holds for the sums of a max-pool over time and of the read-out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from converter.errors import Refusal
from converter.exporters._whole import one
from converter.integer import along, computed
from converter.ops import AvgPool, Linear
from converter.program import Instruction, Program
from converter.units import values_of

WIDTHS = (8, 16, 32, 64)


@dataclass(frozen=True)
class Bound:
    """The largest magnitude of a value, and of what its instruction holds: `start` + `rise` in every step."""

    value: Tensor
    start: int = 0
    rise: int = 0

    @property
    def largest(self) -> int:
        """The largest magnitude of any of its values."""
        return int(self.value.max()) if self.value.numel() else 0

    def held(self, steps: int) -> int:
        """The largest magnitude of a state after so many steps."""
        return self.start + steps * self.rise


def width(bound: int, least: int = 8) -> int:
    """The bits of the smallest type that holds ±bound. Raises `Refusal` beyond 62 bits."""
    for bits in WIDTHS:
        if bits >= least and bound < 2 ** (bits - 1) and bound < 2**62:
            return bits
    raise Refusal(f"its values of up to {bound:.3g} do not fit 64 bits")


def bounds(program: Program, limit: int) -> dict[str, Bound]:
    """By the name of each instruction, for inputs of −limit … limit."""
    found: dict[str, Bound] = {}
    for instruction in program.instructions:
        if instruction.kind == "input":
            found[instruction.name] = Bound(
                torch.full(one(instruction.shape), float(limit), dtype=torch.float64)
            )
        else:
            found[instruction.name] = bound(instruction, [found[i].value for i in instruction.inputs])
    return found


def bound(instruction: Instruction, given: list[Tensor]) -> Bound:
    """Of one instruction, those of its inputs being `given`, in double precision."""
    op, tensors = instruction.op, instruction.tensors
    shifted = [g * 2.0**by for g, by in zip(given, instruction.shifts, strict=False)] or given
    match instruction.kind:
        case "fire":
            most = int(instruction.settings.get("levels", 1))
            value = (most * tensors["worth"]).double().expand(one(instruction.shape))
            resting = int(torch.maximum(tensors["initial"].abs().max(), tensors["threshold"].max()))
            start = resting + int(tensors["threshold"].max())
            return Bound(value, start, int(shifted[0].max()))
        case "once":
            return Bound(tensors["worth"][0].double().expand(one(instruction.shape)))
        case "weigh":
            total = op.map_tensors(torch.abs)(given[0])
            axis = total.dim() - 1 if isinstance(op, Linear) else 1
            scale = tensors["shift"].double().exp2()
            total = total * along(scale * tensors["factor"] if "factor" in tensors else scale, total, axis)
            return Bound(total + along(tensors["bias"].abs(), total, axis) if "bias" in tensors else total)
        case "round":
            return Bound((given[0] * 0.5 ** instruction.shifts[0]).ceil())
        case "shift":
            return Bound(shifted[0] + tensors["bias"].abs())
        case "sum":
            assert isinstance(op, AvgPool)
            return Bound(op(given[0]) * values_of(op))
        case "max":
            return Bound(computed(instruction, [given[0]]).double(), 0, int(given[0].max()))
    return Bound(op(*shifted))
