"""Reads and runs a network of `ann2snn export --to compact` with NumPy alone: the reference of the format.

    python read_compact.py NETWORK.snnc images.npy [steps]

prints the class of each image. The format is described in docs/compact.md. This file stands for itself: copy
it where it is needed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

Array = Any
"""Whole numbers of NumPy."""
Arrays = dict[str, Array]
Layer = dict[str, Any]
State = dict[str, tuple[Any, Any]]


def load(path: Any) -> tuple[Layer, Arrays]:
    """(header, arrays) of a file: safetensors, with the program as JSON in its metadata."""
    with open(path, "rb") as file:
        data = file.read()
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    header = json.loads(entries.pop("__metadata__")["ann2snn"])
    if header["format"] != 1:
        raise ValueError(f"format {header['format']} is not read")
    kinds = {"U8": "<u1", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
    arrays = {}
    for name, entry in entries.items():
        first, last = (8 + length + place for place in entry["data_offsets"])
        arrays[name] = np.frombuffer(data[first:last], kinds[entry["dtype"]]).reshape(entry["shape"])
    return header, arrays


def codes(packed: Array, bits: int, shape: list[int]) -> Array:
    """Whole numbers of a few bits, the lowest bit first; 2^(bits − 1) is added to each."""
    count = int(np.prod(shape))
    flat = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    return (flat.astype(np.int64) @ (1 << np.arange(bits)) - (1 << (bits - 1))).reshape(shape)


def weights(layer: Layer, arrays: Arrays) -> Array:
    """The numbers that codes stand for, [groups, inputs, taps, outputs]."""
    code = codes(arrays[layer["codes"]], layer["bits"], layer["shape_of_codes"])
    table = np.array(layer.get("table", []), dtype=np.int64)
    if not len(table):
        return code
    groups, _, _, outputs = code.shape
    start = arrays[layer["start"]].astype(np.int64).reshape(groups, 1, 1, outputs)
    q = np.where(code, start + 1 - np.abs(code), 0)
    return np.sign(code) * (table[q % len(table)] << (q // len(table)))


def taps(axes: Any, transposed: bool = False) -> Iterator[tuple[int, list[Array]]]:
    """For each tap of a window: (its number, by axis the input of each output; past the end: none)."""
    for number, tap in enumerate(product(*(range(axis[2]) for axis in axes))):
        places = []
        for k, (inputs, outputs, _, stride, padding, dilation) in zip(tap, axes, strict=True):
            o = np.arange(outputs)
            if transposed:
                at = o + padding - k * dilation
                i = np.where(at % stride == 0, at // stride, -1)
            else:
                i = o * stride + k * dilation - padding
            places.append(np.where((i >= 0) & (i < inputs), i, inputs))
        yield number, places


def windows(x: Array, axes: Any, filled: int) -> Iterator[tuple[int, Array]]:
    """`x` [planes, …] at every tap, [planes, …]; what lies outside is `filled`."""
    x = np.pad(x, [(0, 0)] + [(0, 1)] * len(axes), constant_values=filled)
    for number, places in (axes and taps(axes)) or [(0, [])]:
        yield number, x[(slice(None), *np.ix_(*places))] if places else x


def weigh(layer: Layer, arrays: Arrays, x: Array) -> Array:
    """The weighted sum of every output, times its scale, and bias."""
    rows, axes = layer["rows"], layer["axes"]
    w = weights(layer, arrays)
    groups, inputs, _, outputs = w.shape
    x = x.reshape(rows, groups * inputs, *(axis[0] for axis in axes))
    x = np.pad(x, [(0, 0), (0, 0)] + [(0, 1)] * len(axes))
    ends = [axis[1] for axis in axes]
    y = np.zeros((rows, groups, outputs, *ends), np.int64)
    for number, places in taps(axes, layer["transposed"]):
        seen = x[(slice(None), slice(None), *np.ix_(*places))] if places else x
        seen = seen.reshape(rows, groups, inputs, *ends)
        y += np.einsum("rgi...,gio->rgo...", seen, w[:, :, number])
    y = y.reshape(rows, groups * outputs, -1)
    y = y * arrays[layer["scale"]].astype(np.int64)[:, None]
    if "bias" in layer:
        y = y + arrays[layer["bias"]].astype(np.int64)[:, None]
    return y


def pool(layer: Layer, x: Array) -> Array:
    """The sum or the largest of each window."""
    axes = layer["axes"]
    x = x.reshape(layer["planes"], *(axis[0] for axis in axes))
    largest = layer["kind"] == "max"
    seen = [y for _, y in windows(x, axes, np.iinfo(np.int64).min if largest else 0)]
    return np.max(seen, axis=0) if largest else np.sum(seen, axis=0)


def fire(layer: Layer, arrays: Arrays, state: State, z: Array) -> Array:
    """Charge, count, subtract; what the spikes are worth."""
    threshold = arrays[layer["threshold"]].astype(np.int64)
    first = np.broadcast_to(arrays[layer["initial"]].astype(np.int64), z.shape)
    membrane, net = state.get(layer["name"], (first, np.zeros_like(z)))
    membrane = membrane + (z << layer["shifts"][0])
    most = layer.get("levels", 1)
    if layer["neuron"] == "integrate-fire":
        count = (membrane >= threshold).astype(np.int64)
    elif layer["neuron"] == "signed":
        count = (membrane >= threshold).astype(np.int64) - ((membrane < 0) & (net > 0))
    else:
        least = -np.minimum(net, most) if layer["neuron"] == "multi-level" else 0
        count = np.maximum(np.minimum(membrane // threshold, most), least)
    left = membrane - count * threshold
    if layer.get("reset") == "hard":
        left = np.where(membrane >= threshold, 0, membrane)
    state[layer["name"]] = left, net + count
    return count * arrays[layer["worth"]].astype(np.int64)


def once(layer: Layer, arrays: Arrays, membrane: Array) -> Array:
    """What the one spike of a window is worth: of the first step whose threshold the membrane reaches."""
    thresholds, worth = arrays[layer["threshold"]], arrays[layer["worth"]].astype(np.int64)
    y = np.zeros_like(membrane)
    for step in reversed(range(layer["window"])):
        y = np.where(membrane >= thresholds[step], worth[step], y)
    return y


def compute(layer: Layer, arrays: Arrays, state: State, given: list[Array]) -> Array:
    """What a layer makes of whole numbers."""
    kind = layer["kind"]
    if kind == "weigh":
        y = weigh(layer, arrays, given[0])
    elif kind == "fire":
        y = fire(layer, arrays, state, given[0])
    elif kind == "once":
        y = once(layer, arrays, given[0])
    elif kind in ("sum", "max"):
        if kind == "max" and not layer["static"]:
            total, before = state.get(layer["name"], (0, 0))
            largest = pool(layer, total + given[0])
            state[layer["name"]] = total + given[0], largest
            y = largest - before
        else:
            y = pool(layer, given[0])
    elif kind == "add":
        y = sum(x << by for x, by in zip(given, layer["shifts"], strict=True))
    elif kind == "round":
        y = (given[0] + (1 << (layer["shifts"][0] - 1))) >> layer["shifts"][0]
    elif kind == "shift":
        y = (given[0] << layer["shifts"][0]) + arrays[layer["bias"]].astype(np.int64)
    else:
        by = layer["shifts"] or [0] * len(given)
        y = np.concatenate([[0], *((x << n).reshape(-1) for x, n in zip(given, by, strict=True))])
        y = y[arrays[layer["places"]]] if "places" in layer else y[1:]
    return y.reshape(layer["shape"])


def run(header: Layer, arrays: Arrays, image: Any, steps: int) -> Iterator[tuple[Array, dict[str, Array]]]:
    """After each step: (the answer summed so far, int64; by layer what it gave), of one image of floats."""
    state: State = {}
    static: dict[str, Array] = {}
    total: Any = 0
    for layer in header["layers"]:
        if layer["kind"] == "input":
            counted = np.floor(np.asarray(image, np.float64) * 2.0 ** -layer["exponent"] + 0.5)
            static[layer["name"]] = counted.astype(np.int64).reshape(layer["shape"])
        elif layer["static"]:
            static[layer["name"]] = compute(layer, arrays, state, [static[i] for i in layer["inputs"]])
    for time in range(1, steps + 1):
        values = dict(static)
        for layer in header["layers"]:
            if not layer["static"]:
                given = [values[i] for i in layer["inputs"]]
                values[layer["name"]] = compute(layer, arrays, state, given)
        now = values[header["readout"]]
        total = total + now if time > header["delay"] + 1 else now
        yield total, values


if __name__ == "__main__":
    HEADER, ARRAYS = load(sys.argv[1])
    STEPS = int(sys.argv[3]) if len(sys.argv) > 3 else HEADER["timesteps"]
    for IMAGE in np.load(sys.argv[2]):
        *_, (SUMS, _ALL) = run(HEADER, ARRAYS, IMAGE, STEPS)
        print(int(SUMS.reshape(-1).argmax()))
