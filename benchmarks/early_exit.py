"""`early-exit`: how much sooner do samples have their answer, and what does it cost in accuracy?

    python -m benchmarks early-exit
    python -m benchmarks early-exit resnet20 --spikes signed --cap 32

The margin is chosen on training images: the smallest at which no more than `--may-lose` of them are lost
against answering all at the cap. Then the test images are run, once to the cap and once with early exit by
the engine itself (`converter.early_exit`), whose answers are counted, and both are timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from benchmarks._common import environment, markdown, spent, write_result
from benchmarks.accuracy import calibrator
from benchmarks.presets import PRESETS
from converter.config import neuron_for
from converter.data import split
from converter.early_exit import measure
from converter.pipeline import Settings, convert, on
from converter.rate import RateModel

TRIED = tuple(0.5 * 1.15**i for i in range(50))
"""Margins, in steps times the output's units."""
Labelled = Sequence[tuple[Tensor, Tensor]]


def exits(curve: Tensor, labels: Tensor, margin: float) -> tuple[float, float]:
    """Accuracy and mean step of the answers, of read-outs after every step [T, samples, classes]."""
    steps = torch.arange(1, len(curve) + 1)
    first, second = curve.topk(2, dim=2).values.unbind(2)
    decided = steps[:, None] * (first - second) >= margin
    decided[-1] = True
    when = decided.int().argmax(0)
    answers = curve.argmax(2)[when, torch.arange(len(labels))]
    return float((answers == labels).double().mean()), float((when + 1).double().mean())


def chosen(curve: Tensor, labels: Tensor, may_lose: float) -> float:
    """The smallest margin that loses no more than this share of the samples against the last step."""
    last = float((curve[-1].argmax(1) == labels).double().mean())
    kept = (margin for margin in TRIED if exits(curve, labels, margin)[0] >= last - may_lose - 1e-12)
    return next(kept, TRIED[-1])


@torch.no_grad()
def curves(model: RateModel, batches: Labelled, cap: int) -> tuple[Tensor, Tensor]:
    """Read-outs after every step [cap, samples, classes], and the labels."""
    found = [model(x, cap).cpu() for x, _ in batches]
    return torch.cat(found, 1), torch.cat([labels.reshape(-1).cpu() for _, labels in batches])


def row(
    name: str, spikes: str, chain: Sequence[str], cap: int, few: int, may_lose: float, device: str
) -> dict[str, Any]:
    """One network with one kind of spikes."""
    preset = PRESETS[name]
    neuron, levels = neuron_for(spikes)
    options = {} if levels is None else {"levels": levels}
    settings = Settings(neuron=neuron, neuron_options=options, timesteps=(cap,), samples=100, device=device)
    conversion = convert(preset.model, preset.source, [calibrator(each) for each in chain], settings)
    model = conversion.model
    assert isinstance(model, RateModel)
    source = preset.source(conversion.ann)
    parts = split(source, few, None, settings.seed)

    def labelled(indices: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        for x, labels in on(source.batches(indices, 100), conversion.model.device):
            assert labels is not None
            yield x, labels

    curve, labels = curves(model, list(labelled(parts.calibration)), cap)
    margin = chosen(curve, labels, may_lose)
    expected = exits(curve, labels, margin)
    test = list(labelled(parts.measurement))
    start = spent(model.device)
    right = sum(int((model(x, cap, at=(cap,))[0].argmax(1) == y.reshape(-1)).sum()) for x, y in test)
    whole = spent(model.device) - start
    start = spent(model.device)
    found = measure(model, conversion.ann, test, cap, margin)
    took = spent(model.device) - start
    images = sum(len(x) for x, _ in test)
    return {
        "network": name,
        "spikes": spikes,
        "execution": model.execution(100),
        "calibrators": list(chain),
        "images": images,
        "margin_chosen_on": few,
        "expected_accuracy": expected[0],
        "expected_timesteps": expected[1],
        "accuracy_at_the_cap": right / images,
        "seconds_to_the_cap": whole,
        "seconds_with_early_exit": took,
        **asdict(found),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each network and kind of spikes."""
    return markdown(
        "network|spikes|images|cap|accuracy, %|margin|mean T|accuracy then, %|points lost|cap / mean T|"
        "steps run|time",
        [
            [
                *(r["network"], r["spikes"], r["images"], r["cap"], f"{100 * r['accuracy_at_the_cap']:.2f}"),
                *(f"{r['margin']:.1f}", f"{r['mean_timesteps']:.2f}", f"{100 * r['accuracy']:.2f}"),
                f"{100 * (r['accuracy_at_the_cap'] - r['accuracy']):.2f}",
                f"{r['cap'] / r['mean_timesteps']:.2f}",
                f"{r['steps_run']:.2f}",
                f"{r['seconds_with_early_exit'] / r['seconds_to_the_cap']:.2f} ×",
            ]
            for r in rows
        ],
    )


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, keep `early-exit.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks early-exit", description=__doc__)
    parser.add_argument("network", nargs="?", choices=sorted(PRESETS), default="resnet20")
    parser.add_argument("--spikes", nargs="+", default=["binary", "signed"])
    parser.add_argument("--calibrator", nargs="+", default=["percentile:percentile=99.9"])
    parser.add_argument("--cap", type=int, default=32)
    parser.add_argument("--margin-samples", type=int, default=1000, help="training images to choose it on")
    parser.add_argument("--may-lose", type=float, default=0.001, help="share of them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--keep", metavar="NAME", default="early-exit", help="the JSON's name")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    rows = []
    for spikes in given.spikes:
        asked = given.calibrator, given.cap, given.margin_samples, given.may_lose, given.device
        rows.append(row(given.network, spikes, *asked))
        print(table(rows[-1:]), file=sys.stderr)
    print(table(rows))
    write_result(given.keep, ["early-exit", *arguments], {**environment(given.threads), "rows": rows})
    return 0
