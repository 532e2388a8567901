"""The network as data in few bytes: a safetensors file of whole numbers, its program as JSON inside.

Weights are codes of as many bits as their format has (exponents as such), thresholds, biases and scales whole
numbers of as few bytes as hold them; docs/compact.md says what each means, and `read_compact.py` is its
reference reader, in NumPy alone. One image, one answer, the spikes of `converter.integer`.
"""

from __future__ import annotations

import json
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from converter.exporters import read_compact
from converter.exporters._check import Check, Order
from converter.exporters._whole import SPIKES, gathered, length, one, scales, synapse, whole, windows
from converter.integer import IntegerModel
from converter.ops import ConvTranspose
from converter.program import Instruction, Program
from converter.schedules import Model
from converter.weights import parse

FORMAT = 1
Arrays = dict[str, np.ndarray]


def packed(codes: Tensor, bits: int) -> np.ndarray:
    """Codes of so many bits one after the other, the lowest bit first, 2^(bits − 1) added to each."""
    counted = codes.numpy().astype(np.int64).reshape(-1, 1) + (1 << (bits - 1))
    return np.packbits((counted >> np.arange(bits)) & 1, bitorder="little")


def smallest(values: Tensor) -> np.ndarray:
    """Whole numbers in the smallest type that holds them."""
    largest = int(values.abs().max()) if values.numel() else 0
    kind = next(f"int{n}" for n in (8, 16, 32, 64) if largest < 2 ** (n - 1))
    return values.numpy().astype(kind)


def layer(instruction: Instruction, shapes: dict[str, tuple[int, ...]], arrays: Arrays) -> dict[str, Any]:
    """An instruction as JSON; its tensors go to `arrays`."""
    i, t = instruction, instruction.tensors
    made: dict[str, Any] = {"kind": i.kind, "name": i.name, "inputs": list(i.inputs), "exponent": i.exponent}
    made |= {"static": i.static, "shape": list(one(i.shape)), "shifts": list(i.shifts), **i.settings}
    given = [shapes[name] for name in i.inputs if name in shapes]

    def keep(part: str, values: np.ndarray) -> None:
        made[part] = f"{len(arrays)}.{part}"
        arrays[made[part]] = np.ascontiguousarray(values)

    match i.kind:
        case "weigh":
            rows, _, axes, codes = synapse(i, given[0])
            format = parse(i.settings["format"])
            assert format is not None
            made |= {"rows": rows, "axes": axes, "transposed": isinstance(i.op, ConvTranspose)}
            made |= {"bits": format.bits, "shape_of_codes": list(codes.shape)}
            keep("codes", packed(codes, format.bits))
            keep("scale", smallest(scales(i)))
            for part in ("start", "bias"):
                if part in t:
                    keep(part, smallest(t[part]))
        case "fire" | "once" | "shift":
            for part, values in t.items():
                keep(part, smallest(values))
        case "sum" | "max":
            made["planes"], made["axes"] = windows(i, given[0])
        case "move":
            source, place = gathered(i, given)
            starts = torch.tensor([1 + sum(prod(s) for s in given[:n]) for n in range(len(given))])
            places = torch.where(source < 0, 0, place + starts[source])
            if not torch.equal(places, torch.arange(1, 1 + sum(map(prod, given)))):
                keep("places", smallest(places))
    return made


def document(program: Program, order: Order, steps: int, delay: int) -> tuple[dict[str, Any], Arrays]:
    """The header and the arrays of a program."""
    arrays: Arrays = {}
    shapes = {i.name: one(i.shape) for i in program.instructions}
    header: dict[str, Any] = {"format": FORMAT, "name": program.graph.name, "timesteps": steps}
    header |= {"delay": delay, "readout": program.frontier[0]}
    header["preprocessing"] = order.report.get("data", {}).get("preprocessing", {})
    header["layers"] = [layer(i, shapes, arrays) for i in program.instructions]
    return header, arrays


def write(model: Model, order: Order, path: Path) -> None:
    """The file of `document`. Raises `UsageError` or `Unsupported` for what has no whole numbers."""
    program = whole(model, order.timesteps)
    header, arrays = document(program, order, length(model, order.timesteps), model.delay)
    save_file(arrays, path, {"ann2snn": json.dumps(header, separators=(",", ":"))})


def note(path: Path) -> str:
    """What the file takes."""
    header, arrays = read_compact.load(path)
    held = sum(arrays[entry["codes"]].nbytes for entry in header["layers"] if "codes" in entry)
    return f"{path.stat().st_size:,} bytes, {held:,} of them weights"


def check(path: Path, model: Model, x: tuple[Tensor, ...], timesteps: int) -> Check:
    """In the reference reader, against the integer machine, which is the network spike for spike."""
    program, steps = whole(model, timesteps), length(model, timesteps)
    header, arrays = read_compact.load(path)
    heard: dict[str, Tensor] = {}
    told = IntegerModel(program).steps(x[0], listen=heard.__setitem__)
    readers = [read_compact.run(header, arrays, image, steps) for image in x[0].numpy()]
    spikes = wrong = 0
    worst = 0.0
    total: Tensor | int = 0
    (read,) = program.frontier
    for time, _ in enumerate(islice(told, steps), 1):
        total = heard[read] + (total if time > header["delay"] + 1 else 0)
        for row, reader in enumerate(readers):
            sums, values = next(reader)
            for i in program.instructions:
                if i.kind in SPIKES:
                    mine = heard[i.name][row].numpy()
                    spikes += mine.size
                    wrong += int((values[i.name].reshape(-1) != mine.reshape(-1)).sum())
            mine = total[row].numpy().reshape(-1)
            worst = max(worst, float(np.abs(sums.reshape(-1) - mine).max() / max(np.abs(mine).max(), 1)))
    return Check("NumPy against whole numbers", len(x[0]), steps, worst, spikes, wrong, exact=True)
