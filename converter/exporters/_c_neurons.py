"""A layer of neurons in C: at every step, or once in a window."""

from __future__ import annotations

import torch
from torch import Tensor

from converter.exporters._bounds import Bound, width
from converter.exporters._c_layer import Layer, shifted
from converter.exporters._c_text import count, kind, spread
from converter.neurons import Neuron
from converter.program import Instruction, counted
from converter.units import payload_unit


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


def once(layer: Layer, given: Bound) -> None:
    """The first step of a window whose threshold the membrane reaches; what a spike is worth there.

    Thresholds fall alike in all channels, in proportion to their scales: one row of the window is for all of
    them, where products of it with whole scales are to the last unit what each channel's own row would be.
    """
    t, c, window = layer.instruction.tensors, layer.code, layer.instruction.settings["window"]
    scale = scales_of(layer.instruction)
    _, n, inner, (m, *rows) = spread(layer.shape, scale, *t["threshold"], *t["worth"])
    thresholds, worths = torch.stack(rows[:window], 1), torch.stack(rows[window:], 1)
    falling = shared(m, thresholds, 2, 2**62) if n > 1 else None
    falling = None if falling and given.largest << falling[1] >= 2**62 else falling
    carried = shared(m, worths, 1, 2**30) if n > 1 else None
    with c.block(layer.head("v")), c.block(count("i", layer.size)):
        c(f"const int32_t c = {f'i / {inner} % {n}' if n > 1 else '0'};", "int32_t k = 0;")
        if falling or carried:
            held = layer.table("scale", m)
            c(f"const int32_t m = {held}[c];")
        if falling:
            row, bits = falling
            table = layer.table("threshold", row)
            c(f"const int64_t u = {shifted('v[i]', bits, 64)};", "")
            c(f"while (k < {window} && u < (int64_t)m * {table}[k])", "    k++;")
        else:
            table = layer.table("threshold", thresholds)
            c("", f"while (k < {window} && v[i] < {table}[c * {window} + k])", "    k++;")
        if carried:
            row, bits = carried
            table = layer.table("worth", row)
            half = f" + {1 << (bits - 1)}) >> {bits}" if bits else ")"
            worth = f"({kind(layer.bits)})((m * {table}[k]{half})"
        else:
            worth = f"{layer.table('worth', worths)}[c * {window} + k]"
        c(f"y[i] = k < {window} ? {worth} : 0;", f"SPIKE({layer.index}, i, y[i]);")


def scales_of(instruction: Instruction) -> Tensor:
    """The scales of a layer of first spikes as whole numbers."""
    neuron = instruction.op
    assert isinstance(neuron, Neuron)
    return counted(neuron.calibrated(), payload_unit(neuron))


def shared(scale: Tensor, rows: Tensor, lower: int, most: int) -> tuple[Tensor, int] | None:
    """(row, bits): rows[c, k] is scale[c] · row[k] / 2^bits, rounded up (`lower` 2) or to the nearest (1).

    Each row[k] lies where all channels allow it, for the fewest bits at which there is such a place; products
    stay below `most`. None where there is none.
    """
    m = scale[:, None]
    if int(rows.max()) >> 36:
        return None  # its products with 2^24 would not fit 62 bits
    for bits in range(24):
        # rows − lower / 2 < m · row / 2^bits ≤ rows + 1 − lower / 2; to the nearest, the other end counts
        low, high = (
            (((2 * rows + ends - lower) << bits) - (2 - lower)).div(2 * m, rounding_mode="floor")
            for ends in (0, 2)
        )
        low = low + 1
        row = low.amax(0)
        if bool((row <= high.amin(0)).all()) and int(row.max()) * int(m.max()) < most:
            return row, bits
    return None
