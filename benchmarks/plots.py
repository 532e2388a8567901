"""`grid-NETWORK.svg`: accuracy against time, against spikes and against energy, a panel each.

A line is a method, a mark a T, a band the range over calibration seeds; the best of ours with each kind of
spikes is thick. What a spike may be has a colour and a key of its own, because T is not the same cost from
one to another. Drawing the same rows again gives the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from benchmarks import _common
from benchmarks._common import read_result
from benchmarks.methods import METHODS
from benchmarks.rows import Row, answer, by_line, mean
from converter.files import atomic_file

COLOURS = {"binary": "#0072b2", "signed": "#d55e00", "levels:4": "#009e73", "levels:15": "#b0588f"}
"""Told apart by colour-blind readers too (Okabe and Ito 2008), the last one darkened for thin lines."""
MEANING = {
    "binary": "binary: a threshold or nothing",
    "signed": "signed: may also take one back",
    "levels:4": "levels:4: up to 4 thresholds at once",
    "levels:15": "levels:15: up to 15 at once, 4 bits",
}
PEER, INK, GRID = "#6b6b6b", "#222222", "#dddddd"
PEERS = "binary, converted by others"
MARK = {method.name: mark for method, mark in zip(METHODS, "vsDo^PX*<>dph", strict=False)}
LEFT = 0.055

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "ann2snn",
    "font.family": "DejaVu Sans",  # comes with matplotlib; letters become paths
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
}

PANELS = (
    ("latency", "latency in time steps"),
    ("spikes_per_neuron", "spikes per neuron"),
    ("microjoules", "energy, µJ"),
)


@dataclass(frozen=True)
class Line:
    """One method with one kind of spikes: for each T in turn the mean, lowest and highest over seeds."""

    method: str
    spikes: str
    peer: bool
    values: dict[str, list[float]]
    """Column -> its mean at each T."""
    low: list[float]
    high: list[float]


def lines(rows: Iterable[Row]) -> list[Line]:
    """What there is to draw."""
    drawn = []
    for (spikes, method), times in by_line(rows).items():
        answers = [[answer(row) for row in seeds] for seeds in times.values()]
        values = {c: [mean([r[c] for r in seeds]) for seeds in times.values()] for c, _ in PANELS}
        values["answer"] = list(map(mean, answers))
        peer = any(row["package"] != "ann2snn" for seeds in times.values() for row in seeds)
        drawn.append(Line(method, spikes, peer, values, list(map(min, answers)), list(map(max, answers))))
    return drawn


def digest(rows: Iterable[Row]) -> str:
    """Names the numbers a picture is of, and the table of methods, which orders its marks."""
    columns = ("method", "spikes", "seed", "ann_accuracy", "ann_microjoules", *(c for c, _ in PANELS))
    told = sorted([*(str(row[c]) for c in columns), str(answer(row))] for row in rows)
    return hashlib.sha256(json.dumps([list(MARK), told]).encode()).hexdigest()[:16]


def figure(network: str, rows: Sequence[Row]) -> Figure:
    """The three panels and their legend."""
    drawn = lines(rows)
    accuracies = [row["ann_accuracy"] for row in rows if row["ann_accuracy"] is not None]
    ann = mean(accuracies) if accuracies else 1.0
    made = Figure(figsize=(11.4, 5.5), facecolor="white")
    panels = made.subplots(1, len(PANELS), sharey=True)
    made.subplots_adjust(left=LEFT, right=0.99, top=0.92, bottom=0.365, wspace=0.08)
    kind = "accuracy" if accuracies else "agreement with the ANN"
    size = sorted({row["samples"] for row in rows})[-1]
    made.text(LEFT, 0.955, f"{network}: {kind} on {size:,} samples, in percent", weight="bold", size=11)
    for panel, (column, label) in zip(panels, PANELS, strict=True):
        for line in drawn:
            _draw(panel, line, column, best(line, drawn))
        panel.axhline(100 * ann, color=INK, lw=1, ls=(0, (5, 3)), zorder=1)
        _frame(panel, label, column == "latency")
    lowest = min(ann - 0.01, *(min(line.low) for line in drawn))
    floor = 100 * max(lowest - 0.05 * (ann - lowest), ann - 0.52)
    panels[0].set_ylim(floor, 100 * ann + 0.11 * (100 * ann - floor))
    name = f"ANN {100 * ann:.2f}" if accuracies else "ANN"
    at: dict[str, Any] = {"textcoords": "offset points", "size": 9}
    panels[0].annotate(name, (0.015, 100 * ann), (0, 8), xycoords=("axes fraction", "data"), **at)
    own = mean([row["ann_microjoules"] for row in rows])
    panels[-1].axvline(own, color=INK, lw=1, ls=(0, (1, 2)), zorder=1)
    words = f"the ANN's\n{own:.3g} µJ"
    panels[-1].annotate(words, (own, 0.02), (3, 0), xycoords=("data", "axes fraction"), **at)
    _legend(made, drawn)
    return made


def best(line: Line, drawn: Iterable[Line]) -> bool:
    """Whether no other of ours with the same spikes is more accurate on average over latencies both have."""

    def ahead(other: Line) -> bool:
        both = set(line.values["latency"]) & set(other.values["latency"])
        gain = [_at(other, t) - _at(line, t) for t in both]
        return bool(gain) and mean(gain) > 0

    rivals = (
        other for other in drawn if other.spikes == line.spikes and not other.peer and other is not line
    )
    return not line.peer and not any(map(ahead, rivals))


def _at(line: Line, latency: float) -> float:
    return line.values["answer"][line.values["latency"].index(latency)]


def _look(line: Line) -> dict[str, Any]:
    colour = PEER if line.peer else COLOURS[line.spikes]
    style = (0, (4, 2)) if line.peer else (0, (6, 1, 1, 1)) if line.spikes.startswith("levels") else "-"
    return {"color": colour, "marker": MARK.get(line.method, "."), "ls": style}


def _draw(panel: Axes, line: Line, column: str, heavy: bool) -> None:
    x, y = line.values[column], [100 * v for v in line.values["answer"]]
    weight: dict[str, Any] = (
        {"lw": 2.2, "ms": 5.5, "zorder": 4} if heavy else {"lw": 1.1, "ms": 4, "alpha": 0.75, "zorder": 3}
    )
    panel.plot(x, y, mew=0, **_look(line), **weight)
    if line.low != line.high:
        low, high = ([100 * v for v in edge] for edge in (line.low, line.high))
        panel.fill_between(x, low, high, color=_look(line)["color"], alpha=0.15, lw=0)


def _frame(panel: Axes, label: str, whole: bool) -> None:
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.set_xscale("log", base=2 if whole else 10)
    if whole:
        panel.xaxis.set_major_locator(LogLocator(2, numticks=12))
        panel.xaxis.set_minor_locator(NullLocator())
    else:
        panel.xaxis.set_major_locator(LogLocator(10, (1.0, 3.0)))
        panel.xaxis.set_minor_formatter(NullFormatter())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    panel.tick_params(length=0, which="both")
    panel.grid(lw=0.75)
    panel.set_axisbelow(True)
    panel.set_xlabel(label)


def _legend(made: Figure, drawn: Sequence[Line]) -> None:
    """One key of colours, what a spike may be; one of marks, the methods."""
    given = {PEERS if line.peer else line.spikes: _look(line) | {"marker": ""} for line in drawn}
    spikes = [key for key in (*COLOURS, PEERS) if key in given]
    colours = [Line2D([], [], lw=2.2, label=MEANING.get(key, key), **given[key]) for key in spikes]
    looks = {line.method: _look(line) for line in drawn}
    names = [m.name for m in METHODS if m.name in looks] + [n for n in looks if n not in MARK]
    marks = [Line2D([], [], lw=0, label=n, **looks[n] | {"color": PEER}, mew=0) for n in names]
    for left, title, handles in (
        (LEFT, "colour: what a spike may be", colours),
        (0.42, "mark: method", marks),
    ):
        made.legend(
            handles=handles,
            title=title,
            loc="upper left",
            bbox_to_anchor=(left - 0.006, 0.245),
            ncols=-(-len(handles) // 5),
            frameon=False,
            alignment="left",
            title_fontproperties={"weight": "bold", "size": 10},
            handlelength=2.2,
            borderaxespad=0,
        )


def worth(rows: Iterable[Row]) -> bool:
    """Whether there is anything to draw: a method measured at more than one T."""
    return any(len(times) > 1 for times in by_line(rows).values())


def draw(network: str, folder: Path | None = None) -> Path | None:
    """Draw the rows kept in `folder` for `network`; the picture's path, or None if there is none to draw."""
    kept = folder or _common.RESULTS
    rows, path = read_result(f"grid-{network}", kept)["rows"], kept / f"grid-{network}.svg"
    if not worth(rows):
        return None
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) | {"Identifier": digest(rows)}
    with rc_context(STYLE), atomic_file(path, force=True) as unfinished:
        figure(network, rows).savefig(unfinished, format="svg", metadata=metadata)
    return path
