"""`export`: what does a step of the exported ONNX cost in onnxruntime, and does it fire the same spikes?

    python -m benchmarks export digits resnet20

The step model is run as it would be elsewhere, states out and in; the time is that of a step of a whole
batch, the fastest run of three, beside that of the network in memory. Spikes are compared step by step, from
the same states.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

from benchmarks._common import environment, markdown, write_result
from benchmarks.presets import PRESETS, Preset
from calibrators.percentile import Percentile
from converter.exporters._check import Order
from converter.exporters._onnx_run import session, steps
from converter.exports import export
from converter.pipeline import Settings, convert
from converter.rate import RateModel

TIMESTEPS, RUNS = 32, 3


def fastest(run: Callable[[], object]) -> float:
    """Seconds, after one run that does not count."""
    run()
    found = []
    for _ in range(RUNS):
        start = perf_counter()
        run()
        found.append(perf_counter() - start)
    return min(found)


def row(name: str, preset: Preset, images: int, folder: Path) -> dict[str, Any]:
    """One network: spikes that differ, and milliseconds a step in either."""
    settings = Settings(timesteps=(TIMESTEPS,), samples=images, calibration_samples=32)
    made = convert(preset.model, preset.source, [("percentile", Percentile(99.9))], settings)
    model, source = made.model, preset.source(made.ann)
    assert isinstance(model, RateModel)
    x, _ = next(source.batches(range(images), images))
    path = folder / f"{name}.onnx"
    check = export(model, Order(TIMESTEPS), "onnx", path, (x,))
    assert check is not None
    runner, frame = session(path), {model.graph.inputs[0].name: x.numpy()}

    def there() -> None:
        for _ in steps(runner, repeat(frame), images, TIMESTEPS):
            pass

    with torch.inference_mode():
        here = fastest(lambda: model(x, TIMESTEPS))
    return {
        "network": name,
        "images": images,
        "spikes": check.spikes,
        "differing": check.differing,
        "difference": check.difference,
        "onnxruntime_ms": 1000 * fastest(there) / TIMESTEPS,
        "engine_ms": 1000 * here / TIMESTEPS,
        "bytes": path.stat().st_size,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A network a line."""
    head = "network|images|spikes compared|differ|ms a step in onnxruntime|ms a step here"

    def line(r: dict[str, Any]) -> list[object]:
        times = [f"{r['onnxruntime_ms']:.2f}", f"{r['engine_ms']:.2f}"]
        return [r["network"], r["images"], r["spikes"], r["differing"], *times]

    return markdown(head, map(line, rows))


def main(arguments: Sequence[str]) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks export", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("networks", nargs="+", choices=PRESETS)
    parser.add_argument("--images", type=int, default=4)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    with TemporaryDirectory() as folder:
        for name in asked.networks:
            rows.append(row(name, PRESETS[name], asked.images, Path(folder)))
            print(rows[-1], file=sys.stderr, flush=True)
    write_result("export", ["export", *arguments], {"timesteps": TIMESTEPS, "rows": rows, **environment(1)})
    print(table(rows))
    return 0
