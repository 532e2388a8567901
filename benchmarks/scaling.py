"""`scaling`: how do time and memory grow with steps, samples and layers?

    python -m benchmarks scaling
    python -m benchmarks scaling --processes resnet20       two processes against one: see `processes`

A chain of 3x3 convolutions of 16 channels on 16x16 values, each with its neurons. Time is the smallest of
several runs, in processor time, on a GPU by the clock; a straight line is fitted to it, and R² says how
straight it is. Memory is the peak of the process, or of the GPU, above what was held before the run, at
T = 8 and T = 256.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from benchmarks import processes
from benchmarks._common import environment, markdown, spent, write_result
from benchmarks.importing import reset_peak, resident
from converter.graph import BATCH, Graph, Input, Node
from converter.neurons.integrate_fire import IntegrateFire
from converter.ops import Conv
from converter.rate import RateModel

STEPS, SAMPLES, LAYERS = (8, 16, 32, 64, 128, 256), (32, 64, 128, 256, 512), (2, 4, 8, 16, 32)
MEMORY = (8, 256)


def chain(layers: int, channels: int = 16, size: int = 16) -> Graph:
    """So many layers of a convolution and its neurons."""
    draw = torch.Generator().manual_seed(0)
    node = first = Node(Input(), (), "x", (BATCH, channels, size, size))
    for layer in range(layers):
        weight = torch.randn(channels, channels, 3, 3, generator=draw) / 8
        node = Node.of(Conv(weight, None, (1, 1), (1, 1), (1, 1)), node, name=f"c{layer}")
        node = Node.of(IntegrateFire(torch.tensor(1.0)), node, name=f"r{layer}")
    return Graph((first,), (node,))


@torch.no_grad()
def seconds(layers: int, samples: int, steps: int, repeats: int = 3, device: str = "cpu") -> float:
    """Time of one run as `spent` has it, the smallest of some."""
    model, x = RateModel(chain(layers)).to(device), torch.rand(samples, 16, 16, 16).to(device)
    found = []
    for _ in range(repeats):
        start = spent(device)
        model(x, steps, at=(steps,))
        found.append(spent(device) - start)
    return min(found)


@torch.no_grad()
def peak(steps: int, samples: int = 1024) -> float:
    """Bytes at the peak of a run above what was held before it; memory comes in pages of up to 2 MiB."""
    torch.set_num_threads(1)
    model, x = RateModel(chain(2)), torch.rand(samples, 16, 16, 16)
    reset_peak()
    before = resident()
    model(x, steps, at=(steps,))
    return resident("VmHWM") - before


def peak_anew(steps: int, device: str = "cpu") -> float:
    """The same in a fresh process each time, where nothing has made room before; the smallest of nine."""
    if torch.device(device).type != "cpu":
        return peak_on_gpu(steps, device)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as process:
        return min(process.map(peak, [steps] * 9))


@torch.no_grad()
def peak_on_gpu(steps: int, device: str, samples: int = 1024) -> float:
    """Bytes of a GPU's memory at the peak of a run above what was held before it."""
    model, x = RateModel(chain(2)).to(device), torch.rand(samples, 16, 16, 16).to(device)
    model(x, steps, at=(steps,))  # what is compiled is compiled here
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    model(x, steps, at=(steps,))
    return torch.cuda.max_memory_allocated(device) - before


def line(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """The straight line through these points with the least squares, and the share of y it explains (R²)."""
    slope, offset = np.polyfit(np.asarray(x, float), np.asarray(y, float), 1)
    left = np.asarray(y) - (slope * np.asarray(x) + offset)
    return {"slope": float(slope), "offset": float(offset), "r2": float(1 - left.var() / np.var(y))}


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, keep `scaling.json`, or `processes.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling", description=__doc__)
    parser.add_argument("--processes", nargs="+", metavar="NETWORK", help="two processes against one instead")
    parser.add_argument("-T", "--timesteps", type=int, default=32, help="of --processes")
    parser.add_argument("--rounds", type=int, default=3, help="of --processes")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="not of --processes")
    parser.add_argument("--keep", metavar="NAME", default="scaling", help="the JSON's name")
    given = parser.parse_args(arguments)
    if given.processes:
        rows = [processes.compare(name, given.timesteps, given.rounds) for name in given.processes]
        print(processes.table(rows))
        write_result("processes", ["scaling", *arguments], {**environment(1), "rows": rows})
        return 0
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    took = partial(seconds, device=given.device)
    runs = {
        "steps": (STEPS, [took(8, 64, t) for t in STEPS]),
        "samples": (SAMPLES, [took(8, n, 16) for n in SAMPLES]),
        "layers": (LAYERS, [took(n, 64, 32) for n in LAYERS]),
    }
    for name, (at, cost) in runs.items():
        found[name] = {"at": at, "seconds": cost, **line(at, cost)}
    found["memory"] = {"steps": MEMORY, "bytes": [peak_anew(t, given.device) for t in MEMORY]}
    print(table(found), file=sys.stderr)
    write_result(given.keep, ["scaling", *arguments], {**environment(1), **found, "device": given.device})
    return 0


def table(found: dict[str, Any]) -> str:
    """What grows with what, and how straight."""
    rows: list[list[object]] = []
    for name in ("steps", "samples", "layers"):
        at, cost, straight = found[name]["at"], found[name]["seconds"], found[name]["r2"]
        rows.append([name, f"{at[0]} to {at[-1]}", f"{cost[0]:.3f} to {cost[-1]:.3f} s", f"{straight:.4f}"])
    (few, many), held = found["memory"]["steps"], [f"{b / 2**20:.1f}" for b in found["memory"]["bytes"]]
    rows.append(["peak memory", f"T = {few} and {many}", f"{' and '.join(held)} MiB", ""])
    return markdown("what grows|from … to|cost|R²", rows)
