"""`export`: what does a step of the exported ONNX cost in onnxruntime, and does it fire the same spikes?

    python -m benchmarks export digits resnet20

The step model is run as it would be elsewhere, states out and in; the time is that of a step of a whole
batch (of the processor, so that what else runs counts little), the fastest run of three, beside that of the
network in memory. Spikes are compared twice: at each step
from the same states, and along a run of which onnxruntime keeps the states itself, so that a spike that
rounding has moved counts with all that follows from it. The loop model's answers, after each step of a run of
its own, are compared too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import torch

from benchmarks._common import environment, markdown, write_result
from benchmarks.dense import DENSE
from benchmarks.presets import PRESETS
from calibrators.percentile import Percentile
from converter.data import Source
from converter.exporters import onnx_loop
from converter.exporters._check import Order
from converter.exporters._onnx_run import Arrays, check_loop, session, steps
from converter.exports import export
from converter.graph import Graph, Node
from converter.pipeline import Settings, convert
from converter.rate import RateModel
from converter.spiking import State

TIMESTEPS, RUNS = 32, 3
FORMATS = ("float32", "exact15", "int8")
NETWORKS = (*PRESETS, "fastestdet")


def fastest(run: Callable[[], object]) -> float:
    """Seconds of the processor, after one run that does not count."""
    run()
    found = []
    for _ in range(RUNS):
        start = process_time()
        run()
        found.append(process_time() - start)
    return min(found)


def file_and_data(name: str) -> tuple[Path, Callable[[Graph], Source]]:
    """A network, and its data for a graph."""
    if name in PRESETS:
        return PRESETS[name].model, PRESETS[name].source
    return DENSE[name].path(), lambda graph: DENSE[name].source(graph, 8)


def drifted(model: RateModel, x: torch.Tensor, told: Callable[[], Any]) -> int:
    """Spikes that differ along a run in which each of the two has its own states."""
    heard: dict[str, torch.Tensor] = {}
    state, differing = State(), 0

    def listen(node: Node, value: torch.Tensor) -> None:
        heard[node.name] = value

    with torch.inference_mode():
        for made, currents in zip(told(), model.each_step((x,)), strict=False):
            _, state = model.advance(currents, state, listen)
            for node in model.neurons:
                differing += int((torch.from_numpy(made[node.name]) != heard[node.name]).sum())
    return differing


def row(name: str, weights: str, images: int, folder: Path) -> dict[str, Any]:
    """One network: spikes that differ, and milliseconds a step in either."""
    file, data = file_and_data(name)
    settings = Settings(
        timesteps=(TIMESTEPS,), samples=1, calibration_samples=32, batch_size=4, weights=weights, device="cpu"
    )
    made = convert(file, data, [("percentile", Percentile(99.9))], settings)
    model, source = made.model, data(made.ann)
    assert isinstance(model, RateModel)
    images = model.graph.batch or images
    x, _ = next(source.batches(range(images), images))
    path = folder / f"{name}-{weights}.onnx"
    check = export(model, Order(TIMESTEPS), "onnx", path, (x,))
    assert check is not None
    loop = path.with_suffix(".loop")
    onnx_loop.write(model, Order(TIMESTEPS), loop)
    runner, frame = session(path), {model.graph.inputs[0].name: x.numpy()}

    def told() -> Any:
        return steps(runner, repeat(frame), images, TIMESTEPS)

    def there() -> Arrays:
        *_, last = told()
        return dict(last)

    with torch.inference_mode():
        here = fastest(lambda: model(x, TIMESTEPS))
    return {
        "network": name,
        "weights": weights,
        "images": images,
        "spikes": check.spikes,
        "differing": check.differing,
        "drifted": drifted(model, x, told),
        "difference": check.difference,
        "loop_difference": check_loop(loop, model, (x,), TIMESTEPS).difference,
        "onnxruntime_ms": 1000 * fastest(there) / TIMESTEPS,
        "engine_ms": 1000 * here / TIMESTEPS,
        "bytes": path.stat().st_size,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A network and a format a line."""
    head = (
        "network|weights|images|values compared|differ, from the same states|differ, along a run"
        "|loop: answers differ by|ms a step in onnxruntime|ms a step here|file, kB"
    )

    def line(r: dict[str, Any]) -> list[object]:
        figures = f"{r['onnxruntime_ms']:.2f}", f"{r['engine_ms']:.2f}", f"{r['bytes'] / 1000:,.0f}"
        counts = (f"{r[key]:,}" for key in ("spikes", "differing", "drifted"))
        apart = f"{r['loop_difference']:.1e}"
        return [r["network"], r["weights"], r["images"], *counts, apart, *figures]

    return markdown(head, map(line, rows))


def main(arguments: Sequence[str]) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks export", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("networks", nargs="+", choices=NETWORKS)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--formats", nargs="+", default=FORMATS, metavar="FORMAT", help="of the weights")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for name in asked.networks:
            for weights in asked.formats:
                rows.append(row(name, weights, asked.images, Path(folder)))
                print(rows[-1], file=sys.stderr, flush=True)
                facts = {"timesteps": TIMESTEPS, "rows": rows, **environment(1)}
                write_result("-".join(["export", *asked.networks]), ["export", *arguments], facts)
    print(table(rows))
    return 0
