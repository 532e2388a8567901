"""Measuring a spiking network against its ANN: answers over time, and layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from converter.distributed import ALONE, Share
from converter.divergence import divergence
from converter.errors import DataError
from converter.fidelity import Fidelity
from converter.graph import BATCH, Graph, Node, Shape, batch_axes, size_of
from converter.neurons import Neuron
from converter.observe import activations_of, voices_of
from converter.operations import fan_out_of, macs_of, microjoules, summary
from converter.ops import Conv, ConvTranspose, Linear
from converter.report import Layer, Output, Point
from converter.schedules import Model
from converter.watch import COUNTABLE, Watch, operations_of

Labelled = Iterable[tuple[Tensor, Tensor | None]]
Progress = Callable[[int], None]

NEURONS_AT_ONCE = 100_000_000


@dataclass(frozen=True)
class Measurement:
    """What a run of a spiking network over data showed."""

    samples: int
    ann_accuracy: float | None
    curve: tuple[Point, ...]
    layers: tuple[Layer, ...]
    outputs: tuple[Output, ...]
    metrics: dict[str, Any]


class Witness(Protocol):
    """Sees the answers while they are measured."""

    @property
    def ranks(self) -> bool:
        """Whether the first output scores classes, the largest being the answer."""

    def ann(self, first: int, outputs: Sequence[Tensor]) -> None:
        """The ANN's outputs for a batch that begins with the sample `first` of the run."""

    def answer(self, time: int, first: int, outputs: Sequence[Tensor]) -> None:
        """The spiking network's, after `time` steps."""


@dataclass
class LayerSums:
    """Running sums over one layer of neurons, in double precision."""

    spikes: float = 0.0
    clipped: float = 0.0
    positive: float = 0.0
    silent: float = 0.0
    error: float = 0.0
    size: float = 0.0
    values: int = 0

    def add(self, neuron: Neuron, activation: Tensor, mean: Tensor, fired: Tensor) -> None:
        """One batch: the ANN's activation, the spikes' mean over time, how many each neuron emitted."""
        above = neuron.magnitude(activation) > neuron.limit() * (1 + 1e-6)
        positive = activation > 0
        self.spikes += float(fired.sum())
        self.clipped += float(above.sum())
        self.positive += float(positive.sum())
        self.silent += float((positive & (fired == 0)).sum())
        self.error += float((mean - activation).abs().sum())
        self.size += float(activation.abs().sum())
        self.values += activation.numel()

    def layer(self, node: Node, voice: Node, timesteps: int) -> Layer:
        """The sums as a line of the report; the spikes of `node` are heard at `voice`."""
        neuron = node.op
        assert isinstance(neuron, Neuron)
        threshold = neuron.calibrated()
        return Layer(
            name=node.name,
            neuron=neuron.kind,
            shape="x".join(map(str, sample_shape(node.shape))),
            neurons=size_of(node.shape),
            threshold_min=float(threshold.min()),
            threshold_mean=float(threshold.mean()),
            threshold_max=float(threshold.max()),
            firing_rate=self.spikes / self.values / timesteps,
            spikes_per_neuron=self.spikes / self.values,
            clipped=self.clipped / self.values,
            silent=self.silent / max(self.positive, 1.0),
            error=self.error / max(self.size, 1e-12),
            spikes=neuron.spikes if voice is node else f"{neuron.spikes} and withdrawn",
        )


@dataclass
class Answers:
    """Running sums over the read-out at one time step."""

    right: float = 0.0
    agree: float = 0.0
    error: float = 0.0
    divergence: float = 0.0
    spikes: float = 0.0
    operations: float = 0.0

    def point(
        self,
        timesteps: int,
        latency: int,
        samples: float,
        neurons: int,
        labelled: bool,
        ranks: bool,
        macs: float,
    ) -> Point:
        """The sums over `samples` as a point of the curve; `ranks`: of classes; analog `macs` a sample."""
        return Point(
            timesteps=timesteps,
            accuracy=self.right / samples if labelled else None,
            agreement=self.agree / samples if ranks else None,
            output_error=self.error / samples,
            divergence=self.divergence / samples if ranks else None,
            spikes_per_neuron=self.spikes / samples / neurons,
            latency=latency,
            microjoules=microjoules(self.operations / samples, macs),
        )


@dataclass(frozen=True)
class Tally:
    """What some samples counted: of the layers in order, of the read-outs by step."""

    samples: int
    labelled: bool
    ann_right: float
    active: float
    layers: tuple[LayerSums, ...]
    answers: dict[int, Answers]
    fidelity: Fidelity


def merged(tallies: Sequence[Tally]) -> Tally:
    """All of them together, added up in order."""
    first, *others = tallies
    for each in others:
        for mine, other in zip(first.layers, each.layers, strict=True):
            add_fields(mine, other)
        for time, answer in first.answers.items():
            add_fields(answer, each.answers[time])
        first.fidelity.absorb(each.fidelity)
    return replace(
        first,
        samples=sum(t.samples for t in tallies),
        labelled=all(t.labelled for t in tallies),
        ann_right=sum(t.ann_right for t in tallies),
        active=sum(t.active for t in tallies),
    )


def add_fields(sums: LayerSums | Answers, other: LayerSums | Answers) -> None:
    """Add every sum of `other`."""
    for each in fields(sums):
        setattr(sums, each.name, getattr(sums, each.name) + getattr(other, each.name))


@torch.inference_mode()
def measure(
    model: Model,
    ann: Graph,
    batches: Labelled,
    timesteps: Sequence[int],
    progress: Progress = lambda done: None,
    spiking: Graph | None = None,
    share: Share = ALONE,
    witness: Witness | None = None,
) -> Measurement:
    """Run `model` and `ann` over `batches` of (inputs, labels or None), reading out at each of `timesteps`.

    `spiking` is the graph of `model` before any calibrator: spikes are held against their neuron's activation
    there, by name, since a correction may have changed the weights of `model`. None: it is `ann` itself.
    Layers and operations are counted over the whole of the longest run. `progress` is told samples times
    steps as they are done, `timesteps[-1]` for each sample. `batches` are those of this process's `share`;
    what all processes have counted is put together in the order of the batches, so it is the same to the last
    digit for any number of them. `witness` sees every answer, and needs one process. Raises `DataError` when
    there are no samples or a label is not one of the network's classes.
    """
    spiking = spiking or ann
    steps = sorted(set(timesteps))
    last = steps[-1]
    synapses = tuple(n for n in model.plan.step if isinstance(n.op, Conv | ConvTranspose | Linear))
    fan_out = {node: fan_out_of(node) for node in synapses}
    sources = frozenset(n.inputs[0] for n in synapses)
    voices = voices_of(model.graph)
    listener = partial(Watch, sources, voices, last <= COUNTABLE)

    def tally(first: int, inputs: Tensor, labels: Tensor | None) -> Tally:
        count, sums, answers = (
            len(inputs),
            [LayerSums() for _ in model.neurons],
            {t: Answers() for t in steps},
        )
        fidelity, target = Fidelity(steps, len(model.graph.outputs)), ann.run(inputs)
        choice = target[0].argmax(1)
        if labels is not None:
            check_labels(labels, target[0].shape[1])
        if witness is not None:
            witness.ann(first, target)
        activations = {node.name: value for node, value in activations_of(spiking, inputs).items()}
        done, watch = 0, listener()
        for time, readout, watch in model.answers(inputs, steps, listener):
            if time in answers:
                totals = watch.follow()
                reached = operations_of(watch, totals, fan_out)
                add_answers(answers[time], readout, target, labels, totals.spikes, reached)
                fidelity.add(time, readout, target)
                if witness is not None:
                    witness.answer(time, first, readout)
            progress(count * (time - done))
            done = time
        for node, layer in zip(model.neurons, sums, strict=True):
            neuron = node.op
            assert isinstance(neuron, Neuron)
            layer.add(neuron, activations[node.name], model.mean(watch.sums[node], last), watch.fired(node))
        right = count_right(choice, labels) if labels is not None else 0.0
        return Tally(count, labels is not None, right, watch.follow().active, tuple(sums), answers, fidelity)

    each, done = list[Tally](), 0
    for batch in batches:
        tallies = []
        for inputs, labels in tiled(model, [batch]):
            tallies.append(tally(done, inputs, labels))
            done += len(inputs)
        each.append(merged(tallies))
    if not (every := share.together(each)):
        raise DataError("there are no samples to measure on")
    total = merged(every)
    samples, answers, labelled = total.samples, total.answers, total.labelled
    layers = dict(zip(model.neurons, total.layers, strict=True))
    neurons = sum(size_of(n.shape) for n in layers)
    macs = macs_of(model.plan.static)
    ranks = scores_classes([o.shape for o in ann.outputs]) if witness is None else witness.ranks
    curve = tuple(
        a.point(t, model.latency(t), samples, neurons, labelled, ranks, macs) for t, a in answers.items()
    )
    operations = answers[last].operations / samples
    return Measurement(
        samples=int(samples),
        ann_accuracy=total.ann_right / samples if labelled else None,
        curve=curve,
        layers=tuple(layers[node].layer(node, voice, last) for voice, node in voices.items()),
        outputs=total.fidelity.outputs(
            [o.name for o in ann.outputs], ["x".join(map(str, sample_shape(o.shape))) for o in ann.outputs]
        ),
        metrics=summary(
            model, spiking, curve[-1].spikes_per_neuron, total.active / samples / neurons, operations, last
        )
        | {"execution": model.execution(max(t.samples for t in every))},
    )


def scores_classes(outputs: Sequence[Shape]) -> bool:
    """Whether the first output may score classes along axis 1: several; not places, one output among more."""
    first, *others = outputs
    return len(first) > 1 and first[1] > 1 and (len(first) == 2 or not others)


def tiled(model: Model, batches: Labelled) -> Labelled:
    """The batches in the portions that `model` runs fastest."""
    for inputs, labels in batches:
        for tile in model.tiles(len(inputs)):
            yield inputs[tile], labels if labels is None else labels[tile]


def add_answers(
    sums: Answers,
    readout: Sequence[Tensor],
    target: Sequence[Tensor],
    labels: Tensor | None,
    spikes: float,
    operations: float,
) -> None:
    """One batch at one time step; `spikes` and synaptic `operations` are the batch's counts so far."""
    choice = readout[0].argmax(1)
    count = len(choice)
    agree = (choice == target[0].argmax(1)).reshape(count, -1).double()
    sums.agree += float(agree.mean(1).sum())
    sums.right += count_right(choice, labels) if labels is not None else 0.0
    sums.error += float(relative_error(readout, target).sum())
    sums.divergence += float(divergence(readout[0], target[0]).sum())
    sums.spikes += spikes
    sums.operations += operations


def count_right(choice: Tensor, labels: Tensor) -> float:
    """How many samples' largest output is their label."""
    if choice.numel() != labels.numel():
        raise DataError(
            f"the network answers with {choice[0].numel()} values a sample, the data have one label each",
            hint="measure a dense network without labels: against its ANN",
        )
    return float((choice.reshape(-1) == labels.reshape(-1)).sum())


def check_labels(labels: Tensor, classes: int) -> None:
    """`DataError` when a label is not one of the network's classes 0 … classes − 1."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise DataError(
            f"the data have the label {int(wrong[0])}, the network has the classes 0 to {classes - 1}",
            hint="labels count from 0 in the order of the network's outputs",
        )


def relative_error(readout: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """|SNN − ANN| / |ANN| for each sample, Euclidean over all outputs: [batch]."""
    difference = _length([a - b for a, b in zip(readout, target, strict=True)])
    return difference / _length(target).clamp_min(1e-12)


def _length(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean length of each sample over all tensors: [batch], double precision."""
    return torch.cat([t.reshape(len(t), -1).double() for t in tensors], 1).square().sum(1).sqrt()


def batch_that_fits(graph: Graph, wanted: int, timesteps: int = 1) -> int:
    """How many samples of a spiking graph to measure at a time: `wanted`, or fewer where neurons are many.

    Each neuron of each sample takes about 20 bytes, in each of its views in a window of `timesteps`; together
    they stay near 2 GB. A fixed batch is kept.
    """
    layers = ((node.op, size_of(node.shape)) for node in graph if isinstance(node.op, Neuron))
    neurons = sum(size * max(1, neuron.views(timesteps)) for neuron, size in layers)
    return graph.batch or max(1, min(wanted, NEURONS_AT_ONCE // max(neurons, 1)))


def sample_shape(shape: Shape) -> Shape:
    """The shape of one sample: without the batch, wherever it stands."""
    batch = batch_axes(shape) or (0,)
    return tuple(size_of((d,)) for i, d in enumerate(shape) if i not in batch or d > BATCH)
