"""Each instruction of an integer program as a C function: from the values it reads to those it gives."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch

from converter.exporters._bounds import Bound, width
from converter.exporters._c_layer import Layer, shifted
from converter.exporters._c_neurons import fire, once
from converter.exporters._c_synapses import weigh
from converter.exporters._c_text import count, kind, literal, spread
from converter.exporters._whole import gathered, windows


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
            once(layer, given[0])
        case "sum" | "max":
            pool(layer, bound, shapes[0])
        case "add":
            add(layer, shapes)
        case "shift":
            shift(layer)
        case "round":
            rounded(layer, given[0])
        case _:
            move(layer, shapes)


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


def rounded(layer: Layer, given: Bound) -> None:
    """The nearest whole number of a coarser unit, from the middle upwards, also of what is negative."""
    c, unit = layer.code, 1 << layer.instruction.shifts[0]
    bits = width(given.largest + unit, 32)
    half, less, whole = (literal(n, bits) for n in (unit // 2, unit - 1, unit))
    with c.block(layer.head("x")), c.block(count("i", layer.size)):
        c(f"const {kind(bits)} v = x[i] + {half};", "")
        c(f"y[i] = ({kind(layer.bits)})(v >= 0 ? v / {whole} : -(({less} - v) / {whole}));")


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
