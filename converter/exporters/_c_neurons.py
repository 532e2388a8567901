"""A layer of neurons in C: at every step, or once in a window."""

from __future__ import annotations

import torch

from converter.exporters._bounds import Bound, width
from converter.exporters._c_layer import Layer, shifted
from converter.exporters._c_text import count, kind, spread


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
