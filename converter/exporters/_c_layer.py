"""A function in C in the making: its text, its constants, and what it holds from step to step."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from torch import Tensor

from converter.exporters._c_text import Code, Table, fitting, kind, literal, said, spread
from converter.exporters._whole import one
from converter.program import Instruction


@dataclass(frozen=True)
class Held:
    """An array that lives from step to step; it begins at `initial`, spread as `_c_text.spread` says."""

    name: str
    bits: int
    size: int
    initial: tuple[int, int, int, Tensor] | None = None


@dataclass
class Layer:
    """A function: `code`, its constants, what it holds. `same` says that it gives what it reads, as it is."""

    name: str
    instruction: Instruction
    bits: int
    given: tuple[int, ...]
    """The bits of what it reads."""
    steps: int
    index: int = 0
    """Which layer of neurons it is."""
    same: bool = False
    code: Code = field(default_factory=Code)
    tables: list[Table] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a single image."""
        return one(self.instruction.shape)

    @property
    def size(self) -> int:
        """How many values it gives."""
        return prod(self.shape)

    @property
    def title(self) -> str:
        """What it is, for a comment."""
        i = self.instruction
        shape = "x".join(map(str, self.shape[1:]))
        extra = "".join(f", {i.settings[key]}" for key in ("format", "reset") if key in i.settings)
        return said(f"{i.op.kind} {i.name}: {i.kind}, {shape}{extra}, in units of 2^{i.exponent}")

    def table(self, part: str, values: Tensor, bits: int = 0) -> str:
        """The name of a new table with these values."""
        name = f"{self.name}_{part}"
        self.tables.append(Table(name, values, bits or fitting(values)))
        return name

    def each(self, part: str, values: Tensor, at: str, bits: int = 32) -> str:
        """The expression for values[at]: a number where they are all the same."""
        numbers = set(values.flatten().tolist())
        return literal(numbers.pop(), bits) if len(numbers) == 1 else f"{self.table(part, values)}[{at}]"

    def keep(self, part: str, bits: int, size: int, initial: Tensor | None = None) -> str:
        """The name of a new state of this layer."""
        spreading = None
        if initial is not None:
            outer, n, inner, (values,) = spread(self.shape, initial)
            spreading = (outer, n, inner, values)
            if n > 1:
                self.table(f"{part}_first", values)
        self.held.append(Held(f"{self.name}_{part}", bits, size, spreading))
        return f"{self.name}_{part}"

    def head(self, *names: str) -> str:
        """The function's first line."""
        taken = [f"const {kind(bits)} *{name}" for bits, name in zip(self.given, names, strict=True)]
        return f"static void {self.name}({', '.join([*taken, f'{kind(self.bits)} *y'])})"


def shifted(value: str, by: int, bits: int) -> str:
    """`value` times 2^by in a type of `bits`, whatever its sign."""
    cast = value if bits <= 32 else f"({kind(bits)}){value}"
    return f"{cast} * {literal(1 << by, bits)}" if by else cast
