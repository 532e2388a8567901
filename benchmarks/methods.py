"""The methods of the accuracy grid: one visible table of ways to a spiking network, ours and other people's.

A method is measured by a function of (preset, settings), the settings holding the spikes, the time steps to
read out at, the schedule, the seed and the number of samples. One that aims at a T is measured for each T
alone; any other once, read out at every T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass

from benchmarks import peers
from benchmarks.presets import Preset
from calibrators.auto import Auto
from calibrators.bayesian import Bayesian
from calibrators.bias_correction import BiasCorrection
from calibrators.least_squares import LeastSquares
from calibrators.maximum import Maximum
from calibrators.percentile import Percentile
from calibrators.spike_calibration import SpikeCalibration
from converter.data import split
from converter.importer import load
from converter.operations import macs_of, microjoules
from converter.passes import apply
from converter.pipeline import Calibrate, Settings, convert
from converter.report import Point


@dataclass(frozen=True)
class Measured:
    """What a method reached. `recipe` says in words what was done; energies are of one sample."""

    points: tuple[Point, ...]
    ann_accuracy: float | None
    ann_microjoules: float
    samples: int
    recipe: str


@dataclass(frozen=True)
class Method:
    """`spikes` are the alphabets it is measured with; `package` is whose it is, and carries its version."""

    name: str
    spikes: tuple[str, ...]
    measure: Callable[[Preset, Settings], Measured]
    aimed: bool = False
    """Whether it is calibrated for the T it will run."""
    schedule: str = "stream"
    package: str = "ann2snn"


def ours(calibrators: Callable[[int], Sequence[Calibrate]]) -> Callable[[Preset, Settings], Measured]:
    """Our pipeline with the calibrators that are right for a run of so many steps."""

    def measure(preset: Preset, settings: Settings) -> Measured:
        chosen = calibrators(max(settings.timesteps))
        report = convert(preset.model, preset.source, [(named(c), c) for c in chosen], settings).report
        energy, samples = report.metrics["energy"]["ann_microjoule"], report.data.samples
        found = [step.did for step in report.steps if step.trials]
        recipe = "; ".join([" + ".join(map(described, chosen)), *found])
        return Measured(report.curve, report.ann_accuracy, energy, samples, recipe)

    return measure


def spikingjelly(recipe: peers.Recipe) -> Callable[[Preset, Settings], Measured]:
    """SpikingJelly's conversion on the samples that `converter.pipeline` would take."""

    def measure(preset: Preset, settings: Settings) -> Measured:
        graph, _ = apply(load(preset.model).verify())
        source = preset.source(graph)
        parts = split(source, settings.calibration_samples, settings.samples, settings.seed)
        made = peers.convert(
            graph, recipe, lambda size: [x for x, _ in source.batches(parts.calibration, size)]
        )
        batches = source.batches(parts.measurement, settings.batch_size)
        points, accuracy = peers.measure(made, graph, batches, settings.timesteps)
        energy = microjoules(0, macs_of(graph))
        return Measured(points, accuracy, energy, len(parts.measurement), recipe.__name__)

    return measure


def named(calibrate: Calibrate) -> str:
    """The public name of a calibrator: that of its file."""
    return type(calibrate).__module__.rpartition(".")[2].replace("_", "-")


def described(calibrate: Calibrate) -> str:
    """`percentile (percentile 99.9, per_channel True)`."""
    assert is_dataclass(calibrate)
    options = ", ".join(f"{key} {value}" for key, value in asdict(calibrate).items())
    return f"{named(calibrate)} ({options})"


UNLIMITED = 86_400.0
"""Seconds: what a method chooses is not to depend on how busy the machine is."""
WITHOUT = {
    "percentile 99.9 + spike-calibration": "percentile 99.9",
    "bayesian, from least-squares": "least-squares",
}
"""Methods for the distribution of the answers, each with the one that it begins with."""
SINGLE = ("binary", "signed")
EVERY = (*SINGLE, "levels:4", "levels:15")

METHODS = (
    Method("maximum", SINGLE, ours(lambda t: [Maximum()])),
    Method("percentile 99.9", SINGLE, ours(lambda t: [Percentile(99.9)])),
    Method("least-squares", SINGLE, ours(lambda t: [LeastSquares(t)]), aimed=True),
    Method(
        "least-squares + bias-correction",
        EVERY,
        ours(lambda t: [LeastSquares(t), BiasCorrection(t)]),
        aimed=True,
    ),
    Method(
        "percentile 99.9 + spike-calibration",
        ("binary",),
        ours(lambda t: [Percentile(99.9), SpikeCalibration(t)]),
        aimed=True,
    ),
    Method(
        "bayesian, from least-squares",
        ("binary",),
        ours(lambda t: [Bayesian(t, trials=40, delays=tuple(range(t // 2 + 1)))]),
        aimed=True,
    ),
    Method("auto", EVERY, ours(lambda t: [Auto(t, budget=UNLIMITED)]), aimed=True),
    Method(
        "auto, pipelined",
        ("binary",),
        ours(lambda t: [Auto(t, "pipelined", budget=UNLIMITED)]),
        aimed=True,
        schedule="pipelined",
    ),
    Method("SpikingJelly rate coding", ("binary",), spikingjelly(peers.rate_coding), package="spikingjelly"),
    Method(
        "SpikingJelly threshold balancing",
        ("binary",),
        spikingjelly(peers.threshold_balancing),
        package="spikingjelly",
    ),
)
