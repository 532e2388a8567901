"""The straight line: ONNX file -> graph -> passes -> neurons -> calibrators -> RateModel -> report."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from converter.data import Source, range_warning, split
from converter.encodings import Encoding, encodings
from converter.files import sha256
from converter.graph import Graph, show_shape
from converter.importer import Source as ModelSource
from converter.importer import load_with_source
from converter.metrics import batch_that_fits, measure
from converter.neurons import neurons
from converter.observe import Batches
from converter.passes import apply
from converter.passes.spike import Spike
from converter.rate import RateModel
from converter.report import DataFacts, ModelFacts, Report, Step

PACKAGES = ("ann2snn", "torch", "onnx", "numpy")
Progress = Callable[[str, int, int], None]
"""Called with (what is being done, samples or steps done, of how many)."""


class Calibrate(Protocol):
    """A calibrator, as `calibrators` has them: (graph, batches) -> graph."""

    def __call__(self, graph: Graph, batches: Batches) -> Graph:
        """The graph with thresholds set."""


@dataclass(frozen=True)
class Settings:
    """What the user asked for. Every field is recorded in the report and in run.toml."""

    neuron: str = "integrate-fire"
    neuron_options: Mapping[str, Any] = field(default_factory=dict)
    encoding: str = "current"
    timesteps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
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

    def torch_device(self) -> torch.device:
        """The device `auto`, `cpu` or `cuda` stands for here."""
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        return torch.device(chosen)


@dataclass(frozen=True)
class Conversion:
    """A converted network: the spiking model, the ANN it came from, and what is known of both."""

    model: RateModel
    ann: Graph
    report: Report
    input_range: tuple[float, float]
    """Smallest and largest input value of the calibration data."""


def convert(
    path: str | os.PathLike[str],
    source: Callable[[Graph], Source],
    calibrators: Sequence[tuple[str, Calibrate]],
    settings: Settings,
    progress: Progress = lambda what, done, of: None,
) -> Conversion:
    """Convert the ONNX file at `path` and measure the result.

    `source(graph)` opens the data for the network's input. Calibration and measurement samples are disjoint.
    Raises `ConversionError` for whatever the user can mend: the file, the data, the settings.
    """
    clock = Clock()
    torch.manual_seed(settings.seed)
    ann, file = load_with_source(path, shapes=settings.input_shapes, outputs=settings.outputs)
    clock.lap("import")
    graph, applied = apply(ann.verify())
    steps = [Step(a.name, {}, f"{a.before} nodes became {a.after}") for a in applied]
    prototype = neurons[settings.neuron](**settings.neuron_options)
    graph = Spike(prototype, settings.keep_analog)(graph)
    clock.lap("passes")

    device = settings.torch_device()
    data = source(ann)
    parts = split(data, settings.calibration_samples, settings.samples, settings.seed)
    size = batch_that_fits(graph, settings.batch_size)
    ann, graph = ann.to(device), graph.to(device)

    def inputs() -> Iterator[Tensor]:
        for done, (x, _) in enumerate(data.batches(parts.calibration, size)):
            progress("calibrating", min((done + 1) * size, len(parts.calibration)), len(parts.calibration))
            yield x.to(device)

    low, high = input_range(inputs())
    for name, calibrate in calibrators:
        before, graph = graph, calibrate(graph, inputs)
        options = asdict(calibrate) if hasattr(calibrate, "__dataclass_fields__") else {}  # type: ignore[call-overload]
        steps.append(Step(name, options, said_of_change(before, graph)))
        clock.lap(name)

    model = RateModel(graph, encoding_of(settings, max(abs(low), abs(high))), seed=settings.seed).to(device)
    first, _ = next(data.batches(parts.measurement[:size], size))
    warning = range_warning(low, high, first)
    total = len(parts.measurement) * max(settings.timesteps)
    done = 0

    def told(samples: int) -> None:
        nonlocal done
        done += samples
        progress("measuring", done, total)

    pairs = (
        (x.to(device), y if y is None else y.to(device)) for x, y in data.batches(parts.measurement, size)
    )
    measured = measure(model, ann, pairs, settings.timesteps, told)
    clock.lap("measurement")

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
        pooling=pooling_words(model),
        ann_accuracy=measured.ann_accuracy,
        curve=measured.curve,
        layers=measured.layers,
        metrics=measured.metrics,
        versions=versions(),
        warnings=(warning,) if warning else (),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        timings=clock.laps,
    )
    return Conversion(model, ann, report, (low, high))


class Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """The stage `name` ends now."""
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now


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


def said_of_change(before: Graph, after: Graph) -> str:
    """What a calibrator did, in words: the thresholds it set and their range, or the layers it reweighted."""
    old, new = ({n.name: n.op.tensors() for n in graph} for graph in (before, after))
    other = [name for name, tensors in new.items() if not same_tensors(tensors, old.get(name, {}))]
    thresholds = [new[name]["threshold"] for name in other if "threshold" in new[name]]
    if not thresholds:
        return f"changed the weights of {len(other)} layers, no threshold"
    low, high = min(float(t.min()) for t in thresholds), max(float(t.max()) for t in thresholds)
    count = sum(t.numel() for t in thresholds)
    return f"{count} thresholds in {len(thresholds)} layers, from {low:.4g} to {high:.4g}"


def same_tensors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether both hold the same values under the same names."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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


def analog_words(model: RateModel, kept: Sequence[str]) -> tuple[str, ...]:
    """Every op that runs in floating point, and why it may."""
    head = [f"{n.op.kind} '{n.name}': after the last neuron, on the mean output" for n in model.plan.head]
    kept_nodes = [n for n in model.plan.step if n in model.plan.cumulative and n.op.kind in kept]
    return tuple(
        [f"{n.op.kind} '{n.name}': kept analog as asked, on running means" for n in kept_nodes] + head
    )


def pooling_words(model: RateModel) -> tuple[str, ...]:
    """How each homogeneous op that is not linear (max-pools) is treated."""
    pools = [n for n in model.plan.step if n in model.plan.cumulative and n.op.homogeneous]
    return tuple(
        f"{n.op.kind} '{n.name}': the change of the maximum of the summed spikes, lossless" for n in pools
    )


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
