"""The straight line: ONNX file -> graph -> passes -> neurons -> calibrators -> RateModel -> report."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from converter import quantise, schedules, weights
from converter.account import (
    analog_words,
    clipping_warning,
    pooling_words,
    said_of_change,
    said_of_search,
    said_of_weights,
)
from converter.data import Source, range_warning, split
from converter.decision import decisions
from converter.encodings import Encoding, encodings
from converter.engine import gpu
from converter.errors import UsageError
from converter.files import sha256
from converter.first_spike import FirstSpikeModel
from converter.fixed_point import fixed_point
from converter.graph import Graph, show_shape
from converter.importer import Source as ModelSource
from converter.importer import load_with_source
from converter.metrics import Labelled, Witness, batch_that_fits, measure
from converter.neurons import neurons
from converter.observe import Batches
from converter.passes import apply, pipeline_for
from converter.passes.spike import Spike
from converter.report import DataFacts, Decision, Layer, ModelFacts, Report, Step, Task, Trial, best
from converter.sums import exact_layers

PACKAGES = ("ann2snn", "torch", "onnx", "numpy")
DECIDED = 10_000
"""On so many samples early answers are measured, at most."""
Progress = Callable[[str, int, int], None]
"""Called with (what is being done, samples or steps done, of how many)."""


class Calibrate(Protocol):
    """A calibrator, as `calibrators` has them: (graph, batches) -> graph."""

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The graph calibrated, `ann` being it before any calibrator."""


@runtime_checkable
class Choice(Calibrate, Protocol):
    """A calibrator that leaves the work to others, and can say why to these."""

    def chosen(self, graph: Graph, batches: Batches) -> tuple[Sequence[tuple[str, Calibrate]], str]:
        """The calibrators that are to run in its place, with their names; and why, in words."""


@runtime_checkable
class Search(Calibrate, Protocol):
    """A calibrator that tries much and can say what."""

    def searched(
        self, graph: Graph, batches: Batches, ann: Graph | None, progress: Callable[[int, int], None]
    ) -> tuple[Graph, tuple[Trial, ...]]:
        """The graph and every trial, the start first; `progress(done, of)` counts them."""


class Judge(Witness, Protocol):
    """Says how well a dense network does its task."""

    def measurable(self, data: Source, indices: Sequence[int]) -> tuple[list[int], str | None]:
        """Those of the samples that can be measured, in order; and a warning where some cannot."""

    def task(self) -> Task:
        """What was seen."""


@dataclass(frozen=True)
class Settings:
    """What the user asked for. Every field is recorded in the report and in run.toml."""

    neuron: str = "integrate-fire"
    neuron_options: Mapping[str, Any] = field(default_factory=dict)
    weights: str = weights.FLOAT
    """The format the weights are held in: float32, int8, int4, log2:5, …"""
    encoding: str = "current"
    timesteps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    schedule: str = "stream"
    delay: int = 0
    """The first steps of a stream, which are run and not read out."""
    keep_analog: tuple[str, ...] = ()
    calibration_samples: int = 256
    samples: int | None = None
    """How many samples to measure on; None is all of them."""
    batch_size: int = 100
    """How many samples to run at a time, at most: fewer are where memory asks for it."""
    seed: int = 0
    device: str = "auto"
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    """Where to cut the network, instead of at its own outputs."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for time that cannot be shared so, and for weights that there are not."""
        format = weights.parse(self.weights)
        schedules.check(self.schedule, self.delay, self.timesteps)
        if format is not None and format.exact and self.schedule != "stream":
            raise UsageError(
                f"weights of the kind {format} are for sums of the spikes of a step, the schedule stream",
                hint="--schedule stream, or --weights int8",
            )

    def torch_device(self) -> torch.device:
        """The device `auto`, `cpu` or `cuda` stands for here."""
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        return torch.device(chosen)


@dataclass(frozen=True)
class Conversion:
    """A converted network: the spiking model, the ANN it came from, and what is known of both."""

    model: schedules.Model
    ann: Graph
    spiking: Graph
    """The graph of the model before any calibrator: what `ann` is, by the names of the model's neurons."""
    report: Report
    input_range: tuple[float, float]
    """Smallest and largest input value of the calibration data."""
    calibrators: tuple[str, ...]
    """Those that ran, in order: what a choice was left to stands here as it was chosen."""


def convert(
    path: str | os.PathLike[str],
    source: Callable[[Graph], Source],
    calibrators: Sequence[tuple[str, Calibrate]],
    settings: Settings,
    progress: Progress = lambda what, done, of: None,
    judge: Judge | None = None,
) -> Conversion:
    """Convert the ONNX file at `path` and measure the result.

    `source(graph)` opens the data for the network's input; `judge` measures what it is for. Calibration and
    measurement samples are disjoint.
    Raises `ConversionError` for whatever the user can mend: the file, the data, the settings.
    """
    clock = Clock()
    torch.manual_seed(settings.seed)
    ann, file = load_with_source(path, shapes=settings.input_shapes, outputs=settings.outputs)
    clock.lap("import")
    prototype = neurons[settings.neuron](**settings.neuron_options)
    graph, applied = apply(ann.verify(), pipeline_for(prototype))
    steps = [Step(a.name, {}, f"{a.before} nodes became {a.after}") for a in applied]
    graph = Spike(prototype, settings.keep_analog)(graph)
    schedules.check_graph(graph, settings.schedule, settings.timesteps)
    clock.lap("passes")

    device = settings.torch_device()
    gpu.steady(device)
    data = source(ann)
    parts = split(data, settings.calibration_samples, settings.samples, settings.seed)
    measured_on, unlabelled = (
        judge.measurable(data, parts.measurement) if judge else (parts.measurement, None)
    )
    size = batch_that_fits(graph, settings.batch_size, max(settings.timesteps))
    ann, graph = ann.to(device), graph.to(device)

    def inputs() -> Iterator[Tensor]:
        for done, (x, _) in enumerate(data.batches(parts.calibration, size)):
            progress("calibrating", min((done + 1) * size, len(parts.calibration)), len(parts.calibration))
            yield x.to(device)

    spiking = graph
    format, off = weights.parse(settings.weights), dict[str, float]()
    if format is not None:
        graph = quantise.quantise(graph, format)
        off = quantise.errors(graph, spiking)
        steps.append(Step("weights", {"format": settings.weights}, said_of_weights(graph, off)))
        clock.lap("weights")
    low, high = input_range(inputs())
    made = calibrated(graph, spiking, calibrators, inputs, settings, clock, progress)
    graph, steps = made.graph, [*steps, *made.steps]
    if format is not None and encodings[settings.encoding].constant:
        graph = fixed_point(quantise.check(graph), max(abs(low), abs(high)))
        said = "input, thresholds, first membranes and biases are whole numbers times powers of two"
        if format.exact:
            off = quantise.errors(graph, spiking)
            said += "; {} of {} layers add up exactly in float32, in any order".format(*exact_layers(graph))
        steps.append(Step("fixed-point", {}, said))
    model = schedules.model_of(
        graph,
        encoding_of(settings, max(abs(low), abs(high))),
        schedule=settings.schedule,
        delay=made.delay,
        seed=settings.seed,
    ).to(device)
    first, _ = next(data.batches(measured_on[:size], size))
    warnings = [range_warning(low, high, first), unlabelled]
    total = len(measured_on) * max(settings.timesteps)
    done = 0

    def told(samples: int) -> None:
        nonlocal done
        done += samples
        progress("measuring", done, total)

    pairs = on(data.batches(measured_on, size), device)
    measured = measure(model, ann, pairs, settings.timesteps, told, spiking, witness=judge)
    clock.lap("measurement")
    decided: tuple[Decision, ...] = ()
    if isinstance(model, FirstSpikeModel):
        early = data.batches(measured_on[:DECIDED], size)
        decided = decisions(model, inputs(), on(early, device), max(settings.timesteps))
        clock.lap("early decision")

    report = Report(
        model=model_facts(Path(path), file, ann, graph),
        data=DataFacts(
            source=data.name,
            sha256=data.sha256,
            labelled=data.labelled,
            calibration=parts.calibration_words,
            measurement=parts.measurement_words,
            samples=measured.samples,
            preprocessing={**data.preprocessing.to_dict(), "range": [low, high]},
            classes=data.classes,
        ),
        settings=recorded(settings),
        steps=tuple(steps),
        analog=analog_words(model, settings.keep_analog),
        pooling=pooling_words(model, ann),
        timing=schedules.words(model),
        decisions=decided,
        ann_accuracy=measured.ann_accuracy,
        curve=measured.curve,
        layers=layers_with(measured.layers, quantise.by_layer(graph, off)) if off else measured.layers,
        metrics={**measured.metrics, "weights": quantise.facts(graph, settings.weights, off)},
        versions=versions(),
        outputs=measured.outputs,
        warnings=tuple(filter(None, (*warnings, clipping_warning(model, measured.layers)))),
        task=judge.task() if judge else None,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        timings=clock.laps,
    )
    return Conversion(model, ann, spiking, report, (low, high), made.ran)


@dataclass(frozen=True)
class Calibrated:
    """What a chain of calibrators made of a graph, and of the delay of its read-out; those that ran."""

    graph: Graph
    delay: int
    steps: tuple[Step, ...]
    ran: tuple[str, ...]


def calibrated(
    graph: Graph,
    spiking: Graph,
    calibrators: Sequence[tuple[str, Calibrate]],
    batches: Batches,
    settings: Settings,
    clock: Clock,
    progress: Progress,
) -> Calibrated:
    """The graph after `calibrators`, `spiking` being it before any; a choice is replaced by what it chose.

    Weights that are held in a format stay as they are.
    """
    waiting, ran, steps, delay = list(calibrators), list[str](), list[Step](), settings.delay
    while waiting:
        name, calibrate = waiting.pop(0)
        before, trials = graph, tuple[Trial, ...]()
        if settings.weights != weights.FLOAT and getattr(calibrate, "changes_weights", False):
            said = f"left out: it changes weights, and they are held as {settings.weights}"
        elif isinstance(calibrate, Choice):
            chain, said = calibrate.chosen(graph, batches)
            waiting = [*chain, *waiting]
        elif isinstance(calibrate, Search):
            graph, trials = calibrate.searched(graph, batches, spiking, partial(progress, "searching"))
            delay = int(best(trials).knobs.get("delay", delay))
            said = f"{said_of_change(before, graph)}; {said_of_search(trials)}"
            ran.append(name)
        else:
            graph = calibrate(graph, batches, spiking)
            said = said_of_change(before, graph)
            ran.append(name)
        options = asdict(calibrate) if hasattr(calibrate, "__dataclass_fields__") else {}  # type: ignore[call-overload]
        options = {key: value for key, value in options.items() if value is not None}
        steps.append(Step(name, options, said, trials))
        clock.lap(name)
    return Calibrated(graph, delay, tuple(steps), tuple(ran))


def layers_with(layers: Sequence[Layer], errors: Mapping[str, float]) -> tuple[Layer, ...]:
    """The layers, each with the error of the weights before it."""
    return tuple(replace(layer, weight_error=errors[layer.name]) for layer in layers)


def on(batches: Labelled, device: torch.device) -> Labelled:
    """The same inputs and labels on `device`."""
    return ((x.to(device), y if y is None else y.to(device)) for x, y in batches)


class Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """The stage `name` ends now."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now


def input_range(batches: Iterator[Tensor]) -> tuple[float, float]:
    """Smallest and largest value over all batches."""
    low, high = float("inf"), float("-inf")
    for x in batches:
        low, high = min(low, float(x.min())), max(high, float(x.max()))
    return low, high


def encoding_of(settings: Settings, peak: float) -> Encoding:
    """The encoding asked for; a stochastic one is scaled to the largest absolute input."""
    kind = encodings[settings.encoding]
    return kind() if kind.constant else kind(peak=peak)  # type: ignore[call-arg]  # what is not constant has a peak


def model_facts(path: Path, file: ModelSource, ann: Graph, graph: Graph) -> ModelFacts:
    """What the report says of the file."""
    return ModelFacts(
        name=file.name,
        file=path.name,
        sha256=sha256(path),
        bytes=path.stat().st_size,
        producer=file.producer,
        opset=file.opset,
        nodes=file.nodes,
        graph_nodes=len(graph),
        parameters=sum(t.numel() for n in ann for t in n.op.tensors().values()),
        inputs={n.name: show_shape(n.shape) for n in ann.inputs},
        outputs={n.name: show_shape(n.shape) for n in ann.outputs},
    )


def recorded(settings: Settings) -> dict[str, Any]:
    """The settings as plain data, the device as it was resolved."""
    return {**asdict(settings), "device": str(settings.torch_device())}


def versions() -> dict[str, str]:
    """The versions a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


__all__ = ["Conversion", "Settings", "convert"]
