"""The pictures of the page, as SVG that takes its colours and letters from the page around it.

matplotlib draws in marker colours that stand for roles; they become CSS variables, so one drawing is right in
light and in dark. Identifiers get a prefix, so several drawings share a page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import ceil, floor, log10
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from converter.exporters._words import milestones
from converter.report import Report, Trial

# Colours nobody would choose: each stands for a role in the page's style sheet.
INK, MUTED, LINE, MAIN, OTHER = "#010101", "#020202", "#030303", "#040404", "#050505"
_ROLES = {INK: "ink", MUTED: "muted", LINE: "line", MAIN: "main", OTHER: "other"}

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "ann2snn",
    "svg.fonttype": "none",
    "font.size": 12,
    "text.color": MUTED,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": LINE,
    "axes.linewidth": 1,
}


def accuracy_chart(report: Report) -> str:
    """Accuracy (with labels) and agreement with the ANN against time, the ANN's accuracy as a line across.

    Empty where outputs are no scores of classes.
    """
    agreement = [p.agreement for p in report.curve if p.agreement is not None]
    if not agreement:
        return ""

    def draw(axes: Axes) -> None:
        times = [p.timesteps for p in report.curve]
        marked = [times.index(p.timesteps) for p in milestones(report.curve)]
        accuracy = [p.accuracy for p in report.curve if p.accuracy is not None]
        labelled = len(accuracy) == len(times)
        if report.ann_accuracy is not None and labelled:
            axes.axhline(report.ann_accuracy, color=INK, lw=1, ls=(0, (4, 3)), label="ANN's accuracy")
        axes.plot(
            times,
            agreement,
            "o-",
            color=OTHER if labelled else MAIN,
            lw=1.25 if labelled else 2,
            ms=4.5,
            markevery=marked,
            label="agreement with the ANN",
        )
        if labelled:
            axes.plot(times, accuracy, "o-", ms=5, lw=2, markevery=marked, color=MAIN, label="accuracy")
        lowest = min(
            [*agreement, *accuracy, report.ann_accuracy if labelled and report.ann_accuracy else 1.0]
        )
        bottom = max(0.0, int(10 * lowest) / 10 - 0.05)
        axes.set_ylim(bottom, 1 + (1 - bottom) * 0.04)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        if labelled:
            axes.legend(
                *(reversed(part) for part in axes.get_legend_handles_labels()),
                loc="lower left",
                bbox_to_anchor=(-0.02, 1.0),
                ncols=3,
                frameon=False,
                handlelength=1.6,
                columnspacing=1.2,
                handletextpad=0.5,
                borderaxespad=0,
                fontsize=11,
            )

        _over_time(axes, report)

    return _svg("accuracy", draw)


def divergence_chart(report: Report) -> str:
    """KL from the ANN at each step, its axis in powers of ten; what is less than a millionth stands there.

    Empty where outputs are no scores of classes.
    """
    nats = [max(p.divergence, 1e-6) for p in report.curve if p.divergence is not None]
    if not nats:
        return ""

    def draw(axes: Axes) -> None:
        times = [p.timesteps for p in report.curve]
        marked = [times.index(p.timesteps) for p in milestones(report.curve)]
        axes.plot(times, nats, "o-", ms=5, lw=2, markevery=marked, color=MAIN)
        _in_powers_of_ten(axes, nats)
        _over_time(axes, report)

    return _svg("divergence", draw)


def spikes_chart(report: Report) -> str:
    """Spikes per neuron up to each step, from zero."""

    def draw(axes: Axes) -> None:
        times = [p.timesteps for p in report.curve]
        marked = [times.index(p.timesteps) for p in milestones(report.curve)]
        spikes = [p.spikes_per_neuron for p in report.curve]
        axes.plot(times, spikes, "o-", ms=5, lw=2, markevery=marked, color=MAIN)
        axes.set_ylim(0, max(spikes) * 1.08 or 1)

        _over_time(axes, report)

    return _svg("spikes", draw)


def search_chart(name: str, trials: Sequence[Trial]) -> str:
    """What each trial of a search found, its axis in powers of ten, and the best so far as a line."""

    def draw(axes: Axes) -> None:
        numbers = range(1, len(trials) + 1)
        found = [max(trial.objective, 1e-6) for trial in trials]
        axes.plot(numbers, found, "o", ms=4.5, color=OTHER, label="each trial")
        axes.step(numbers, list(accumulate(found, min)), where="post", lw=2, color=MAIN, label="best so far")
        _in_powers_of_ten(axes, found)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("trials")
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, fontsize=11)

    return _svg(name, draw)


def _svg(name: str, draw: Callable[[Axes], None]) -> str:
    with rc_context(_STYLE):
        figure = Figure(figsize=(480 / 72, 300 / 72))
        axes = figure.add_axes((0.105, 0.15, 0.875, 0.76))
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_axisbelow(True)
        draw(axes)
        axes.grid(axis="y", lw=0.75)
        drawing = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(drawing, format="svg", transparent=True, metadata=nothing)
    return _inline(drawing.getvalue(), name)


def _over_time(axes: Axes, report: Report) -> None:
    """The horizontal axis in powers of two steps."""
    times = [p.timesteps for p in milestones(report.curve)]
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator([t for t in times if t & (t - 1) == 0] or times))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t:.0f}"))
    axes.set_xlabel("time steps")


def _in_powers_of_ten(axes: Axes, values: Sequence[float]) -> None:
    """The vertical axis logarithmic, around `values`."""
    axes.set_yscale("log")
    axes.set_ylim(10 ** floor(log10(min(values))), 10 ** ceil(log10(max(values) * 1.1)))
    axes.yaxis.set_major_locator(LogLocator(10, numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _inline(svg: str, name: str) -> str:
    """The drawing without file header and fixed size, its colours and fonts left to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', 'aria-hidden="true" ', svg, count=1)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for colour, role in _ROLES.items():
        svg = svg.replace(colour, f"var(--{role})")
    return re.sub(r"\s*\n\s*", "\n", svg).strip()
