"""`early-exit`: how much sooner do samples have their answer, and what does it cost in accuracy?

    python -m benchmarks early-exit
    python -m benchmarks early-exit resnet20 --spikes signed --cap 32 --delays 0 4 8 12

The delay of the read-out and the margin are chosen on training images that no calibrator has seen: of the
delays after which the cap is best (but for `--may-lose` of the images), and the smallest margin for each
with which no more than `--may-lose` are answered otherwise than at the cap, what answers soonest in the
mean. Steps within the delay were waited for and count. Then the test images are run with that delay, once
to the cap and once with early exit by the engine itself (`converter.early_exit`), whose answers are
counted, and both are timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Choice:
    """When to answer, and what that does to the images it was chosen on."""

    delay: int
    margin: float
    accuracy: float
    timesteps: float


def exits(curve: Tensor, labels: Tensor, margin: float, delay: int = 0) -> tuple[float, float]:
    """Accuracy and mean step of the answers, of read-outs after every step [T, samples, classes].

    Those within the delay are no answers.
    """
    counted = (torch.arange(1, len(curve) + 1) - delay)[:, None]
    first, second = curve.topk(2, dim=2).values.unbind(2)
    decided = (counted * (first - second) >= margin) & (counted > 0)
    decided[-1] = True
    when = decided.int().argmax(0)
    answers = curve.argmax(2)[when, torch.arange(len(labels))]
    return float((answers == labels).double().mean()), float((when + 1).double().mean())


def chosen(read: Mapping[int, Tensor], labels: Tensor, may_lose: float) -> Choice:
    """The delay and the smallest margin for it that answer soonest, of read-outs for each delay.

    With that delay the last step is as good as with any, and with that margin the answers are those of the
    last step, but for this share of the samples; where no margin does that, it is the largest tried.
    """
    last = {delay: curve[-1].argmax(1) for delay, curve in read.items()}
    right = {delay: float((answers == labels).double().mean()) for delay, answers in last.items()}
    found = []
    for delay, curve in read.items():
        if right[delay] >= max(right.values()) - may_lose - 1e-12:
            same = (m for m in TRIED if exits(curve, last[delay], m, delay)[0] >= 1 - may_lose - 1e-12)
            margin = next(same, TRIED[-1])
            found.append(Choice(delay, margin, *exits(curve, labels, margin, delay)))
    return min(found, key=lambda choice: choice.timesteps)


@torch.no_grad()
def curves(model: RateModel, batches: Labelled, cap: int) -> tuple[Tensor, Tensor]:
    """Read-outs after every step [cap, samples, classes], and the labels."""
    found = [model(x, cap).cpu() for x, _ in batches]
    return torch.cat(found, 1), torch.cat([labels.reshape(-1).cpu() for _, labels in batches])


def row(
    name: str,
    spikes: str,
    chain: Sequence[str],
    cap: int,
    few: int,
    may_lose: float,
    delays: Sequence[int] = (0,),
    device: str = "cpu",
) -> dict[str, Any]:
    """One network with one kind of spikes."""
    preset = PRESETS[name]
    neuron, levels = neuron_for(spikes)
    options = {} if levels is None else {"levels": levels}
    settings = Settings(neuron=neuron, neuron_options=options, timesteps=(cap,), samples=100, device=device)
    conversion = convert(preset.model, preset.source, [calibrator(each) for each in chain], settings)
    assert isinstance(conversion.model, RateModel)
    models = {delay: RateModel(conversion.model.graph, delay=delay) for delay in delays}
    source = preset.source(conversion.ann)
    parts = split(source, settings.calibration_samples + few, None, settings.seed)
    unseen = parts.calibration[settings.calibration_samples :]

    def labelled(indices: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        for x, labels in on(source.batches(indices, 100), conversion.model.device):
            assert labels is not None
            yield x, labels

    pairs = list(labelled(unseen))
    found_of = {delay: curves(model, pairs, cap) for delay, model in models.items()}
    choice = chosen({d: curve for d, (curve, _) in found_of.items()}, found_of[delays[0]][1], may_lose)
    model, margin = models[choice.delay], choice.margin
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
        "margin_chosen_on": len(unseen),
        "delays": list(delays),
        "delay": choice.delay,
        "expected_accuracy": choice.accuracy,
        "expected_timesteps": choice.timesteps,
        "accuracy_at_the_cap": right / images,
        "seconds_to_the_cap": whole,
        "seconds_with_early_exit": took,
        **asdict(found),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each network and kind of spikes."""
    return markdown(
        "network|spikes|images|cap|delay|accuracy, %|margin|mean T|accuracy then, %|points lost|cap / mean T|"
        "steps run|time",
        [
            [
                *(r["network"], r["spikes"], r["images"], r["cap"], r.get("delay", 0)),
                *(f"{100 * r['accuracy_at_the_cap']:.2f}", f"{r['margin']:.1f}"),
                *(f"{r['mean_timesteps']:.2f}", f"{100 * r['accuracy']:.2f}"),
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
    parser.add_argument("--delays", type=int, nargs="+", default=[0], help="delays of the read-out to try")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--keep", metavar="NAME", default="early-exit", help="the JSON's name")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    rows = []
    for spikes in given.spikes:
        asked = given.calibrator, given.cap, given.margin_samples, given.may_lose, given.delays, given.device
        rows.append(row(given.network, spikes, *asked))
        print(table(rows[-1:]), file=sys.stderr)
    print(table(rows))
    write_result(given.keep, ["early-exit", *arguments], {**environment(given.threads), "rows": rows})
    return 0
