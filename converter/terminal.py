"""How results, progress and errors look in a terminal: tables on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from converter.diagnose import Diagnosis
from converter.early_exit import EarlyExit
from converter.exporters import _words as words
from converter.inspection import ROLES, Inspection
from converter.metrics import Measurement
from converter.report import Decision, Output, Point, Report, Task, plain
from converter.targets import Fit

PATIENCE = 1.0
"""Seconds of work before a progress bar appears."""
WIDE = 200
"""Columns where there is no terminal: nothing that is read by a program is broken into lines or cut."""


def console(*, stderr: bool = False) -> Console:
    """Where to print: as wide as the terminal, without colours where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=False, width=None if stream.isatty() else WIDE)


def document(value: Any) -> str:
    """One JSON document: what `--json` prints."""
    return json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False)


class Bars:
    """Progress on stderr, a bar for each kind of work once a second has passed; silent without a terminal.

    With `stages`, and no terminal, a line when each kind of work begins.
    """

    def __init__(self, *, quiet: bool = False, stages: bool = False) -> None:
        self._shown = sys.stderr.isatty() and not quiet
        self._stages = stages and not self._shown and not quiet
        self._begun = time.monotonic()
        self._tasks: dict[str, TaskID] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console(stderr=True), transient=True)
        self._running = False

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *error: object) -> None:
        if self._running:
            self._progress.stop()

    def __call__(self, what: str, done: int, of: int) -> None:
        """`done` of `of` have been done of `what`."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=of)
            if self._stages:
                print(f"{what} …", file=sys.stderr, flush=True)
        self._progress.update(self._tasks[what], completed=done)
        if self._shown and not self._running and time.monotonic() - self._begun > PATIENCE:
            self._progress.start()
            self._running = True


def table(*columns: str, left: Sequence[str] = ()) -> Table:
    """An empty table, numbers to the right; the columns of `left` are text."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        text = name in left
        made.add_column(name, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    return made


def curve(points: Sequence[Point], ann_accuracy: float | None) -> Table:
    """The answers over time, the ANN's last."""
    late = words.late(points)
    made = table(
        "T", *["latency"] * late, "accuracy", "agreement", "output error", "KL, nats", "spikes/neuron"
    )
    for p in points:
        accuracy, agreement = words.percent(p.accuracy), words.percent(p.agreement)
        error, divergence = words.percent(p.output_error), words.nats(p.divergence)
        time = [str(p.timesteps), *[str(p.latency)] * late]
        made.add_row(*time, accuracy, agreement, error, divergence, f"{p.spikes_per_neuron:.2f}")
    made.add_section()
    made.add_row("ANN", *[""] * late, words.percent(ann_accuracy), "", "", "", "", style="bold")
    return made


def decisions(rows: Sequence[Decision]) -> list[Any]:
    """What is answered early, the margins a line each; nothing where nothing is."""
    if not rows:
        return []
    made = table("margin", "accuracy", "as at the end", "steps of the last window", "latency")
    for row in rows:
        shares = words.percent(row.accuracy), words.percent(row.agreement)
        style = "bold" if row.chosen else None
        made.add_row(f"{row.margin:g}", *shares, f"{row.steps:.1f}", f"{row.latency:.1f}", style=style)
    return [
        made,
        f"early answers with windows of {rows[0].window} steps, {rows[0].samples} samples",
    ]


def outputs(each: Sequence[Output]) -> Table:
    """Every output against the ANN's after the longest run."""
    made = table(
        "output", "shape", "T", "error", "difference", "correlation", "KL, nats", left=("output", "shape")
    )
    for output in each:
        last = output.curve[-1]
        figures = words.percent(last.error), words.number(last.difference), words.figure(last.correlation)
        made.add_row(
            escape(output.name), output.shape, str(last.timesteps), *figures, words.nats(last.divergence)
        )
    return made


def task(measured: Task) -> list[Any]:
    """How well a dense network does its task over time, the ANN last; nothing without labels."""
    if not measured.ann:
        return [escape(measured.words)]
    made = table("T", *measured.ann)
    for point in measured.curve:
        made.add_row(str(point.timesteps), *(words.figure(point.figures[name]) for name in measured.ann))
    made.add_section()
    made.add_row("ANN", *map(words.figure, measured.ann.values()), style="bold")
    return [made, escape(f"{measured.task}, decoder {measured.decoder}: {measured.words}")]


def conversion(report: Report, target: Path, *, every: bool) -> list[Any]:
    """The result of a conversion; with `every`, each layer, and what was done to the network."""
    shown: list[Any] = [curve(report.curve, report.ann_accuracy)]
    if report.task is not None:
        shown += [outputs(report.outputs), *task(report.task)]
    if every:
        shown += [outputs(report.outputs)] * (report.task is None)
        shown.append(layers([asdict(layer) for layer in report.layers]))
        shown += decisions(report.decisions)
        shown += [escape(f"{step.name}: {step.did}") for step in report.steps]
        shown += map(escape, (*report.timing, *report.pooling, *report.analog))
    else:
        shown += [escape(f"{step.name}: {step.did}") for step in report.steps if step.trials]
    return [
        *shown,
        escape(f"{report.model.name}: {words.headline(report)}"),
        *map(escape, filter(None, [words.early(report)])),
        escape(f"calibrated on {report.data.calibration}; measured on {report.data.measurement}"),
        escape(f"the page: {target / 'report.html'}"),
    ]


def fit(found: Fit) -> list[Any]:
    """What of a network fits a chip, layer by layer."""
    made = table("layer", "neurons", "fan-in", "fan-out", "bits", "synapses", "fits", left=("layer", "fits"))
    for layer in found.layers:
        numbers = (layer.neurons, layer.axons, layer.fanout, layer.bits, layer.synapses)
        made.add_row(escape(layer.name), *(f"{n:,}" for n in numbers), "; ".join(layer.refused) or "yes")
    whole = "; ".join(found.refused) or ("fits" if found.fits else "its layers do not fit")
    return [made, escape(f"{found.target}: {whole}"), escape(f"limits: {found.source}")]


def cost(found: Mapping[str, Any]) -> str:
    """What a change cost in accuracy, or without labels in agreement with the ANN."""
    what = "agreement" if found["before"]["accuracy"] is None else "accuracy"
    before, after = (words.percent(found[name][what]) for name in ("before", "after"))
    return f"{what} {before} before, {after} after, at {found['timesteps']} steps, on {found['samples']}"


def evaluation(measured: Measurement, samples: str, dense: Task | None = None, *, every: bool) -> list[Any]:
    """The answers over time and what they cost; `samples` says on what, `every` adds the layers."""
    return [
        curve(measured.curve, measured.ann_accuracy),
        *([outputs(measured.outputs)] if every or dense else []),
        *(task(dense) if dense else []),
        *([layers([asdict(layer) for layer in measured.layers])] if every else []),
        operations(measured.metrics),
        energies(measured.metrics["energy"]["models"]),
        escape(f"measured on {samples}"),
        escape(measured.metrics["energy"]["assumption"]),
        *(escape(f"{name}: {m['assumption']}") for name, m in measured.metrics["energy"]["models"].items()),
    ]


def exits(found: EarlyExit) -> str:
    """What early exit did, in a line."""
    share, what = (found.agreement, "agreement") if found.accuracy is None else (found.accuracy, "accuracy")
    return (
        f"early exit at margin {found.margin:g}, T = {found.cap} at most: "
        f"{what} {words.percent(share)}, mean T {found.mean_timesteps:.2f}"
    )


def layers(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The neurons, a layer a line; `rows` as in report.json."""
    quantised = any(row["weight_error"] is not None for row in rows)
    columns = ["threshold", "rate", "error", "clipped", "silent", *["weights"] * quantised]
    made = table("layer", "shape", *columns, left=("layer", "shape"))
    for row in rows:
        low, high = row["threshold_min"], row["threshold_max"]
        threshold = f"{low:.3g}" if low == high else f"{low:.3g} … {high:.3g}"
        keys = ("error", "clipped", "silent", *["weight_error"] * quantised)
        shares = (words.percent(row[key]) for key in keys)
        made.add_row(escape(row["name"]), row["shape"], threshold, f"{row['firing_rate']:.3f}", *shares)
    return made


def operations(metrics: Mapping[str, Any]) -> Table:
    """What an inference costs, for one sample."""
    made = table("for one sample", "SNN", "ANN", left=("for one sample",))
    synaptic, energy = metrics["synaptic_operations"], metrics["energy"]
    made.add_row("accumulates (spikes)", words.number(synaptic["Effective_ACs"]), "0")
    made.add_row(
        "multiply-accumulates", words.number(synaptic["Effective_MACs"]), words.number(metrics["ann_macs"])
    )
    made.add_row("energy, µJ", words.number(energy["snn_microjoule"]), words.number(energy["ann_microjoule"]))
    return made


def energies(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """The energy of one sample under each model; where the spiking network costs more it says so."""
    made = table("energy, µJ", *words.ENERGIES, left=("energy, µJ",))
    for name, cells in words.energies(models):
        made.add_row(escape(name), *cells)
    return made


def inspection(found: Inspection, *, every: bool) -> list[Any]:
    """What is in a network: facts, the kinds of nodes (or with `every`, each one), and what is in the way."""
    facts = Table.grid(padding=(0, 2))
    rows = {
        "file": f"{words.size(found.bytes)}, {found.producer or 'exporter unknown'}, opset {found.opset}",
        "nodes": f"{found.nodes} in the file"
        + (f", {found.graph_nodes} in the spiking graph" if found.graph_nodes is not None else ""),
        "parameters": words.number(found.parameters),
        "inputs": ", ".join(f"{name} {shape}" for name, shape in found.inputs.items()),
        "outputs": ", ".join(f"{name} {shape}" for name, shape in found.outputs.items()),
    }
    if found.neurons is not None:
        rows["neurons"] = words.number(found.neurons)
    for key, said in rows.items():
        facts.add_row(key, escape(said))
    shown: list[Any] = [f"[bold]{escape(found.name)}[/bold]", facts]
    if every and found.parts:
        nodes = table(
            "node",
            "kind",
            "shape",
            "in the spiking network",
            left=("node", "kind", "shape", "in the spiking network"),
        )
        for part in found.parts:
            nodes.add_row(
                escape(part.name), part.kind, part.shape, ROLES[part.role], style=STYLES.get(part.role)
            )
        shown.append(nodes)
    elif found.parts:
        kinds = table("nodes", "kind", "in the spiking network", left=("kind", "in the spiking network"))
        for role, kind, count in found.kinds():
            kinds.add_row(str(count), kind, ROLES[role], style=STYLES.get(role))
        shown.append(kinds)
    if found.convertible:
        return [*shown, "[green]converts[/green]"]
    refused = [f"[red]does not convert[/red]: {len(found.refused)} in the way"]
    refused += [
        f"  {escape(where)}: {escape(why)}" if why else f"  {escape(where)}" for where, why in found.refused
    ]
    return [*shown, *refused, *([f"hint:  {escape(found.hint)}"] if found.hint else [])]


STYLES = {"refused": "red", "kept": "yellow"}


def diagnosis(found: Diagnosis) -> list[Any]:
    """The layers of a diagnosis and, in words, the first that drifts."""
    half, full = f"T = {found.timesteps // 2}", f"T = {found.timesteps}"
    made = table(
        "layer", "threshold", half, full, "clipped", "silent", "likely cause", left=("layer", "likely cause")
    )
    for layer in found.layers:
        shares = (words.percent(s) for s in (layer.error_half, layer.error, layer.clipped, layer.silent))
        style = "bold red" if layer.name == found.first else ("red" if layer.cause else None)
        cause = escape(layer.cause.partition(":")[0])
        made.add_row(escape(layer.name), f"{layer.threshold:.3g}", *shares, cause, style=style)
    said = f"errors of the mean spikes, relative to the ANN's activation, over {found.samples} samples"
    first = next((layer for layer in found.layers if layer.name == found.first), None)
    if first is None:
        return [made, said, f"no layer drifts by more than {words.percent(found.tolerance)}"]
    return [
        made,
        said,
        f"[bold]{escape(first.name)}[/bold] is the first layer that drifts by more than "
        f"{words.percent(found.tolerance)}: by {words.percent(first.error)}",
        f"       {escape(first.cause)}",
        f"hint:  {escape(first.advice)}",
    ]
