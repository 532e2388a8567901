"""A weighted sum in C.

Synapses go from spike to spike: what is silent costs one comparison, and a spike is added to every output
that it reaches, from weights that lie one after the other. Codes that are exponents are shifted and added.
"""

from __future__ import annotations

from math import prod

from converter.exporters._c_layer import Layer
from converter.exporters._c_text import count, kind
from converter.exporters._whole import scales, synapse
from converter.ops import Conv
from converter.weights import parse

SMALL = 4
"""Codes of so many bits are stored two in a byte."""


def weigh(layer: Layer, given: tuple[int, ...]) -> None:
    """Every spike to every output that it reaches; then scale and bias of each channel."""
    op, t, c = layer.instruction.op, layer.instruction.tensors, layer.code
    number, format = kind(layer.bits), parse(layer.instruction.settings["format"])
    assert format is not None
    rows, groups, axes, codes = synapse(layer.instruction, given)
    channels, outputs = groups * codes.shape[1], codes.shape[-1]
    positions = prod(a[1] for a in axes)
    small = format.bits <= SMALL
    bits = 8 if format.bits <= 8 else 16
    held = layer.table("codes", codes.contiguous(), 4 if small else bits)
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
                    c(f"const {kind(bits)} *const w = {held} + {place} * {outputs};")
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
