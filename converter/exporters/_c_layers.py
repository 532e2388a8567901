"""Each instruction of an integer program as a C function: from the values it reads to those it gives.

Synapses go from spike to spike: what is silent costs one comparison, and a spike is added to every output
that it reaches, from weights that lie one after the other. Codes that are exponents are shifted and added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from converter.exporters._bounds import Bound, width
from converter.exporters._c_text import Code, Table, count, fitting, kind, literal, said, spread
from converter.exporters._whole import gathered, one, scales, synapse, windows
from converter.ops import Conv
from converter.program import Instruction
from converter.weights import parse

SMALL = 4
"""Codes of so many bits are stored two in a byte."""


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


def written(layer: Layer, bound: Bound, given: Sequence[Bound], shapes: Sequence[tuple[int, ...]]) -> None:
    """Write the function of `layer`; `shapes` are those of its inputs. Raises `Refusal`."""
    match layer.instruction.kind:
        case "input":
            return
        case "weigh":
            weigh(layer, shapes[0])
        case "fire":
            fire(layer, bound)
        case "once":
            once(layer)
        case "sum" | "max":
            pool(layer, bound, shapes[0])
        case "add":
            add(layer, shapes)
        case "shift":
            shift(layer)
        case _:
            move(layer, shapes)


def shifted(value: str, by: int, bits: int) -> str:
    """`value` times 2^by in a type of `bits`, whatever its sign."""
    cast = value if bits <= 32 else f"({kind(bits)}){value}"
    return f"{cast} * {literal(1 << by, bits)}" if by else cast


def weigh(layer: Layer, given: tuple[int, ...]) -> None:
    """Every spike to every output that it reaches; then scale and bias of each channel."""
    op, t, c = layer.instruction.op, layer.instruction.tensors, layer.code
    number, format = kind(layer.bits), parse(layer.instruction.settings["format"])
    assert format is not None
    rows, groups, axes, codes = synapse(layer.instruction, given)
    channels, outputs = groups * codes.shape[1], codes.shape[-1]
    positions = prod(a[1] for a in axes)
    small = format.bits <= SMALL
    held = layer.table("codes", codes.contiguous(), 4 if small else 8 if format.bits <= 8 else 16)
    exponents = bool(format.table)
    where = "o" if groups == 1 else f"g * {outputs} + o"
    with c.block(layer.head("x")):
        c(f"{number} *row = y;", "", f"for (int32_t i = 0; i < {layer.size}; i++)", "    y[i] = 0;")
        heads = [f"for (int32_t r = 0; r < {rows}; r++, row += {layer.size // rows})"] if rows > 1 else []
        heads += [count("c", channels), *(count(f"i{d}", a[0]) for d, a in enumerate(axes))]
        with c.loops(heads):
            c(f"const {number} v = *x++;")
            if groups > 1:
                c(f"const int32_t g = c / {channels // groups};")
            if exponents:
                c(*(f"const {number} v{n} = v * {entry};" for n, entry in enumerate(format.table)))
            c("", "if (v == 0)", "    continue;")
            with c.loops([count(f"k{d}", a[2]) for d, a in enumerate(axes)]):
                at: list[str] = []
                place, first = "c", "0"
                for d, (begin, end, size, stride, padding, dilation) in enumerate(axes):
                    place, first = f"({place} * {size} + k{d})", f"({first} * {end} + o{d})"
                    tap = f"k{d}" if dilation == 1 else f"k{d} * {dilation}"
                    if isinstance(op, Conv):
                        c(f"const int32_t t{d} = i{d} + {padding} - {tap};")
                        c(f"const int32_t o{d} = t{d}{f' / {stride}' if stride > 1 else ''};")
                        at += [f"t{d} < 0"] * (padding < (size - 1) * dilation)
                        at += [f"o{d} >= {end}"] * (begin - 1 + padding >= end * stride)
                        at += [f"t{d} % {stride} != 0"] * (stride > 1)
                    else:
                        c(f"const int32_t o{d} = i{d} * {stride} + {tap} - {padding};")
                        at += [f"o{d} < 0"] * (padding > 0)
                        at += [f"o{d} >= {end}"] * (
                            (begin - 1) * stride + (size - 1) * dilation - padding >= end
                        )
                if at:
                    c("", f"if ({' || '.join(at)})", "    continue;")
                first = first.replace("(0 * " + str(axes[0][1]) + " + o0)", "o0") if axes else "0"
                group = f"g * {outputs * positions}" if groups > 1 else ""
                to = " + ".join(filter(None, ["row", group, first if first != "0" else ""]))
                c(f"{number} *const to = {to};")
                if small:
                    c(f"const int32_t w = {place} * {outputs};")
                else:
                    c(f"const int8_t *const w = {held} + {place} * {outputs};")
                to = "to[o]" if positions == 1 else f"to[o * {positions}]"
                code = f"code4({held}, w + o)" if small else "w[o]"
                if not exponents:
                    c(f"for (int32_t o = 0; o < {outputs}; o++)", f"    {to} += {code} * v;")
                else:
                    start = layer.each("start", t["start"], where)
                    with c.block(count("o", outputs)):
                        c(f"const int32_t code = {code};")
                        c(f"const int32_t q = {start} + 1 - (code < 0 ? -code : code);")
                        n = len(format.table)
                        value = "v0" if n == 1 else "(q & 1 ? v1 : v0)"
                        power = f"(({number})1 << {'q' if n == 1 else '(q >> 1)'})"
                        c("", "if (code > 0)", f"    {to} += {value} * {power};")
                        c("else if (code < 0)", f"    {to} -= {value} * {power};")
        _scaled(layer, rows, positions)


def _scaled(layer: Layer, rows: int, positions: int) -> None:
    """y ← y · factor · 2^shift + bias, channel by channel."""
    t, c, scale = layer.instruction.tensors, layer.code, scales(layer.instruction)
    if bool((scale == 1).all()) and "bias" not in t:
        return
    value = f"*y * {layer.each('scale', scale, 'o', layer.bits)}" if bool((scale != 1).any()) else "*y"
    if "bias" in t:
        value += f" + {layer.each('bias', t['bias'], 'o', layer.bits)}"
    heads = [count("r", rows)] if rows > 1 else []
    heads += [count("o", len(scale)), f"for (int32_t p = 0; p < {positions}; p++, y++)"]
    with c.loops(heads):
        c(f"*y = {value};")


def fire(layer: Layer, bound: Bound) -> None:
    """Charge, count, subtract; what its spikes are worth."""
    t, settings, c = layer.instruction.tensors, layer.instruction.settings, layer.code
    bits = width(bound.held(layer.steps), 32)
    number, neuron = kind(bits), settings["neuron"]
    levels = settings.get("levels", 1)
    outer, n, inner, (threshold, worth) = spread(layer.shape, t["threshold"], t["worth"])
    membrane = layer.keep("membrane", bits, layer.size, t["initial"])
    counts = neuron in ("signed", "multi-level")
    net = layer.keep("net", width(levels * layer.steps, 16), layer.size) if counts else ""
    with c.block(layer.head("z")):
        c("int32_t i = 0;", "")
        with c.loops([count("r", outer)] * (outer > 1) + [count("c", n)] * (n > 1)):
            at = layer.each("threshold", threshold, "c", bits)
            carries = layer.each("worth", worth, "c")
            c(f"const {number} threshold = {at};", "")
            with c.block(f"for (int32_t p = 0; p < {inner}; p++, i++)"):
                v = shifted("z[i]", layer.instruction.shifts[0], bits)
                c(f"const {number} v = {membrane}[i] + {v};")
                match neuron:
                    case "integrate-fire":
                        c("const int32_t k = v >= threshold;")
                    case "signed":
                        c(f"const int32_t k = (v >= threshold) - (v < 0 && {net}[i] > 0);")
                    case _:
                        c(f"{number} k = v / threshold;", "")
                        c("if (v < 0 && v % threshold != 0)", "    k--;")
                        c(f"if (k > {levels})", f"    k = {levels};")
                        least = "0"
                        if counts:
                            c(f"const int32_t most = {net}[i] < {levels} ? {net}[i] : {levels};")
                            least = "-most"
                        c(f"if (k < {least})", f"    k = {least};")
                hard = settings.get("reset") == "hard"
                c(f"{membrane}[i] = {'k ? 0 : v' if hard else 'v - k * threshold'};")
                if counts:
                    c(f"{net}[i] = ({kind(layer.held[-1].bits)})({net}[i] + k);")
                c(f"y[i] = ({kind(layer.bits)})(k * {carries});")
                c(f"SPIKE({layer.index}, i, y[i]);")


def once(layer: Layer) -> None:
    """The first step of a window whose threshold the membrane reaches; what a spike is worth there."""
    t, c, window = layer.instruction.tensors, layer.code, layer.instruction.settings["window"]
    _, n, inner, rows = spread(layer.shape, *t["threshold"], *t["worth"])
    threshold = layer.table("threshold", torch.stack(rows[:window], 1))
    worth = layer.table("worth", torch.stack(rows[window:], 1))
    channel = f"i / {inner} % {n} * {window}" if n > 1 else "0"
    with c.block(layer.head("v")), c.block(count("i", layer.size)):
        c(f"const int32_t c = {channel};", "int32_t k = 0;", "")
        c(f"while (k < {window} && v[i] < {threshold}[c + k])", "    k++;")
        c(f"y[i] = k < {window} ? {worth}[c + k] : 0;", f"SPIKE({layer.index}, i, y[i]);")


def pool(layer: Layer, bound: Bound, given: tuple[int, ...]) -> None:
    """The sum of each window; or the largest of the sums so far, less what it was a step before."""
    i, c = layer.instruction, layer.code
    outer, axes = windows(i, given)
    largest, telescoped = i.kind == "max", i.kind == "max" and not i.static
    bits = width(bound.held(layer.steps), 32) if telescoped else layer.bits
    source, size = "x", prod(given)
    if telescoped:
        source = layer.keep("sums", bits, size)
        before = layer.keep("before", bits, layer.size)
    with c.block(layer.head("x")):
        c("int32_t i = 0;", "")
        if telescoped:
            c(f"for (int32_t j = 0; j < {size}; j++)", f"    {source}[j] += x[j];")
        with c.loops([count("c", outer), *(count(f"o{d}", a[1]) for d, a in enumerate(axes))]):
            c(f"{kind(bits)} best = {f'INT{bits}_MIN' if largest else '0'};", "")
            with c.loops([count(f"k{d}", a[2]) for d, a in enumerate(axes)]):
                at: list[str] = []
                place = "c"
                for d, (size, ends, taps, stride, padding, dilation) in enumerate(axes):
                    tap = f"k{d}" if dilation == 1 else f"k{d} * {dilation}"
                    start = f"o{d}" if stride == 1 else f"o{d} * {stride}"
                    c(f"const int32_t t{d} = {start} + {tap}{f' - {padding}' if padding else ''};")
                    place = f"({place} * {size} + t{d})"
                    at += [f"t{d} < 0"] * (padding > 0)
                    last = (ends - 1) * stride + (taps - 1) * dilation - padding
                    at += [f"t{d} >= {size}"] * (last >= size)
                if at:
                    c("", f"if ({' || '.join(at)})", "    continue;")
                value = f"{source}[{place[1:-1]}]"
                if largest:
                    c(f"if ({value} > best)", f"    best = {value};")
                else:
                    c(f"best = ({kind(bits)})(best + {value});")
            if telescoped:
                c(f"y[i] = ({kind(layer.bits)})(best - {before}[i]);", f"{before}[i] = best;")
            else:
                c("y[i] = best;")
            c("i++;")


def _places(layer: Layer, part: str, given: tuple[int, ...]) -> str:
    """Where value i of a sum stands in an input that is broadcast."""
    places = torch.arange(prod(given)).reshape(given).expand(layer.shape).flatten()
    same = torch.equal(places, torch.arange(layer.size))
    return "i" if same else f"{layer.table(part, places)}[i]"


def add(layer: Layer, shapes: Sequence[tuple[int, ...]]) -> None:
    """The sum of values, all in the finest of their units."""
    c, by = layer.code, layer.instruction.shifts
    names = [f"x{n}" for n in range(len(by))]
    terms = [
        shifted(f"x{n}[{_places(layer, f'places{n}', shapes[n])}]", s, layer.bits) for n, s in enumerate(by)
    ]
    with c.block(layer.head(*names)):
        c(f"for (int32_t i = 0; i < {layer.size}; i++)")
        c(f"    y[i] = ({kind(layer.bits)})({' + '.join(terms)});")


def shift(layer: Layer) -> None:
    """The value in a finer unit, and a bias."""
    c, i = layer.code, layer.instruction
    outer, n, inner, (bias,) = spread(layer.shape, i.tensors["bias"])
    value = shifted("*x++", i.shifts[0], layer.bits)
    with (
        c.block(layer.head("x")),
        c.loops([count("r", outer)] * (outer > 1) + [count("c", n)] * (n > 1) + [count("p", inner)]),
    ):
        c(f"*y++ = ({kind(layer.bits)})({value} + {layer.each('bias', bias, 'c', layer.bits)});")


def move(layer: Layer, shapes: Sequence[tuple[int, ...]]) -> None:
    """Values in other places: whole runs of them in loops, else after a table."""
    c, i = layer.code, layer.instruction
    source, place = gathered(i, shapes)
    step = torch.arange(layer.size)
    ends = torch.nonzero((source.diff() != 0) | ((place.diff() != 1) & (source[1:] >= 0))).flatten() + 1
    edges = [0, *ends.tolist(), layer.size]
    by = i.shifts or (0,) * len(shapes)
    layer.same = len(edges) == 2 and int(source[0]) >= 0 and not any(by) and torch.equal(place, step)
    layer.same = layer.same and prod(shapes[int(source[0])]) == layer.size and len(shapes) == 1
    if layer.same:
        return
    names = [f"x{n}" for n in range(len(shapes))]
    cast = f"({kind(layer.bits)})"
    if len(edges) <= 9:
        with c.block(layer.head(*names)):
            for n in set(range(len(names))) - set(source.tolist()):
                c(f"(void)x{n};")
            for start, end in pairwise(edges):
                n, first = int(source[start]), int(place[start])
                value = f"x{n}[{first} + i]" if first else f"x{n}[i]"
                value = "0" if n < 0 else f"{cast}({shifted(value, by[n], layer.bits)})"
                c(f"for (int32_t i = 0; i < {end - start}; i++)")
                c(f"    y[{start} + i] = {value};" if start else f"    y[i] = {value};")
        return
    with c.block(layer.head(*names)):
        which = layer.table("source", source) if len(shapes) > 1 else ""
        where = layer.table("places", torch.where(source < 0, -1, place))
        with c.block(count("i", layer.size)):
            c(f"const int32_t at = {where}[i];", "", "if (at < 0)", "    y[i] = 0;")
            for n, name in enumerate(names):
                head = f"else if ({which}[i] == {n})" if n + 1 < len(names) else "else"
                c(head, f"    y[i] = {cast}({shifted(f'{name}[at]', by[n], layer.bits)});")
