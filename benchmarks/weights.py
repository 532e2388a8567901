"""`weights`: what do quantised weights cost a network, as an ANN and in spikes?

    python -m benchmarks weights digits
    python -m benchmarks weights resnet20 --formats int8 log2:5

Thresholds are `least-squares` for each T alone, then `bias-correction` on the quantised network; nothing is
trained. The ANN is the network with quantised weights and float activations.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks._common import environment, markdown, write_result
from benchmarks.presets import PRESETS, Preset
from calibrators.bias_correction import BiasCorrection
from calibrators.least_squares import LeastSquares
from converter.config import neuron_for
from converter.data import split
from converter.errors import ConversionError
from converter.graph import Graph
from converter.importer import load
from converter.passes import apply
from converter.pipeline import Calibrate, Settings, convert
from converter.quantise import errors, quantise, weight_bytes
from converter.weights import parse

FORMATS = ("float32", "int8", "int4", "log2:5", "log2:4")
RUNS = (("signed", 16), ("binary", 32))


def right(graph: Graph, preset: Preset, settings: Settings) -> float:
    """The share of the measured samples whose largest output is the label."""
    source = preset.source(graph)
    part = split(source, settings.calibration_samples, settings.samples, settings.seed).measurement
    found = 0
    with torch.inference_mode():
        for x, labels in source.batches(part, graph.batch or settings.batch_size):
            assert labels is not None
            found += int((graph.run(x)[0].reshape(len(x), -1).argmax(1) == labels).sum())
    return found / len(part)


def row(preset: Preset, name: str, seed: int) -> dict[str, Any]:
    """One format: the error of the weights, their memory, the ANN and every run."""
    settings = Settings(seed=seed, samples=preset.samples)
    imported, _ = apply(load(preset.model).verify())
    format = parse(name)
    graph = imported if format is None else quantise(imported, format)
    off = errors(graph, imported)
    runs = []
    for spikes, timesteps in RUNS:
        neuron, _ = neuron_for(spikes)
        asked = Settings(
            neuron=neuron, weights=name, timesteps=(timesteps,), seed=seed, samples=preset.samples
        )
        chain: list[tuple[str, Calibrate]] = [
            ("least-squares", LeastSquares(timesteps)),
            ("bias-correction", BiasCorrection(timesteps)),
        ]
        report = convert(preset.model, preset.source, chain, asked).report
        point = report.curve[-1]
        runs.append(
            {
                "spikes": spikes,
                "timesteps": timesteps,
                "accuracy": point.accuracy,
                "spikes_per_neuron": point.spikes_per_neuron,
                "samples": report.data.samples,
            }
        )
    return {
        "weights": name,
        "footprint": weight_bytes(graph),
        "largest_error": max(off.values(), default=0.0),
        "ann_accuracy": right(graph, preset, settings),
        "runs": runs,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The formats, one a line."""
    head = "weights|kB|largest error|ANN, %"
    head += "".join(f"|{run['spikes']}, T = {run['timesteps']}, %" for run in rows[0]["runs"])

    def line(each: dict[str, Any]) -> list[object]:
        error = f"{100 * each['largest_error']:.1f} %" if each["largest_error"] else "0"
        facts = [
            each["weights"],
            f"{each['footprint'] / 1000:.1f}",
            error,
            f"{100 * each['ann_accuracy']:.2f}",
        ]
        return [*facts, *(f"{100 * run['accuracy']:.2f}" for run in each["runs"])]

    return markdown(head, map(line, rows))


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit code is 1 when the network cannot be converted."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks weights", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("network", choices=PRESETS)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), metavar="FORMAT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: torch's own choice)")
    asked = parser.parse_args(arguments)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    rows = []
    try:
        for name in asked.formats:
            rows.append(row(PRESETS[asked.network], name, asked.seed))
            print(rows[-1], file=sys.stderr)
    except ConversionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(table(rows))
    facts = {"network": asked.network, "samples": rows[0]["runs"][0]["samples"], "rows": rows}
    kept = write_result(
        f"weights-{asked.network}",
        ["weights", *arguments],
        {**facts, **environment(torch.get_num_threads())},
    )
    print(f"written to {kept}", file=sys.stderr)
    return 0
