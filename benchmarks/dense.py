"""`dense`: how well do whole detectors and segmenters find and name as spiking networks?

    python -m benchmarks dense fastestdet --every 8
    python -m benchmarks dense --ann yunet            the ANN alone, on all images
    python -m benchmarks dense yunet --curve --every 100       the error of outputs over T, along one run

Every network goes through `converter.pipeline.convert` once for each kind of spikes and T; ANN and spiking
network are measured on the same images, every n-th of the set, by the same code. Calibration images are
others.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import SHARED, environment, markdown, write_result
from benchmarks.accuracy import calibrator
from converter import schedules
from converter.config import neuron_for
from converter.data import Source, open_source
from converter.graph import Graph
from converter.importer import load
from converter.pipeline import Calibrate, Settings, convert
from converter.preprocessing import Preprocessing
from converter.sources.reading import Reading
from converter.tasks.decoders import decoders
from converter.tasks.judge import Judge, Question
from converter.tasks.labels import Labels, read_labels, stem

RUNS = (("signed", 16), ("signed", 32), ("binary", 64), ("binary", 128))
"""Kind of spikes, and the run it is calibrated for."""
SHORT = (("levels:4", 4),)
OVER_TIME = (8, 16, 32, 64, 128, 256)
"""Where a curve is read out, along one run."""
CURVED = "signed", "binary"


@dataclass(frozen=True)
class Dense:
    """A network, its images and labels, how its outputs are read, and the ANN's known figure."""

    model: str
    images: str
    labels: str
    preprocessing: Preprocessing
    task: str
    decoder: str
    figure: float
    named: str
    """Which of the figures it is."""
    cut: tuple[str, ...] = ()
    min_size: float = 0.0
    foreground: int | None = None
    share: float = 0.0
    """Images count whose mask is of class 1 to more than this share."""
    chain: tuple[str, ...] = ("least-squares", "bias-correction")
    calibration: int = 16
    runs: tuple[tuple[str, int], ...] = RUNS
    options: dict[str, Any] = field(default_factory=dict)

    def path(self) -> Path:
        """The ONNX file."""
        return SHARED / "models" / f"{self.model}.onnx"

    def known(self) -> Labels:
        """The labels, as they are."""
        return read_labels(str(SHARED / "data" / self.labels), self.foreground)

    def question(self) -> Question:
        """What a run is asked."""
        made = decoders[self.decoder](**self.options)
        return Question(self.task, self.decoder, made, self.known(), self.min_size, self.foreground)

    def source(self, graph: Graph, every: int) -> Source:
        """The labelled images: every n-th one in the part `test`, the others in `train`."""
        data = SHARED / "data" / self.images
        whole = open_source(str(data), self.preprocessing, graph.inputs[0].shape, labels="none")
        return replace(whole, reading=parted(whole.reading, self.chosen(whole), every))

    def chosen(self, data: Source) -> list[int]:
        """The images that count, in the order of their names."""
        labels = self.known()
        found = labels.labelled(data.names, range(len(data)))
        if not self.share or labels.mask is None:
            return found
        masks = ((i, labels.mask(stem(data.names[i]))) for i in found)
        return [i for i, mask in masks if mask is not None and (mask == 1).mean() > self.share]


def parted(reading: Reading, chosen: Sequence[int], every: int) -> Reading:
    """`chosen` samples: every n-th is `test`; the others, and those not chosen, are `train`."""
    test = list(chosen[::every])
    order = [*test, *(i for i in range(reading.size) if i not in set(test))]
    parts = {"test": range(len(test)), "train": range(len(test), len(order))}
    names = tuple(reading.names[i] for i in order)
    read = lambda index, channels: reading.read(order[index], channels)  # noqa: E731
    return replace(reading, read=read, names=names, parts=parts)


FACES = "widerface_val200_640.zip", "widerface_val200_640.zip/labels.json"
COCO = "coco128_val2017.zip/images"
DENSE = {
    "fastestdet": Dense(
        "fastestdet_coco",
        COCO,
        "coco128_val2017.zip/object_detection/labels",
        Preprocessing(resize=(352, 352), channels="bgr"),
        task="detect",
        decoder="fastestdet",
        figure=0.338,
        named="mAP50",
        runs=(*RUNS, *SHORT),
    ),
    "yunet": Dense(
        "yunet_n_640_640",
        *FACES,
        Preprocessing(resize=(640, 640), fit="corner", channels="bgr", scale=1.0),
        task="detect",
        decoder="yunet",
        figure=0.878,
        named="mAP50",
        min_size=32,
        runs=(*RUNS, *SHORT),
        calibration=8,
    ),
    "ultraface": Dense(
        "ultraface_rfb_320",
        *FACES,
        Preprocessing(resize=(240, 320), scale=1.0, mean=(127.0,), std=(128.0,)),
        task="detect",
        decoder="ultraface",
        figure=0.775,
        named="mAP50",
        min_size=32,
        chain=("least-squares:headroom=1.5", "bias-correction"),
    ),
    "unet": Dense(
        "unet_carvana",
        "carvana_318_47x31.zip/test_images",
        "carvana_318_47x31.zip/test_masks",
        Preprocessing(),
        task="segment",
        decoder="argmax",
        figure=0.903,
        named="IoU",
        cut=("Conv_82",),
        calibration=64,
    ),
    "deeplab": Dense(
        "deeplab_portrait",
        COCO,
        "coco128_val2017.zip/semantic_segmentation/masks",
        Preprocessing(resize=(513, 513), scale=1 / 127.5, mean=(1.0,)),
        task="segment",
        decoder="argmax",
        figure=0.498,
        named="IoU",
        foreground=1,
        share=0.1,
        calibration=16,
    ),
}


def ann_figures(dense: Dense, every: int = 1) -> dict[str, float]:
    """The ANN's own figures on every n-th image, through our graph."""
    graph = load(dense.path(), outputs=dense.cut or None)
    data, judge = dense.source(graph, every), Judge(dense.question())
    samples, _ = judge.measurable(data, data.parts["test"])
    with torch.inference_mode():
        for first, (x, _) in enumerate(data.batches(samples, 1)):
            judge.ann(first, graph.run(x))
    return judge.task().ann


def chained(
    chain: Sequence[str], timesteps: int, schedule: str, delay: int = 0
) -> list[tuple[str, Calibrate]]:
    """The calibrators of these names and options, for this run."""
    run: dict[str, Any] = {"timesteps": timesteps, "schedule": schedule, "delay": delay}
    made: list[tuple[str, Calibrate]] = []
    for name, kind in map(calibrator, chain):
        options: Any = kind
        known = {each.name for each in fields(options)}
        made.append((name, replace(options, **{key: run[key] for key in run if key in known})))
    return made


def measured(
    name: str,
    dense: Dense,
    spikes: str,
    timesteps: Sequence[int],
    chain: Sequence[str],
    every: int,
    schedule: str = "stream",
    delay: int = 0,
) -> dict[str, Any]:
    """One conversion, calibrated for the last of `timesteps`; what is kept of it."""
    neuron, levels = neuron_for(spikes)
    target = max(timesteps)
    settings = Settings(
        neuron=neuron,
        neuron_options={} if levels is None else {"levels": levels},
        timesteps=tuple(timesteps),
        schedule=schedule,
        delay=delay,
        calibration_samples=dense.calibration,
        batch_size=1,
        outputs=dense.cut,
    )
    judge, started = Judge(dense.question()), time.perf_counter()
    report = convert(
        dense.path(),
        lambda graph: dense.source(graph, every),
        chained(chain, target, schedule, delay),
        settings,
        judge=judge,
    ).report
    assert report.task is not None
    slowest = max(report.layers, key=lambda layer: layer.error if isfinite(layer.error) else 0.0)
    errors = [max(each.curve[i].error for each in report.outputs) for i in range(len(report.curve))]
    return {
        "network": name,
        "spikes": spikes,
        "schedule": schedule,
        "delay": delay,
        "target": target,
        "calibrators": list(chain),
        "calibration_samples": dense.calibration,
        "images": report.data.samples,
        "every": every,
        "words": report.task.words,
        "ann": report.task.ann,
        "rows": [
            {
                "timesteps": point.timesteps,
                "figures": did.figures,
                "output_error": point.output_error,
                "worst_output_error": error,
                "spikes_per_neuron": point.spikes_per_neuron,
                "microjoules": point.microjoules,
                "latency": point.latency,
            }
            for point, did, error in zip(report.curve, report.task.curve, errors, strict=True)
        ],
        "outputs": [asdict(output) for output in report.outputs],
        "slowest": {"layer": slowest.name, "error": slowest.error},
        "analog": report.analog,
        "seconds": time.perf_counter() - started,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def table(runs: Sequence[dict[str, Any]], named: str) -> str:
    """A line a run and T."""
    header = f"spikes|T|{named}|ANN|output error|spikes per neuron|slowest layer"
    lines = []
    for run in runs:
        for row in run["rows"]:
            figures = f"{row['figures'][named]:.3f}", f"{run['ann'][named]:.3f}"
            costs = f"{row['output_error']:.4f}", f"{row['spikes_per_neuron']:.2f}"
            lines.append([run["spikes"], row["timesteps"], *figures, *costs, run["slowest"]["layer"]])
    return markdown(header, lines)


def main(arguments: Sequence[str]) -> int:
    """Run it for the networks named; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks dense",
        description=(__doc__ or "").partition("\n\n")[0],
        epilog=f"networks: {', '.join(DENSE)}",
    )
    parser.add_argument("network", choices=DENSE)
    parser.add_argument("--ann", action="store_true", help="the ANN alone; nothing is written")
    parser.add_argument(
        "--curve", action="store_true", help=f"least squares alone, one run, read out at {OVER_TIME}"
    )
    parser.add_argument("--every", type=int, default=1, help="measure every n-th image (default: all)")
    parser.add_argument("--spikes", help="one kind of spikes, instead of those of the table")
    parser.add_argument("-T", "--timesteps", nargs="+", type=int, help="with --spikes: the last is aimed at")
    parser.add_argument("--each", action="store_true", help="aim at each of -T by a conversion of its own")
    parser.add_argument("--schedule", default="stream", choices=schedules.SCHEDULES)
    parser.add_argument(
        "--delay", type=int, default=0, help="steps of a stream that are run and not read out"
    )
    parser.add_argument(
        "--calibrator", nargs="+", help="instead of those of the network; `bayesian:trials=12,groups=2`"
    )
    parser.add_argument("--calibration-samples", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--name", help="of the result: dense-NAME.json, curve-NAME.json (default: the network)"
    )
    asked = parser.parse_args(arguments)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    dense = DENSE[asked.network]
    if asked.calibration_samples:
        dense = replace(dense, calibration=asked.calibration_samples)
    if asked.ann:
        found = ann_figures(dense, asked.every)
        print({name: round(value, 4) for name, value in found.items()})
        return 0
    chain = tuple(asked.calibrator or (("least-squares",) if asked.curve else dense.chain))
    wanted: list[tuple[str, Sequence[int]]] = [(s, [t]) for s, t in dense.runs]
    if asked.curve:
        wanted = [(s, OVER_TIME) for s in ([asked.spikes] if asked.spikes else CURVED)]
    elif asked.spikes:
        each = [[t] for t in asked.timesteps] if asked.each else [asked.timesteps]
        wanted = [(asked.spikes, some) for some in each]
    runs: list[dict[str, Any]] = []
    for spikes, times in wanted:
        run = measured(asked.network, dense, spikes, times, chain, asked.every, asked.schedule, asked.delay)
        runs.append(run)
        print(table(runs[-1:], dense.named), file=sys.stderr, flush=True)
        facts = {"network": asked.network, "figure": dense.figure, "named": dense.named, "runs": runs}
        threads = torch.get_num_threads()
        name = f"{'curve' if asked.curve else 'dense'}-{asked.name or asked.network}"
        path = write_result(name, ["dense", *arguments], {**facts, **environment(threads)})
    print(table(runs, dense.named))
    print(f"written to {path}", file=sys.stderr)
    return 0
