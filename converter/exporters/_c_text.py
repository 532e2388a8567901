"""C as text: lines in blocks, names that are identifiers, tables that fold, types of so many bits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from textwrap import wrap

import torch
from torch import Tensor

KEYWORDS = frozenset(
    {
        *("auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum"),
        *("extern", "float", "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return"),
        *("short", "signed", "sizeof", "static", "struct", "switch", "typedef", "union", "unsigned", "void"),
        *("volatile", "while", "main", "sums", "now", "code4"),
    }
)
"""What no function or array is called: C's own words, and the template's."""
PARTS = (
    *("codes", "start", "scale", "bias", "threshold", "worth", "membrane", "membrane_first", "net"),
    *("sums", "before", "places", "source", "values", "reset", "input", "step", "readout", "decide"),
)
"""What stands behind the name of a layer, or of the whole network, in other names."""


@dataclass
class Code:
    """Lines, four spaces a block."""

    lines: list[str] = field(default_factory=list)
    depth: int = 0

    def __call__(self, *lines: str) -> None:
        self.lines += ["    " * self.depth + line if line else "" for line in lines]

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """What is written inside stands in braces after `head`, those of a function on lines of their own."""
        if self.depth:
            self(f"{head} {{")
        else:
            self(head, "{")
        self.depth += 1
        yield
        self.depth -= 1
        self("}")

    @contextmanager
    def loops(self, heads: Sequence[str]) -> Iterator[None]:
        """What is written inside stands in all these loops."""
        for head in heads[:-1]:
            self(head)
            self.depth += 1
        if heads:
            with self.block(heads[-1]):
                yield
        else:
            yield
        self.depth -= max(len(heads) - 1, 0)

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"


def kind(bits: int) -> str:
    """The type of so many bits."""
    return f"int{bits}_t"


def literal(value: int, bits: int = 32) -> str:
    """A number in a program."""
    return f"INT64_C({value})" if bits == 64 and abs(value) >= 2**31 else str(value)


def count(variable: str, end: int) -> str:
    """The head of a loop over 0 … end − 1."""
    return f"for (int32_t {variable} = 0; {variable} < {end}; {variable}++)"


def said(text: str) -> str:
    """What an ONNX file calls something, harmless in a comment."""
    return re.sub(r"[^\w ./:,()^+\[\]-]", "_", text, flags=re.ASCII)


def identifier(text: str, taken: set[str]) -> str:
    """A C identifier like `text` that is not in `taken`, which then has it."""
    plain = re.sub(r"[\W_]+", "_", text, flags=re.ASCII).strip("_").lower()[:40] or "layer"
    plain = f"n{plain}" if plain[0].isdigit() else plain
    unique, number = plain, 1
    while unique in KEYWORDS or not taken.isdisjoint({unique, *(f"{unique}_{part}" for part in PARTS)}):
        number += 1
        unique = f"{plain}_{number}"
    taken |= {unique, *(f"{unique}_{part}" for part in PARTS)}
    return unique


@dataclass(frozen=True)
class Table:
    """A constant array; `bits` of an element, 4 are two of them in a byte, the first in its lower half."""

    name: str
    values: Tensor
    bits: int

    @property
    def bytes(self) -> int:
        """What it takes in flash."""
        return (self.values.numel() * self.bits + 7) // 8

    def __str__(self) -> str:
        numbers = self.values.flatten().tolist()
        if self.bits == 4:
            halves = [n + 8 for n in numbers] + [0] * (len(numbers) % 2)
            numbers = [low + 16 * high for low, high in zip(halves[::2], halves[1::2], strict=True)]
        listed = ", ".join(literal(n, self.bits) for n in numbers)
        body = "\n".join(wrap(listed, 104, initial_indent="    ", subsequent_indent="    "))
        type = "uint8_t" if self.bits == 4 else kind(self.bits)
        return f"static const {type} {self.name}[{len(numbers)}] = {{\n{body}\n}};\n"


def fitting(values: Tensor) -> int:
    """The bits of the smallest type that holds these values."""
    largest = int(values.abs().max()) if values.numel() else 0
    return next(bits for bits in (8, 16, 32, 64) if largest < 2 ** (bits - 1))


def spread(shape: tuple[int, ...], *tensors: Tensor) -> tuple[int, int, int, list[Tensor]]:
    """(outer, n, inner, values): how values broadcast to `shape`, element i has values[(i / inner) % n]."""
    full = [t.reshape([1] * (len(shape) - t.dim()) + list(t.shape)) for t in tensors]
    full = [t.expand(shape) for t in full]
    varying = [
        d
        for d in range(len(shape))
        if shape[d] > 1 and any(not torch.equal(t, t.narrow(d, 0, 1).expand_as(t)) for t in full)
    ]
    size = full[0].numel()
    if not varying:
        return 1, 1, size, [t.flatten()[:1] for t in full]
    if len(varying) > 1:
        return 1, size, 1, [t.flatten() for t in full]
    (d,) = varying
    inner = 1
    for length in shape[d + 1 :]:
        inner *= length
    rows = [t.movedim(d, 0).reshape(shape[d], -1)[:, 0] for t in full]
    return size // (shape[d] * inner), shape[d], inner, rows
