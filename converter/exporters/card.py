"""The report as a model card: the README.md of an artefact, plain Markdown that reads well as text too.

Every value goes through `words.markdown`: a name from somebody's file stays a name.
"""

from __future__ import annotations

from converter.exporters import _words as words
from converter.exporters._templates import environment
from converter.report import Report


def card(report: Report) -> str:
    """The model card for `report`."""
    jinja = environment(html=False)
    jinja.filters.update(md=words.markdown, code=words.code)
    return jinja.get_template("card.md.jinja").render(
        report=report,
        words=words,
        headline=words.headline(report),
        settling=words.settling(report),
        points=words.milestones(report.curve),
        late=words.late(report.curve),
        metrics=list(words.metric_groups(words.without_models(report.metrics))),
        energies=words.energies(words.models_of(report.metrics)),
        assumptions=list(words.assumptions(report.metrics)),
        neurons=sum(layer.neurons for layer in report.layers),
        kinds=sorted({layer.neuron for layer in report.layers}),
        worst=max(report.layers, key=lambda layer: layer.clipped, default=None),
    )
