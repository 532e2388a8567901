"""The `dense` benchmark on the page: what each network finds or names, and how far its outputs are off."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks._common import markdown

HEAD = """\
## Detectors and segmenters

Whole networks through `--task`, ANN and spiking network on the same images by the same code; calibration
images are others. *Every* n-th image of the set was measured. *Output error* is |SNN − ANN| / |ANN| over all
outputs, averaged over images. *Latency* is steps from image to answer: in a *stream* as many as T; where
layers are *pipelined*, each integrating a window of T steps and firing in the next, T for each layer in a row
and one more. The slowest layer is the one whose mean spikes are furthest from its activation after the
longest run. IoU is that of the thing against the ground, over all pixels together. A set of a few dozen
images gives a figure of its own: hold the SNN against the ANN beside it.
"""


def section(records: Iterable[dict[str, Any]]) -> str:
    """One table of all networks, and the commands that made them."""
    lines, commands = [], []
    for record in records:
        commands.append(f"- `{record['command']}`, {record['date'][:10]}, on {record['processor']}\n")
        named = record["named"]
        for run in record["runs"]:
            chain = " + ".join(run["calibrators"])
            about = [record["network"], f"{run['images']} (every {run['every']}.)"]
            delay = f", read out after {run['delay']}" if run.get("delay") else ""
            about += [run["spikes"], run.get("schedule", "stream") + delay, chain]
            for row in run["rows"]:
                figures = f"{row['figures'][named]:.3f}", f"{run['ann'][named]:.3f}"
                costs = f"{row['output_error']:.4f}", f"{row['spikes_per_neuron']:.2f}"
                time = row["timesteps"], row["latency"]
                lines.append([*about, *time, named, *figures, *costs, run["slowest"]["layer"]])
    header = "network|images|spikes|schedule|calibrators|T|latency|figure|SNN|ANN|output error"
    header += "|spikes per neuron|slowest layer"
    return "\n".join([HEAD, markdown(header, lines), "".join(commands)])


CURVES = """\
### Output error over time

One run of each network, its thresholds by least squares for the longest T and nothing corrected, on a few
images: |SNN − ANN| / |ANN| over all outputs after each T.
"""


def curves(records: Iterable[dict[str, Any]]) -> str:
    """How the error of outputs falls over time, and which layer is furthest off in the end."""
    lines, commands, times = [], [], list[int]()
    for record in records:
        commands.append(f"- `{record['command']}`, {record['date'][:10]}, on {record['processor']}\n")
        for run in record["runs"]:
            times = [row["timesteps"] for row in run["rows"]]
            errors = [f"{row['output_error']:.3f}" for row in run["rows"]]
            slowest = f"{run['slowest']['layer']} ({100 * run['slowest']['error']:.0f} %)"
            lines.append([record["network"], run["images"], run["spikes"], *errors, slowest])
    header = "|".join(["network", "images", "spikes", *(f"T = {t}" for t in times), "slowest layer"])
    return "\n".join([CURVES, markdown(header, lines), "".join(commands)])
