"""`first-spike`: how accurate is a first-spike network for each window, how soon and at what cost?

    python -m benchmarks first-spike resnet20 mnist_cntk

Each window is a conversion of its own, calibrated for it (least squares, then bias correction, on training
samples); continuous time takes the largest activations and its slack. Synapses are counted by the
event-driven simulator on a few test samples, beside the multiply-accumulates of the ANN.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from benchmarks._common import environment, markdown, write_result
from benchmarks.presets import PRESETS, Preset
from calibrators.bias_correction import BiasCorrection
from calibrators.least_squares import LeastSquares
from calibrators.maximum import Maximum
from converter.errors import ConversionError
from converter.events import simulate
from converter.first_spike import FirstSpikeModel
from converter.pipeline import Calibrate, Conversion, Settings, convert

WINDOWS = {"linear": (8, 16, 32, 64), "base-2": (12, 24, 48)}
OFFSETS = (12, 8, 4)
"""With windows of 24 steps of base 2: after so many steps the next layer begins to fire."""
COUNTED = 10
"""On so many test samples the event-driven simulator runs."""


def converted(
    preset: Preset, kernel: str, window: int, offset: int | None, samples: int | None, calibration: int
) -> tuple[Conversion, dict[str, Any]]:
    """One conversion, `window` 0 being continuous time, `offset` None a window; and what is kept of it."""
    chain: list[tuple[str, Calibrate]] = [("maximum", Maximum())]
    if window:
        least = LeastSquares(timesteps=window)
        chain = [("least-squares", least), ("bias-correction", BiasCorrection(window, schedule="pipelined"))]
    settings = Settings(
        neuron="first-spike",
        neuron_options={"form": kernel, "continuous": not window, "offset": offset},
        timesteps=(window or 1,),
        schedule="pipelined",
        samples=samples or preset.samples,
        calibration_samples=calibration,
    )
    done = convert(preset.model, preset.source, chain, settings)
    report = done.report
    facts: dict[str, Any] = {"kernel": kernel, "window": window or "continuous", "offset": offset}
    facts |= asdict(report.curve[0])
    facts |= {
        "ann_accuracy": report.ann_accuracy,
        "samples": report.data.samples,
        "clipped": max(layer.clipped for layer in report.layers),
        "decisions": [asdict(each) for each in report.decisions],
        "accumulates": report.metrics["synaptic_operations"]["Effective_ACs"],
        "analog_macs": report.metrics["synaptic_operations"]["Effective_MACs"],
        "ann_macs": report.metrics["ann_macs"],
        "calibration": report.data.calibration,
        "measurement": report.data.measurement,
        "timing": report.timing,
    }
    return done, facts


def counted(preset: Preset, done: Conversion, window: int) -> dict[str, Any]:
    """What the event-driven simulator touched for a sample, and how far it is from the dense read-out."""
    model = done.model
    assert isinstance(model, FirstSpikeModel)
    source = preset.source(done.ann)
    x, _ = next(source.batches(source.parts["test"][:COUNTED], COUNTED))
    with torch.inference_mode():
        run = simulate(model, x, window)
        ((_, dense, _),) = model.answers(x, [window], lambda: lambda node, value: None)
    apart = (run.readout[0] - dense[0]).norm() / dense[0].norm()
    accumulates, events = (sum(found.values()) / len(x) for found in (run.accumulates, run.events))
    return {"samples": len(x), "accumulates": accumulates, "events": events, "apart": float(apart)}


def table(facts: dict[str, Any]) -> str:
    """The windows as Markdown, the ANN last."""
    header = "kernel|window|offset|latency|accuracy|KL, nats|spikes per neuron|accumulates|of the ANN's MACs"
    lines: list[list[object]] = []
    for row in facts["rows"]:
        accuracy, share = f"{100 * row['accuracy']:.2f} %", row["accumulates"] / row["ann_macs"]
        numbers = [f"{row['divergence']:.4f}", f"{row['spikes_per_neuron']:.2f}", f"{row['accumulates']:.4g}"]
        lines.append([*run_of(row), row["latency"], accuracy, *numbers, f"{100 * share:.1f} %"])
    ann = facts["rows"][0]
    return markdown(
        header, [*lines, ["ANN", "", "", "", f"{100 * ann['ann_accuracy']:.2f} %", "", "", "", ""]]
    )


def run_of(row: dict[str, Any]) -> list[object]:
    """Kernel, window and offset, which is the window where none is said."""
    return [row["kernel"], row["window"], row["offset"] or row["window"]]


def early(facts: dict[str, Any]) -> str:
    """The margin that was chosen, a line for each window."""
    header = "kernel|window|offset|margin|steps of the last|steps from the image|accuracy|at the end|samples"
    lines = []
    for row in facts["rows"]:
        for each in (each for each in row["decisions"] if each["chosen"]):
            end = row["decisions"][-1]["accuracy"]
            shares = f"{100 * each['accuracy']:.2f} %", f"{100 * end:.2f} %"
            steps = f"{each['steps']:.1f}", f"{each['latency']:.1f}"
            where = *run_of(row), each["margin"]
            lines.append([*where, *steps, *shares, each["samples"]])
    return markdown(header, lines) if lines else ""


SECTION = """\
## First spikes

Every neuron spikes at most once a window, layers one after the other (`--code first-spike`). Each window is a
conversion of its own: least squares, then bias correction, for that window, on {calibration}; continuous time
takes the largest activations. A layer begins to fire *offset* steps after the one before, at most a window
(`--offset`). Latency is in steps, of continuous time in windows, from the image to the answer; the first
layer fires at once, as all of a constant image is there. Accumulates are those of one sample, exact at
borders and strides.
"""
EARLY = """\
Early answers: the read-out answers as soon as one output leads by the margin, which falls as what is still to
come does; the margin is chosen on calibration samples without labels. *At the end*: the same samples,
answered after the whole window.
"""


def section(records: Sequence[dict[str, Any]]) -> str:
    """Of the page: for each network its windows, its early answers, and what the simulator counted."""
    drawn = {row["calibration"] for record in records for row in record["rows"]}
    parts = [SECTION.format(calibration=" or ".join(sorted(drawn)))]
    for record in records:
        rows = record["rows"]
        samples = f"{rows[0]['samples']:,} test samples"
        parts += [f"### {record['network']}, first spikes\n", f"On {samples}:\n", table(record)]
        if decided := early(record):
            parts += [EARLY, decided]
        for row in (row for row in rows if "events" in row):
            found, ann = row["events"], row["ann_macs"]
            where = f"{row['kernel']}, window {row['window']}, {found['samples']} samples"
            parts.append(
                f"The event-driven simulator, {where}: {found['events']:,.0f} spikes touch "
                f"{found['accumulates']:,.0f} synapses a sample, where the ANN has {ann:,.0f} "
                f"multiply-accumulates ({row['analog_macs']:,.0f} of them, of the image itself, stay); its "
                f"read-out is {found['apart']:.1e} from the dense one.\n"
            )
    return "\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit code is 1 when a network cannot be converted or its data are not there."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks first-spike", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("networks", nargs="+", choices=tuple(PRESETS), metavar="NETWORK")
    parser.add_argument("--samples", type=int, help="how many to measure (default: the preset's, or all)")
    parser.add_argument("--calibration-samples", type=int, default=256)
    every = [f"{kernel}:{window}" for kernel, windows in WINDOWS.items() for window in windows]
    every += ["linear:0", *(f"base-2:24:{offset}" for offset in OFFSETS)]
    metavar = "KERNEL:WINDOW[:OFFSET]"
    parser.add_argument(
        "--runs", nargs="+", default=every, metavar=metavar, help="window 0 is continuous time"
    )
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: torch's own choice)")
    asked = parser.parse_args(arguments)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    runs = [(kernel, *map(int, steps)) for kernel, *steps in (each.split(":") for each in asked.runs)]
    for name in asked.networks:
        rows = []
        try:
            for kernel, window, *offset in runs:
                preset, begins = PRESETS[name], next(iter(offset), None)
                many = asked.samples, asked.calibration_samples
                done, facts = converted(preset, kernel, window, begins, *many)
                if window in (32, 48):
                    facts["events"] = counted(preset, done, window)
                rows.append(facts)
                print(
                    f"{name}, {' '.join(map(str, run_of(facts)))}: {100 * facts['accuracy']:.2f} %",
                    file=sys.stderr,
                )
        except ConversionError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        kept = {"network": name, "rows": rows}
        print(table(kept), early(kept), sep="\n")
        made = ["first-spike", name, *[a for a in arguments if a not in asked.networks]]
        path = write_result(f"first-spike-{name}", made, kept | environment(torch.get_num_threads()))
        print(f"written to {path}", file=sys.stderr)
    return 0
