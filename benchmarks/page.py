"""`page`: docs/benchmarks.md from the results that are kept. Every figure on it comes from a JSON file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import dense_page, deployed, latency, scaling, speed_page, training
from benchmarks._common import RESULTS, ROOT, markdown, read_result
from benchmarks.first_spike import section as first_spike_section
from benchmarks.methods import WITHOUT
from benchmarks.plots import draw, worth
from benchmarks.presets import PRESETS
from benchmarks.rows import answer, by_line, mean
from benchmarks.weights import table as weights_table
from benchmarks.zoo import ARCHITECTURES, DIALECTS
from converter.config import SPIKES
from converter.files import atomic_file

PAGE = ROOT / "docs" / "benchmarks.md"

Record = dict[str, Any]

HEAD = """\
# Benchmarks

Written by `python -m benchmarks page` from the JSON files in `benchmarks/results`; a test holds it to them.
Each file names the command that made it, the versions, the processor and the date.
"""

IMPORT = """\
## Import

Every network is read and run beside onnxruntime on the same random input, as imported and after the
algebraic passes, at the file's batch and at batch 2. *Difference* is max|a − b| / max|b| over every output,
the largest of these runs; up to {tolerance:.0e} is `ok`. *s* is the time `load` takes in a fresh process, and
the memory what it adds to the process at its peak; part of both is torch loading its shape inference, once.
Inputs: {inputs}.

{count} files: {states}. The largest difference of an `ok` one is {worst:.1e}.
"""

ZOO = """\
### torchvision, from both exporters

Random weights, drawn so that no parameter is constant. Each architecture is exported four times: `dynamo` and
`torchscript` as they are by default (batch 1), and both again with a free batch, TorchScript then with
batch-norm kept and no constant folded (`torchscript-raw`). Differences, seconds and memory are the largest of
the four.
"""

ACCURACY = """\
## Accuracy against time

Soft reset and direct current, thresholds (and biases) from the calibrators named, on samples that calibration
has not seen. In percent; the last column is the ANN on the same samples. T is the whole latency. What a
spike may be differs, so T is not the same cost from row to row: *binary* is a threshold or nothing, *signed*
may also take one back, *levels:N* is up to N thresholds at once. Calibrators with `timesteps` aim at that T.
"""

DETAIL = """\
Agreement is the share of samples on which spiking network and ANN choose the same class, output error is
|SNN − ANN| / |ANN| averaged over them, KL the divergence of its class probabilities from the ANN's in nats.
Spikes are counted over the whole run.
"""

GRID = """\
## Methods against time

Every method on the same test samples, calibrated on the same other samples (a pipeline on twice as many),
with direct current and soft reset. *maximum* and *percentile* do not look at T and are read out along one
run; the others are calibrated for each T alone. *auto* is what `ann2snn convert` takes by itself, given
time. T is the whole latency of a stream; a pipeline answers after T · (layers + 1) steps. Of several
calibration seeds stands the mean, and in brackets the lowest and the highest. Thick in the pictures: the
best of ours with each kind of spikes.

SpikingJelly's methods are its own, converted and simulated by it, on a module that answers as the imported
network does: *rate coding* with the 99.9th percentile of each channel, membranes starting at half a threshold
and pools before neurons; *threshold balancing* (local) on batches of 8, all of them taken four times.
"""

WEIGHTS = """\
## Quantised weights

Weights quantised after training, each output channel with its own scale; thresholds by least squares for that
T, then bias correction on the quantised network; calibrated on 256 training images, nothing is trained. *ANN*
is the network with these weights and float activations, and the spiking networks are in fixed point: they are
what an integer machine computes, spike for spike. *kB* is the memory of the weights with their scales, the
error |w' − w| / |w| that of the layer where it is largest. Accuracy in percent; T is the whole latency.
"""

COST = """\
What it costs to come within one point of the ANN: the first latency measured that does (else the longest),
how much of the ANN's accuracy is missing there, spikes per neuron, and the energy of one sample's arithmetic
(the ANN's: {ann:.3g} µJ):
"""

DISTRIBUTION = """\
What moves the distribution of the answers, each method after the one that it begins with: the mean KL
divergence of the class probabilities from the ANN's, in nats, and the output error |SNN − ANN| / |ANN|:
"""

LATENCY = """## What a time step costs

One step of the spiking network beside one inference of its ANN in onnxruntime and one step of SpikingJelly's
conversion, in the same process and in turns. A ratio is the median of those within a round.
"""

SCALING = """## How cost grows

Processor time of runs of a chain of convolutions and neurons, with a straight line fitted; and the memory
that a run needs above what the process held before.
"""


def states(rows: Sequence[Record]) -> str:
    """`86 ok, 1 refused`."""
    counts = {s: sum(row["status"] == s for row in rows) for s in ("ok", "refused", "WRONG", "error")}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def origins(records: Iterable[Record]) -> str:
    """The commands the results were made by, under what they were made with."""
    commands: dict[str, list[str]] = {}
    for record in records:
        versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items() if v != "not installed")
        threads = f"{record['threads']} thread{'s' * (record['threads'] > 1)}"
        used = f"Made with {versions}, on {record['processor']}, {threads}:\n"
        commands.setdefault(used, []).append(f"- `{record['command']}`, {record['date'][:10]}\n")
    return "\n".join(f"{used}\n{''.join(made)}" for used, made in commands.items())


def import_section(record: Record) -> str:
    """The `import` benchmark."""
    rows = record["rows"]
    worst = max(row["difference"] for row in rows if row["status"] == "ok")
    facts = {key: record[key] for key in ("tolerance", "inputs")}
    parts = [IMPORT.format(count=len(rows), states=states(rows), worst=worst, **facts), origins([record])]
    parts += ["### Networks trained by others\n", shared_table([r for r in rows if r["origin"] == "shared"])]
    refused = [(row, reason) for row in rows for reason in row.get("refused", ())]
    parts += ["Refused:\n", "".join(f"- {row['name']}: {reason}\n" for row, reason in refused)] * bool(
        refused
    )
    return "\n".join([*parts, ZOO, zoo_table([r for r in rows if r["origin"] != "shared"])])


def shared_table(rows: Iterable[Record]) -> str:
    """One line a file."""
    header = "network|made by|opset|nodes in the file|after passes|batch|difference|s|MiB|status"
    return markdown(header, [_shared_line(row) for row in rows])


def _shared_line(row: Record) -> list[object]:
    name = f"{row['name']}, cut at {row['cut'][0]}" if row["cut"] else row["name"]
    if row["status"] in ("refused", "error"):
        return [name, *[""] * 8, row["status"]]
    nodes = row["file_nodes"], row["final_nodes"]
    costs = f"{row['difference']:.1e}", f"{row['seconds']:.2f}", f"{row['memory'] / 2**20:.0f}"
    note = f"{row['status']} ({row['note']})" if row["note"] else row["status"]
    return [name, row["producer"], row["opset"], *nodes, row["batch"], *costs, note]


def zoo_table(rows: Sequence[Record]) -> str:
    """One line an architecture, the nodes of its file as each exporter writes it."""
    header = f"architecture|{'|'.join(DIALECTS)}|after passes|difference|s|memory / file|status"
    lines: list[list[object]] = []
    for architecture in ARCHITECTURES:
        of = {row["origin"]: row for row in rows if row["name"] == architecture.name}
        nodes = [of[dialect].get("file_nodes") for dialect in DIALECTS]
        read = [row for row in of.values() if row.get("difference") is not None]
        worst = [max(row[key] for row in read) for key in ("difference", "seconds")]
        worst.append(max(row["memory"] / row["bytes"] for row in read))
        sizes = sorted(row["final_nodes"] for row in read)
        after = "–".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
        costs = f"{worst[0]:.1e}", f"{worst[1]:.2f}", f"{worst[2]:.1f}"
        lines.append([architecture.name, *nodes, after, *costs, states(list(of.values()))])
    return markdown(header, lines)


def accuracy_section(records: dict[str, Record]) -> str:
    """The `accuracy` benchmark, all networks in one table."""
    times = sorted({point["timesteps"] for record in records.values() for point in record["rows"]})
    lines, details = [], []
    for name, record in records.items():
        curve = {point["timesteps"]: point for point in record["rows"]}
        reached = [percent(curve[t]["accuracy"]) if t in curve else "" for t in times]
        lines.append([name, spikes(record), *reached, percent(record["ann_accuracy"])])
        last = curve[max(curve)]
        chosen = " + ".join(step["name"] + _options(step) for step in record["steps"] if step["options"])
        measured = [record["data"]["samples"], chosen, last["timesteps"]]
        ending = [
            percent(last["agreement"]),
            f"{last['output_error']:.3f}",
            nats(last.get("divergence")),
            f"{last['spikes_per_neuron']:.1f}",
        ]
        details.append([name, *measured, *ending, len(record["pooling"])])
    curves = markdown(f"network|spikes|{'|'.join(f'T = {t}' for t in times)}|ANN", lines)
    header = "network|samples|thresholds|T|agreement, %|output error|KL, nats|spikes per neuron|max-pools"
    return "\n".join([ACCURACY, curves, DETAIL, markdown(header, details), origins(records.values())])


def grid_section(records: dict[str, Record]) -> str:
    """The grids: for each network its picture, accuracy and agreement at every T, and what they cost."""
    parts = [GRID]
    for name, record in records.items():
        rows = record["rows"]
        samples, images = (
            " or ".join(f"{n:,}" for n in sorted({row[key] for row in rows}))
            for key in ("samples", "calibration_samples")
        )
        parts += [f"### {name}\n"]
        parts += [f"![{name}](../benchmarks/results/grid-{name}.svg)\n"] * worth(rows)
        parts.append(f"On {samples} test samples, calibrated on {images}, in percent:\n")
        if rows[0]["accuracy"] is not None:
            parts.append(times_table(rows, "accuracy"))
        parts += ["Agreement with the ANN, in percent:\n", times_table(rows, "agreement")]
        parts += [COST.format(ann=rows[0]["ann_microjoules"]), cost_table(rows)]
        parts += [DISTRIBUTION, said] if (said := distribution_table(rows)) else []
        refused = [f"- {r['method']}, {r['spikes']}: {r['why']}\n" for r in record["refused"]]
        parts += ["Refused:\n", "".join(refused)] * bool(refused) + [origins(record["runs"])]
    return "\n".join(parts)


def times_table(rows: Sequence[Record], column: str) -> str:
    """A line for each kind of spikes and method, a column for each T."""
    times = sorted({row["timesteps"] for row in rows})
    ann = percent(mean([row["ann_accuracy"] for row in rows])) if column == "accuracy" else "100.00"
    lines = [
        [spikes, method, *[spread([r[column] for r in found.get(t, [])]) for t in times], ann]
        for (spikes, method), found in by_line(rows).items()
    ]
    return markdown(f"spikes|method|{'|'.join(f'T = {t}' for t in times)}|ANN", lines)


def cost_table(rows: Sequence[Record]) -> str:
    """For each line the first T within a point of the ANN, and what it takes there."""
    lines: list[list[object]] = []
    for (spikes, method), found in by_line(rows).items():
        near = [t for t, seeds in found.items() if mean([behind(row) for row in seeds]) < 0.01 + 1e-6]
        at = found[near[0] if near else max(found)]
        latency = f"{at[0]['latency']}{'' if near else ', not yet'}"
        missing = mean([behind(row) for row in at]) / mean([row["ann_accuracy"] or 1.0 for row in at])
        spent = mean([row["spikes_per_neuron"] for row in at]), mean([row["microjoules"] for row in at])
        lines.append([spikes, method, latency, f"{100 * missing:.2f}", f"{spent[0]:.2f}", f"{spent[1]:.3g}"])
    return markdown("spikes|method|latency|missing, %|spikes per neuron|energy, µJ", lines)


def distribution_table(rows: Sequence[Record]) -> str:
    """A line for each measured method of `WITHOUT` and T, after one for the method without; or nothing."""
    found = by_line(rows)
    lines: list[list[object]] = []
    for (spikes, method), times in found.items():
        for t, seeds in times.items() if method in WITHOUT else ():
            before = found.get((spikes, WITHOUT[method]), {}).get(t, [])
            lines += [_distribution_line(t, of) for of in (before, seeds) if of]
    header = "method|T|accuracy, %|agreement, %|output error|KL, nats|spikes per neuron"
    return markdown(header, lines) if lines else ""


def _distribution_line(t: int, seeds: Sequence[Record]) -> list[object]:
    error, kl, spikes = (
        mean([row[key] for row in seeds]) for key in ("output_error", "divergence", "spikes_per_neuron")
    )
    reached = spread([answer(row) for row in seeds]), spread([row["agreement"] for row in seeds])
    return [seeds[0]["method"], t, *reached, f"{error:.3f}", nats(kl), f"{spikes:.2f}"]


def behind(row: Record) -> float:
    """How far the answers stand below the ANN's: a share."""
    return float(row["ann_accuracy"] or 1.0) - answer(row)


def spread(values: Sequence[float]) -> str:
    """`91.63`, or `91.63 (91.2–92.0)` of several; nothing of none."""
    if not values:
        return ""
    low, high = min(values), max(values)
    seeds = f" ({100 * low:.1f}–{100 * high:.1f})" if len(values) > 1 else ""
    return percent(mean(values)) + seeds


def _options(step: Record) -> str:
    return f" ({', '.join(f'{key} {value}' for key, value in step['options'].items())})"


def spikes(record: Record) -> str:
    """What a spike of this run may be, as `--spikes` takes it."""
    settings = record["settings"]
    kinds = {neuron: kind for kind, neuron in SPIKES.items()}
    kind, options = kinds[settings["neuron"]], settings["neuron_options"]
    return f"{kind}:{options['levels']}" if "levels" in options else kind


def nats(divergence: float | None) -> str:
    """`0.0123`, or nothing: earlier results do not have it."""
    return "" if divergence is None else f"{divergence:.4f}"


def percent(share: float | None) -> str:
    """`91.63`, or nothing."""
    return "" if share is None else f"{100 * share:.2f}"


def text(folder: Path = RESULTS) -> str:
    """The page, of whatever results are in `folder`."""
    parts = [HEAD]
    if (folder / "import.json").is_file():
        parts.append(import_section(read_result("import", folder)))
    curves = [path.stem.removeprefix("accuracy-") for path in folder.glob("accuracy-*.json")]
    if kept := sorted(curves, key=_place):
        parts.append(accuracy_section({name: read_result(f"accuracy-{name}", folder) for name in kept}))
    if kept := grids(folder):
        parts.append(grid_section({name: read_result(f"grid-{name}", folder) for name in kept}))
    if kept := sorted(path.stem for path in folder.glob("latency*.json")):
        records = [read_result(name, folder) for name in kept]
        rows = [row for record in records for row in record["rows"]]
        parts += [LATENCY, origins(records), latency.table(rows)]
    if (folder / "scaling.json").is_file():
        record = read_result("scaling", folder)
        parts += [SCALING, origins([record]), scaling.table(record)]
    parts += speed_page.sections(folder, origins)
    if trained := training.results(folder):
        parts += [training.section(trained), origins(trained.values())]
    found = [path.stem.removeprefix("weights-") for path in folder.glob("weights-*.json")]
    if kept := sorted(found, key=_place):
        parts.append(weights_section({name: read_result(f"weights-{name}", folder) for name in kept}))
    firsts = [path.stem.removeprefix("first-spike-") for path in folder.glob("first-spike-*.json")]
    if kept := sorted(firsts, key=_place):
        records = [read_result(f"first-spike-{name}", folder) for name in kept]
        parts += [first_spike_section(records), origins(records)]
    there, records = deployed.section(folder)
    if there:
        parts += [*there, origins(records)]
    if kept := sorted(path.stem for path in folder.glob("dense-*.json")):
        parts.append(dense_page.section(read_result(name, folder) for name in kept))
    if kept := sorted(path.stem for path in folder.glob("curve-*.json")):
        parts.append(dense_page.curves(read_result(name, folder) for name in kept))
    return "\n".join(parts)


def weights_section(records: dict[str, Record]) -> str:
    """The `weights` benchmark, a table for each network."""
    parts = [WEIGHTS]
    for name, record in records.items():
        parts += [f"### {name}\n", f"{record['samples']:,} test images:\n", weights_table(record["rows"])]
    return "\n".join([*parts, origins(records.values())])


def grids(folder: Path = RESULTS) -> list[str]:
    """The networks that have a grid."""
    return sorted((path.stem.removeprefix("grid-") for path in folder.glob("grid-*.json")), key=_place)


def _place(name: str) -> tuple[int, str]:
    """In the order of the presets, each followed by its variants (`resnet44-maximum`), then the rest."""
    preset = name.partition("-")[0]
    return [*PRESETS, preset].index(preset), name


def main(arguments: Sequence[str]) -> int:
    """Write the page, and draw the pictures on it."""
    if arguments:
        print("usage: python -m benchmarks page", file=sys.stderr)
        return 2
    for network in grids():
        draw(network)
    with atomic_file(PAGE, force=True) as unfinished:
        unfinished.write_text(text())
    print(f"written to {PAGE.relative_to(ROOT)}", file=sys.stderr)
    return 0
