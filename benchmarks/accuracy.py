"""`accuracy`: how accurate is a converted network after each number of time steps?

    python -m benchmarks accuracy resnet20
    python -m benchmarks accuracy model.onnx --data photos/ --normalize imagenet
    python -m benchmarks accuracy --grid resnet20       many methods, and peers: see `grid`

The network goes through `converter.pipeline.convert`, as on the command line; next to the curve stands the
ANN on the same samples. Presets bring their data and preprocessing (`presets`).
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import grid
from benchmarks._common import environment, markdown, write_result
from benchmarks.presets import PRESETS, Preset
from calibrators import calibrators
from converter.config import neuron_for
from converter.errors import ConversionError, UsageError
from converter.importer import load
from converter.pipeline import Calibrate, Settings, convert
from converter.preprocessing import Preprocessing
from converter.schedules import SCHEDULES


def ann_accuracy(preset: Preset, batch_size: int = 100) -> float:
    """The ANN's accuracy through our graph, in percent, on the samples that the preset's figure is of."""
    graph = load(preset.model)
    source = preset.source(graph)
    test = source.parts.get("test", range(len(source)))[: preset.first]
    right = 0
    with torch.inference_mode():
        for x, labels in source.batches(test, graph.batch or batch_size):
            assert labels is not None
            right += int((graph.run(x)[0].reshape(len(x), -1).argmax(1) == labels).sum())
    return 100 * right / len(test)


def calibrator(asked: str) -> tuple[str, Calibrate]:
    """`percentile:percentile=99.9,per_channel=False` as a calibrator, with its name."""
    name, _, options = asked.partition(":")
    pairs = [pair.partition("=") for pair in options.split(",") if pair]
    try:
        return name, calibrators[name](**{key: ast.literal_eval(value) for key, _, value in pairs})
    except (UsageError, TypeError, ValueError, SyntaxError) as error:
        raise argparse.ArgumentTypeError(f"{asked!r}: {error}") from error


def curve(
    name: str, preset: Preset, chosen: Sequence[tuple[str, Calibrate]], settings: Settings
) -> dict[str, Any]:
    """Convert and measure; what is kept of it."""
    shown = -1

    def progress(what: str, done: int, of: int) -> None:
        nonlocal shown
        if sys.stderr.isatty() and (now := 100 * done // max(of, 1)) != shown:
            shown = now
            print(f"\r{name}: {what} {shown} %  ", end="", file=sys.stderr, flush=True)

    report = convert(preset.model, preset.source, chosen, settings, progress).report
    print("\r" if shown >= 0 else "", end="", file=sys.stderr)
    whole = asdict(report)
    facts = {key: value for key, value in whole.items() if key not in ("curve", "versions", "date", "schema")}
    return {**facts, "rows": whole["curve"]}


def table(facts: dict[str, Any]) -> str:
    """The curve as Markdown, the ANN in its last line."""

    def share(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.2f} %"

    def line(point: dict[str, Any]) -> list[object]:
        spikes, error = f"{point['spikes_per_neuron']:.2f}", f"{point['output_error']:.3f}"
        reached = [share(point["accuracy"]), share(point["agreement"])]
        divergence = f"{point['divergence']:.4f}"
        return [point["timesteps"], point["latency"], *reached, error, divergence, spikes]

    header = "time steps|latency|accuracy|agreement with the ANN|output error|KL, nats|spikes per neuron"
    ann = ["ANN", "", share(facts["ann_accuracy"]), "", "", "", ""]
    return markdown(header, [*map(line, facts["rows"]), ann])


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit code is 1 when the network cannot be converted or the data do not fit."""
    if "--grid" in arguments:
        return grid.main(["accuracy", *arguments])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks accuracy",
        description=(__doc__ or "").partition("\n\n")[0],
        epilog=f"presets: {', '.join(PRESETS)}; --grid NETWORK… measures many methods (--grid --help)",
    )
    parser.add_argument("model", metavar="MODEL", help="a preset, or an ONNX file")
    parser.add_argument("--data", metavar="SOURCE", help="for a file: where its samples are")
    parser.add_argument("--normalize", default="none", help="for a file: imagenet, cifar10, none or MEAN/STD")
    parser.add_argument("--layout", choices=Preprocessing.LAYOUTS, default="nchw", help="for a file")
    parser.add_argument("--channels", choices=Preprocessing.CHANNELS, default="rgb", help="for a file")
    parser.add_argument("--scale", type=float, help="for a file: multiplies the values (8-bit data: 1/255)")
    metavar, default = "NAME[:OPTION=VALUE,…]", [calibrator("percentile")]
    parser.add_argument("--calibrator", nargs="+", type=calibrator, default=default, metavar=metavar)
    parser.add_argument("-T", "--timesteps", nargs="+", type=int, default=list(grid.TIMESTEPS))
    parser.add_argument("--samples", type=int, help="how many to measure (default: the preset's, or all)")
    parser.add_argument("--calibration-samples", type=int, default=256)
    parser.add_argument("--spikes", default="binary", help="binary, signed or levels:N")
    parser.add_argument("--schedule", choices=SCHEDULES, default="stream")
    parser.add_argument(
        "--delay", type=int, default=0, help="first steps of a stream, which are not read out"
    )
    parser.add_argument("--encoding", default="current")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: torch's own choice)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", help="of the result: accuracy-NAME.json (default: the model's)")
    asked = parser.parse_args(arguments)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    if asked.model in PRESETS:
        preset = PRESETS[asked.model]
    elif asked.data is None:
        parser.error(f"{asked.model!r} is no preset ({', '.join(PRESETS)}); a file needs --data")
    else:
        options = {"layout": asked.layout, "channels": asked.channels, "scale": asked.scale}
        preset = Preset(Path(asked.model), asked.data, Preprocessing.normalized(asked.normalize, **options))
    try:
        neuron, levels = neuron_for(asked.spikes)
    except ValueError as error:
        parser.error(str(error))
    name = asked.name or Path(asked.model).stem
    try:
        settings = Settings(
            neuron=neuron,
            neuron_options={} if levels is None else {"levels": levels},
            encoding=asked.encoding,
            timesteps=tuple(asked.timesteps),
            schedule=asked.schedule,
            delay=asked.delay,
            calibration_samples=asked.calibration_samples,
            samples=asked.samples or preset.samples,
            seed=asked.seed,
            device=asked.device,
        )
        facts = curve(name, preset, asked.calibrator, settings)
    except ConversionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(table(facts))
    facts |= environment(torch.get_num_threads())
    kept = write_result(f"accuracy-{name}", ["accuracy", *arguments], facts)
    print(f"written to {kept}", file=sys.stderr)
    return 0
