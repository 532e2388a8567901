"""How a report is said: numbers, names and the result in a sentence, alike on the page and on the card."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from converter.report import Point, Report

NEAR = 0.005
"""Half a point: how close to the ANN's accuracy counts as having reached it."""

_SAID = ("assumption", "assumptions")
_UNITS = {"picojoule": "pJ", "nanojoule": "nJ", "microjoule": "µJ", "millijoule": "mJ", "seconds": "s"}
_UPPER = {
    "ann": "ANN",
    "snn": "SNN",
    "ac": "AC",
    "mac": "MAC",
    "macs": "MACs",
    "acs": "ACs",
    "sha256": "SHA-256",
}


def percent(share: float | None) -> str:
    """0.9163 -> `91.6 %`; shares under a thousandth keep two digits that say something; unknown is a dash."""
    if share is None or not math.isfinite(share):
        return "–"
    if 0 < abs(share) < 0.0005:
        return f"{100 * share:.2g} %" if abs(share) >= 1e-5 else "< 0.001 %"
    return f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """Counts with thousands apart, other numbers with four digits; unknown is a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "\u202f")
    if abs(value) >= 10_000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.4g}"


def nats(divergence: float | None) -> str:
    """A divergence in nats, its unit said elsewhere: four decimals; unknown is a dash."""
    if divergence is None or not math.isfinite(divergence):
        return "–"
    return "< 0.0001" if 0 < divergence < 0.00005 else f"{divergence:.4f}"


def figure(value: float | None) -> str:
    """A figure between 0 and 1 as the field quotes it: `0.338`; unknown is a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def few(curve: Sequence[Any]) -> Sequence[Any]:
    """The last four points of a curve."""
    return curve[-4:]


def size(count: float) -> str:
    """1234567 -> `1.2 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def label(key: str) -> str:
    """`Effective_ACs` -> `effective ACs`."""
    return " ".join(_UPPER.get(word, word) for word in key.lower().split("_"))


def value(key: str, given: Any) -> str:
    """A setting or a metric in words; what it is shows in its key: a sparsity, bytes, an energy in pJ."""
    if given is None:
        return "none"
    if isinstance(given, bool):
        return "yes" if given else "no"
    if isinstance(given, int | float):
        return _measure(key, given)
    if isinstance(given, Mapping):
        told = ((str(k), v) for k, v in given.items() if v is not None and v != [] and v != ())
        return ", ".join(f"{k} {_grouped(value(k, v), v)}" for k, v in told) or "none"
    if isinstance(given, list | tuple):
        return ", ".join(value(key, v) for v in given) or "none"
    return str(given)


def _grouped(said: str, given: Any) -> str:
    """A list among other settings, in brackets."""
    return f"({said})" if isinstance(given, list | tuple) and len(given) > 1 else said


def _measure(key: str, given: float) -> str:
    words = key.split("_")
    if words[-1] in ("sparsity", "share", "density"):
        return percent(given)
    if words[-1] in ("footprint", "bytes"):
        return size(given)
    if words[-1] in ("ratio", "factor"):
        return f"{given:.3g} ×" if math.isfinite(given) else "–"
    unit = _UNITS.get(words[-1], "") if len(words) > 1 else ""
    return f"{number(given)} {unit}".rstrip()


def metric_groups(metrics: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(group, [(label, value), …]) for all metrics; assumptions are not numbers and stand apart."""
    numbers = {k: v for k, v in metrics.items() if not isinstance(v, Mapping) and k not in _SAID}
    if numbers:
        bare = {key: key.rpartition("_")[0] if _has_unit(key) else key for key in numbers}
        yield name, [(label(bare[key]), value(key, given)) for key, given in numbers.items()]
    for key, given in metrics.items():
        if isinstance(given, Mapping):
            yield from metric_groups(given, f"{name}, {label(key)}" if name else label(key))


PARTS = ("arithmetic", "weights", "membranes", "updates", "spikes")
ENERGIES = (*PARTS, "SNN", "ANN", "SNN / ANN")
"""What `energies` has of each model."""


def energies(models: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(model, its `ENERGIES`) of one sample, in microjoules; where the SNN costs more, the last says so."""
    return [
        (
            name,
            [
                *(number(cost[f"{part}_microjoule"]) for part in (*PARTS, "snn", "ann")),
                "–" if cost["snn_to_ann_ratio"] is None else number(cost["snn_to_ann_ratio"]),
            ],
        )
        for name, cost in models.items()
    ]


def models_of(metrics: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The energy under each model, where metrics have it."""
    found: Mapping[str, Mapping[str, Any]] = metrics.get("energy", {}).get("models", {})
    return found


def without_models(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics but for the energy under models, which is a table of its own."""
    return {
        key: {k: v for k, v in given.items() if k != "models"} if key == "energy" else given
        for key, given in metrics.items()
    }


def _has_unit(key: str) -> bool:
    return "_" in key and key.rpartition("_")[2] in _UNITS


def assumptions(metrics: Mapping[str, Any]) -> Iterator[str]:
    """The sentences the numbers rest on, wherever among the metrics they stand."""
    for key, given in metrics.items():
        if key in _SAID:
            yield from given if isinstance(given, list | tuple) else [value(key, given)]
        elif key == "models":
            yield from (f"{name}: {model['assumption']}" for name, model in given.items())
        elif isinstance(given, Mapping):
            yield from assumptions(given)


def settings(report: Report) -> list[tuple[str, str]]:
    """(label, value) of all settings that say something; the command line stands apart."""
    given = ((k, v) for k, v in report.settings.items() if k != "command" and v not in (None, "", (), [], {}))
    return [(label(key), value(key, each)) for key, each in given]


def maker(report: Report) -> str:
    """`ann2snn 0.1.0`, or without the number where it is not known."""
    version = report.versions.get("ann2snn", "")
    return f"ann2snn {version}" if version[:1].isdigit() else "ann2snn"


def headline(report: Report) -> str:
    """The result in a sentence, without the model's name: accuracy with labels, agreement without."""
    if not report.curve:
        return "converted, not measured"
    last = report.curve[-1]
    steps = f"{last.timesteps} step{'s' if last.timesteps != 1 else ''} of {spikes(report)} spikes"
    if late(report.curve):
        steps += f" a layer, {last.latency} from image to answer"
    if report.settings.get("neuron_options", {}).get("continuous"):
        steps = f"{last.latency} windows of continuous time, one first spike a neuron at most"
    if report.task is not None and report.task.ann:
        (name, ann), (_, snn) = (
            next(iter(f.items())) for f in (report.task.ann, report.task.curve[-1].figures)
        )
        return f"{name} {figure(snn)} after {steps}, the ANN has {figure(ann)}"
    if last.accuracy is None and last.agreement is None:
        return f"after {steps} its outputs are {percent(last.output_error)} from the ANN's"
    if last.accuracy is None:
        return f"after {steps} it answers as the ANN does on {percent(last.agreement)} of the samples"
    return f"{percent(last.accuracy)} after {steps}, the ANN has {percent(report.ann_accuracy)}"


def spikes(report: Report) -> str:
    """What the network's spikes may be: `binary`, `signed`, `binary and signed`."""
    return " and ".join(dict.fromkeys(layer.spikes for layer in report.layers)) or "no"


def settled(report: Report) -> int | None:
    """The step from which on the accuracy is at most half a point below the ANN's, if there is one."""
    found = None
    for point in report.curve:
        if report.ann_accuracy is None or point.accuracy is None:
            return None
        if point.accuracy < report.ann_accuracy - NEAR:
            found = None
        elif found is None:
            found = point.timesteps
    return found


def settling(report: Report) -> str:
    """`settled` as a sentence, empty where it does not."""
    step = settled(report)
    if step is None:
        return ""
    since = f"With windows of {step} steps or more" if late(report.curve) else f"From step {step} on"
    return f"{since} it stays within half a point of the ANN."


def early(report: Report) -> str:
    """What early answers of first spikes save at the margin that was chosen, in a sentence; or empty."""
    chosen = next((d for d in report.decisions if d.chosen), None)
    if chosen is None:
        return ""
    what = "agreement with the end" if chosen.accuracy is None else "accuracy"
    value = chosen.agreement if chosen.accuracy is None else chosen.accuracy
    return (
        f"Answered as soon as one output leads by enough, {chosen.steps:.1f} of the {chosen.window} steps of "
        f"the last window are needed on average ({chosen.latency:.1f} from the image): {what} "
        f"{percent(value)}."
    )


def late(curve: Sequence[Point]) -> bool:
    """Whether an answer takes longer than the steps it is made of, so that its latency is worth saying."""
    return any(point.latency not in (None, point.timesteps) for point in curve)


def milestones(curve: tuple[Point, ...]) -> tuple[Point, ...]:
    """The points worth a row: all of a dozen; of more, those at powers of two, and the last."""
    if len(curve) <= 12:
        return curve
    return tuple(p for p in curve if p is curve[-1] or p.timesteps & (p.timesteps - 1) == 0)


def markdown(text: object) -> str:
    """`text` as plain words of a Markdown document: one line, nothing in it acts as markup, HTML or table."""
    flat = " ".join(str(text).split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    flat = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", flat)
    flat = re.sub(r"^([-+#=])", r"\\\1", flat)
    flat = re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", flat)
    # A bare address becomes a link by itself in GitHub's dialect; an entity for its colon stops that.
    return re.sub(r"\b(https?|ftp)://", r"\1&#58;//", flat, flags=re.IGNORECASE).replace("www.", "www&#46;")


def code(text: object) -> str:
    """`text` as a code span, also inside a table: what would end either is replaced by its likeness."""
    flat = " ".join(str(text).split()).replace("`", "'").replace("|", "¦")
    return f"`{flat}`"
