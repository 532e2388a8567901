"""Layer by layer, the mean of the spikes against the ANN's activation: where a network drifts, and why.

With z̄ the mean current a neuron received, a its ANN activation, f the activation function and r(z̄) the value
the neuron converges to (`Neuron.rate`), what separates the mean o of its spikes from a splits into three:

    o − a  =  [o − r(z̄)]  +  [r(z̄) − f(z̄)]  +  [f(z̄) − a]
              not there yet   cannot be said     inherited
              (steps)         (clipping)         (its current differs from the ANN's already)

Errors are means of absolute values over the mean |a| of the layer, all samples and neurons together. The
largest of the three names the cause. A neuron that is not there yet needs more steps, unless its threshold
lies far above anything it has to say: then it is the threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from converter.errors import DataError, ModelError, UsageError
from converter.graph import Graph, Node
from converter.neurons import Neuron
from converter.observe import voices_of
from converter.schedules import Model

HEADROOM = 0.5
"""A layer whose largest activation stays below this share of its threshold has its threshold too high."""
FALLS = 0.8
"""Twice the steps should halve a layer's error; if more than this share of it stays, the cause is another."""


@dataclass(frozen=True)
class Drift:
    """One layer of neurons after `timesteps` steps. Errors and shares are fractions."""

    name: str
    neuron: str
    threshold: float
    """Mean over the channels."""
    error_half: float
    """After half the steps."""
    error: float
    steps: float
    clipping: float
    inherited: float
    """The three parts of `error`; as absolute values they may sum to more."""
    clipped: float
    """Share of ANN activations above all that a step can say: the threshold, or several of them."""
    silent: float
    """Share of neurons with a positive ANN activation that never fired."""
    peak: float
    """The largest ANN activation over its threshold, or over as many as its range was divided into."""
    cause: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All layers, sources first. `first` is the first whose error exceeds `tolerance`, or None."""

    samples: int
    timesteps: int
    tolerance: float
    layers: tuple[Drift, ...]
    first: str | None


@dataclass
class Sums:
    """Running sums over one layer, in double precision."""

    half: float = 0.0
    full: float = 0.0
    steps: float = 0.0
    clipping: float = 0.0
    inherited: float = 0.0
    clipped: float = 0.0
    silent: float = 0.0
    positive: float = 0.0
    size: float = 0.0
    values: int = 0
    peak: float = 0.0

    def add(
        self,
        neuron: Neuron,
        activation: Tensor,
        current: Tensor,
        half: Tensor,
        full: Tensor,
        fired: Tensor,
    ) -> None:
        """One batch: the ANN's activation; means over time of the current, the spikes halfway, the spikes;
        which neurons ever fired.
        """
        wanted, reached = neuron(current), neuron.rate(current)
        limit = neuron.limit()
        size = activation.abs() / (neuron.parts * neuron.calibrated())
        positive = activation > 0
        self.half += _total(half - activation)
        self.full += _total(full - activation)
        self.steps += _total(full - reached)
        self.clipping += _total(reached - wanted)
        self.inherited += _total(wanted - activation)
        self.clipped += float((neuron.magnitude(activation) > limit * (1 + 1e-6)).sum())
        self.silent += float((positive & ~fired).sum())
        self.positive += float(positive.sum())
        self.size += _total(activation)
        self.values += activation.numel()
        self.peak = max(self.peak, float(size.max()))

    def drift(self, node: Node) -> Drift:
        """The sums as fractions."""
        neuron = node.op
        assert isinstance(neuron, Neuron)
        size = max(self.size, 1e-12)
        return Drift(
            name=node.name,
            neuron=neuron.kind,
            threshold=float(neuron.calibrated().mean()),
            error_half=self.half / size,
            error=self.full / size,
            steps=self.steps / size,
            clipping=self.clipping / size,
            inherited=self.inherited / size,
            clipped=self.clipped / self.values,
            silent=self.silent / max(self.positive, 1.0),
            peak=self.peak,
        )


@dataclass
class Record:
    """Listens to the simulation of one batch: the sums over time of spikes and currents; who ever fired."""

    currents: frozenset[Node]
    voices: frozenset[Node]
    sums: dict[Node, Tensor] = field(default_factory=dict)
    fired: dict[Node, Tensor] = field(default_factory=dict)

    def __call__(self, node: Node, value: Tensor) -> None:
        if node in self.currents or node in self.voices:
            self.sums[node] = self.sums[node] + value if node in self.sums else value.clone()
        if node in self.voices:
            self.fired[node] = self.fired[node] | (value != 0) if node in self.fired else value != 0


@torch.inference_mode()
def diagnose(
    model: Model,
    ann: Graph,
    batches: Iterable[Tensor],
    timesteps: int,
    tolerance: float = 0.1,
    progress: Callable[[int], None] = lambda done: None,
) -> Diagnosis:
    """Run `model` for `timesteps` steps beside `ann`, whose nodes of the same names hold the activations.

    `ann` is the network after the passes: they move a clip that does not start at 0, its name stays with it.
    `progress` is told the samples times steps done. Raises `ModelError` when `ann` is not the network that
    `model` was converted from, `UsageError` for fewer than two steps, `DataError` without samples.
    """
    if timesteps < 2:
        raise UsageError(f"timesteps is {timesteps}; a diagnosis compares T with T/2, so it takes at least 2")
    layers = {node: Sums() for node in model.neurons}
    voices = voices_of(model.graph)
    heard = {neuron: voice for voice, neuron in voices.items()}
    listener = partial(Record, frozenset(node.inputs[0] for node in layers), frozenset(voices))
    check_names(model, ann)
    samples = 0
    for x in batches:
        activations = values_of(ann, {node.name for node in layers}, x)
        done, record, half = 0, listener(), dict[Node, Tensor]()
        steps = timesteps // 2, timesteps
        for time, _, record in model.answers(x, steps, listener):
            if time == timesteps // 2:
                half = {neuron: model.mean(record.sums[voice], time) for voice, neuron in voices.items()}
            progress(len(x) * (time - done))
            done = time
        given = model.currents(x)
        for node, sums in layers.items():
            source = node.inputs[0]
            current = model.mean(record.sums[source], timesteps) if source in record.sums else given[source]
            assert isinstance(node.op, Neuron)
            voice = heard[node]
            full = model.mean(record.sums[voice], timesteps)
            sums.add(node.op, activations[node.name], current, half[node], full, record.fired[voice])
        samples += len(x)
    if not samples:
        raise DataError("there are no samples to diagnose on")
    told = judged([sums.drift(node) for node, sums in layers.items()], tolerance, timesteps)
    first = next((layer.name for layer in told if layer.error > tolerance), None)
    return Diagnosis(samples, timesteps, tolerance, tuple(told), first)


def check_names(model: Model, ann: Graph) -> None:
    """`ModelError` unless `ann` has a node of the same name and shape for every neuron of `model`."""
    shapes = {node.name: node.shape for node in ann}
    for node in model.neurons:
        if shapes.get(node.name) != node.shape:
            raise ModelError(
                f"{ann.name} is not the network that {model.graph.name} was converted from",
                why=f"it has no node '{node.name}' of the same shape",
                hint="give the ONNX file that `ann2snn convert` read",
            )


def values_of(graph: Graph, names: set[str], x: Tensor) -> dict[str, Tensor]:
    """The values of the nodes with these names, for inputs `x`."""
    found: dict[str, Tensor] = {}

    def listen(node: Node, value: Tensor) -> None:
        if node.name in names:
            found[node.name] = value

    graph.run(x, listen=listen)
    return found


def judged(layers: list[Drift], tolerance: float, timesteps: int) -> list[Drift]:
    """The layers, those beyond the tolerance with their likely cause and what would help."""
    told: list[Drift] = []
    for layer in layers:
        if layer.error > tolerance:
            earlier = next((before.name for before in told if before.cause), None)
            cause, advice = judge(layer, earlier, timesteps)
            layer = replace(layer, cause=cause, advice=advice)
        told.append(layer)
    return told


def judge(layer: Drift, earlier: str | None, timesteps: int) -> tuple[str, str]:
    """(likely cause, what would help) for a layer that drifts; `earlier` is the first one that did."""
    largest = max(layer.inherited, layer.clipping, layer.steps)
    if layer.inherited == largest:
        if earlier is not None:
            return f"inherited from '{earlier}'", f"mend '{earlier}' first"
        return (
            f"inherited: the layers before it, each within the tolerance, make {_percent(layer.inherited)}",
            f"run it for {2 * timesteps} steps or more",
        )
    if layer.clipping == largest:
        return (
            f"threshold too low: {_percent(layer.clipped)} of its activations lie above it, "
            f"the largest at {layer.peak:.3g} times",
            "convert with --calibrator maximum, or a higher --percentile",
        )
    if layer.peak < HEADROOM:
        return (
            f"threshold too high: its largest activation is {_percent(layer.peak)} of it, "
            f"{_percent(layer.silent)} of the neurons that should fire are silent",
            "convert with --per-channel or a lower --percentile, and calibrate on data like these",
        )
    if layer.error <= FALLS * layer.error_half:
        return (
            f"not enough steps: the error falls from {_percent(layer.error_half)} at T = {timesteps // 2} "
            f"to {_percent(layer.error)} at T = {timesteps}",
            f"run it for {2 * timesteps} steps or more",
        )
    return (
        f"more steps do not help: {_percent(layer.error_half)} at T = {timesteps // 2}, "
        f"{_percent(layer.error)} at T = {timesteps}",
        "convert with --reset soft, which loses no charge",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _total(value: Tensor) -> float:
    return float(value.abs().sum(dtype=torch.float64))
