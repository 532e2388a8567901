"""What a conversion did and what it measured: one frozen record, written as JSON, page and model card.

Names follow NeuroBench (Yik et al. 2025) where it has them. Same seed, same machine: the same report but
for `timings` and `date`. Rates are spikes per neuron and step; shares and errors are fractions, not percent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class ModelFacts:
    """The network as it was read."""

    name: str
    file: str
    sha256: str
    bytes: int
    producer: str
    opset: int
    nodes: int
    """Nodes in the file."""
    graph_nodes: int
    """Nodes after the algebraic passes."""
    parameters: int
    inputs: dict[str, str]
    """Name -> shape, `Nx3x32x32`."""
    outputs: dict[str, str]


@dataclass(frozen=True)
class DataFacts:
    """Where samples came from and what was done to them; `evaluate` repeats `preprocessing`."""

    source: str
    sha256: str
    labelled: bool
    calibration: str
    """Which samples thresholds were set on, in words: `128 of train, drawn with seed 0`."""
    measurement: str
    samples: int
    """How many samples were measured."""
    preprocessing: dict[str, Any]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """One trial of a search: where its knobs stood and what that gave, on calibration samples held out."""

    knobs: dict[str, float]
    objective: float
    """What the search makes small: a divergence from the ANN, and what spikes cost."""
    divergence: float
    """KL(ANN ‖ SNN) in nats, as it stands in the curve; or what `judged` says."""
    spikes_per_neuron: float
    judged: str = "KL"
    """By what: `squared error` of all outputs, relative to the ANN's, where these are not classes."""


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the smallest objective; of equals the earliest."""
    return min(trials, key=lambda trial: trial.objective)


@dataclass(frozen=True)
class Step:
    """One pass or calibrator: what it was asked and what it did, in a line; of a search, all its trials."""

    name: str
    options: dict[str, Any]
    did: str
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Layer:
    """One layer of neurons, over all measured samples and all `timesteps`."""

    name: str
    neuron: str
    shape: str
    """Of one sample: `16x32x32`."""
    neurons: int
    threshold_min: float
    threshold_mean: float
    threshold_max: float
    firing_rate: float
    """Spikes per neuron and step."""
    spikes_per_neuron: float
    """Over the whole run; negative spikes count as spikes, and so does each spike of a burst."""
    clipped: float
    """Share of ANN activations above all that a step can say: the threshold, or several of them."""
    silent: float
    """Share of neurons with a positive ANN activation that never fired."""
    error: float
    """|mean spike amplitude − ANN activation|, averaged, over the mean ANN activation."""
    spikes: str = "binary"
    """What a spike may be: `binary`, `signed`, `levels:N`, `powers:N`, `burst:N`. T costs more for some.

    Where spikes are taken back after a neuron that cannot do so itself, `and withdrawn` follows.
    """
    weight_error: float | None = None
    """|w' − w| / |w| of quantised weights before it, the largest of several synapses; None for float."""


@dataclass(frozen=True)
class Point:
    """The network's answer after `timesteps` steps, against labels (accuracy) and against the ANN."""

    timesteps: int
    accuracy: float | None
    """Share of samples whose largest output is the label; None without labels."""
    agreement: float | None
    """Share of samples whose largest output is the ANN's; None where outputs are no scores of classes."""
    output_error: float
    """|SNN − ANN| over |ANN|, Euclidean over each sample's outputs, averaged."""
    divergence: float | None
    """KL(ANN ‖ SNN) of the first output as a distribution over its classes, in nats, averaged; None as above.
    """
    spikes_per_neuron: float
    """Spikes per neuron up to this step."""
    latency: int | None = None
    """Steps from the image to this answer, delays and the windows of all layers included."""
    microjoules: float = 0.0
    """Energy of one sample's arithmetic up to this step, under the assumption in `metrics`."""


@dataclass(frozen=True)
class Decision:
    """Of a first-spike network, what the read-out answers as soon as one output leads by enough."""

    window: int
    """Steps of a window."""
    margin: float
    """How large a lead is asked for, in mean leads of calibration samples at the end of the window."""
    accuracy: float | None
    agreement: float
    """Share of samples answered as at the end of the window."""
    steps: float
    """Steps of the read-out's own window until the answer, averaged over the samples."""
    latency: float
    """Steps from the image to the answer, averaged."""
    samples: int = 0
    chosen: bool = False
    """Whether it is the margin to take: twice that under which no calibration sample changed its answer."""


@dataclass(frozen=True)
class OutputPoint:
    """One output after `timesteps` steps, against the ANN's (converter/fidelity.py has the formulas)."""

    timesteps: int
    error: float
    """|SNN − ANN| over |ANN|, averaged over samples."""
    difference: float
    """Mean |SNN − ANN| in the output's unit: of logits, the logit error."""
    correlation: float | None
    divergence: float | None
    """Of probabilities: KL in nats a value, each of them on its own; None for values that are none."""


@dataclass(frozen=True)
class Output:
    """One output of the network over time."""

    name: str
    shape: str
    """Of one sample: `85x22x22`."""
    curve: tuple[OutputPoint, ...]


@dataclass(frozen=True)
class TaskPoint:
    """How well the spiking network does its task after `timesteps` steps."""

    timesteps: int
    figures: dict[str, float]
    classes: dict[str, float]
    """AP50 or IoU of each class."""


@dataclass(frozen=True)
class Task:
    """What a dense network is for, and how well it and its ANN do it on the same images by the same code."""

    task: str
    """`detect` or `segment`."""
    decoder: str
    options: dict[str, Any]
    """Of the decoder, and what counts: `min_size`, `foreground`."""
    labels: str
    """Where the labels came from; empty without."""
    words: str
    """What was measured: images, objects or pixels."""
    ann: dict[str, float]
    """mAP50, …; mIoU, …: the first is what the task is judged by. Empty without labels."""
    ann_classes: dict[str, float]
    curve: tuple[TaskPoint, ...]


@dataclass(frozen=True)
class Report:
    """Everything a run can say of itself. `analog` names ops left in floating point, and why."""

    model: ModelFacts
    data: DataFacts
    settings: dict[str, Any]
    """Encoding, neuron, reset, initial membrane, calibrators, seed, device: as asked."""
    steps: tuple[Step, ...]
    analog: tuple[str, ...]
    pooling: tuple[str, ...]
    """How each max-pool is treated, in words."""
    ann_accuracy: float | None
    curve: tuple[Point, ...]
    layers: tuple[Layer, ...]
    metrics: dict[str, Any]
    """NeuroBench: footprint, connection_sparsity, activation_sparsity, synaptic_operations; and energy."""
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()
    timing: tuple[str, ...] = ()
    """How the layers share the time, in words, where they do not all fire at every step."""
    decisions: tuple[Decision, ...] = ()
    """Early answers of a first-spike network, by rising margin."""
    outputs: tuple[Output, ...] = ()
    """Every output against the ANN's."""
    task: Task | None = None
    date: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Sorted keys, two spaces, floats rounded to 9 significant digits; NaN and infinity as null."""
        return json.dumps(plain(asdict(self)), indent=2, sort_keys=True, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """`value` as JSON can say it: floats rounded to 9 significant digits, tuples as lists."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value
