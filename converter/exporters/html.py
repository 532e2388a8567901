"""The report as one page: a single HTML file that loads nothing, in light and dark, on paper and on a phone.

Names come from other people's files, so the template escapes everything; the drawings are ours.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator

from markupsafe import Markup

from converter.exporters import _words as words
from converter.exporters._charts import accuracy_chart, divergence_chart, search_chart, spikes_chart
from converter.exporters._templates import environment
from converter.report import Layer, Report

Measure = tuple[str, str, Callable[[Layer], float], Callable[[float], str]]
MEASURES: tuple[Measure, ...] = (
    ("firing rate", "spikes per neuron and step", lambda layer: layer.firing_rate, lambda v: f"{v:.3f}"),
    (
        "error",
        "mean difference to the ANN, over its mean activation",
        lambda layer: layer.error,
        words.percent,
    ),
    ("clipped", "ANN activations above the threshold", lambda layer: layer.clipped, words.percent),
    ("silent", "neurons that should fire and never did", lambda layer: layer.silent, words.percent),
)
"""What is shown of a layer: name, meaning, where it stands, how it is said."""
OF_WEIGHTS: Measure = (
    "weights",
    "relative error of the quantised weights before it",
    lambda layer: layer.weight_error or 0.0,
    words.percent,
)


def measures(report: Report) -> tuple[Measure, ...]:
    """What there is to show of the layers of `report`."""
    quantised = any(layer.weight_error is not None for layer in report.layers)
    return (*MEASURES, OF_WEIGHTS) if quantised else MEASURES


def page(report: Report, picture: bytes | None = None) -> str:
    """The page for `report`, complete; the same report gives the same page, byte for byte.

    `picture` is a PNG of what a dense network found, and becomes part of the page.
    """
    return (
        environment(html=True)
        .get_template("page.html.jinja")
        .render(
            report=report,
            words=words,
            measures=measures(report),
            headline=words.headline(report),
            settling=words.settling(report),
            points=words.milestones(report.curve),
            late=words.late(report.curve),
            accuracy_chart=Markup(accuracy_chart(report)),
            divergence_chart=Markup(divergence_chart(report)),
            spikes_chart=Markup(spikes_chart(report)) if report.curve else "",
            searches=[
                (step, Markup(search_chart(f"search{place}", step.trials)))
                for place, step in enumerate(report.steps)
                if step.trials
            ],
            task=report.task,
            picture=None if picture is None else base64.b64encode(picture).decode(),
            layers=list(_layers(report)),
            worst=max(report.layers, key=lambda layer: _finite(layer.error), default=None),
            metrics=list(words.metric_groups(words.without_models(report.metrics))),
            energies=words.energies(words.models_of(report.metrics)),
            assumptions=list(words.assumptions(report.metrics)),
        )
    )


def _layers(report: Report) -> Iterator[tuple[Layer, list[tuple[str, str]]]]:
    """Each layer with (text, length of its bar) for every measure; a column's largest fills its width."""
    tops = [
        max((_finite(of(layer)) for layer in report.layers), default=0) for _, _, of, _ in measures(report)
    ]
    for layer in report.layers:
        cells = [
            (say(of(layer)), f"{_finite(of(layer)) / top:.3f}" if top else "0")
            for (_, _, of, say), top in zip(measures(report), tops, strict=True)
        ]
        yield layer, cells


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
