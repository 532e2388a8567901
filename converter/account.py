"""What a conversion did, in words: what calibrators changed, what searches found, what stays analog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from converter.first_spike import FirstSpikeModel
from converter.graph import Graph, Node
from converter.neurons import Neuron
from converter.ops import Affine, BatchNorm, MaxPool, ReduceMax
from converter.quantise import Synapse, weight_bytes
from converter.reference import same_tensors
from converter.report import Layer, Trial, best
from converter.schedules import Model
from converter.stateful import Stateful
from converter.temporal_bias import TemporalBias


def said_of_change(before: Graph, after: Graph) -> str:
    """What a calibrator did, in words: ranges of thresholds and first membranes, layers, what it put in."""
    old = {n.name: n for n in before}
    changed = [
        n for n in after if n.name not in old or not same_tensors(n.op.tensors(), old[n.name].op.tensors())
    ]
    told = []
    for field_, words in (("threshold", "thresholds"), ("initial", "first membranes")):
        values = [value for n in changed for value in [changed_field(n, old, field_)] if value is not None]
        if values:
            low, high = min(float(t.min()) for t in values), max(float(t.max()) for t in values)
            count = sum(t.numel() for t in values)
            told.append(f"{count} {words} in {len(values)} layers, from {low:.4g} to {high:.4g}")
    put_in = Counter(n.op.kind for n in changed if n.name not in old and isinstance(n.op, Stateful))
    told += [f"{count} {kind} put in" for kind, count in put_in.items()]
    return "; ".join(told) or f"changed the weights of {len(changed)} layers, no threshold"


def said_of_weights(graph: Graph, errors: Mapping[str, float]) -> str:
    """What quantising did, in words: the memory of the weights, and the errors of the synapses."""
    low, high = min(errors.values(), default=0.0), max(errors.values(), default=0.0)
    held = {n.op.packed.format for n in graph if isinstance(n.op, Synapse) and n.op.packed is not None}
    return (
        f"{len(errors)} layers of weights held as {', '.join(sorted(held))} in {weight_bytes(graph)} bytes, "
        f"relative errors from {low:.2g} to {high:.2g}"
    )


def changed_field(node: Node, old: Mapping[str, Node], name: str) -> Tensor | None:
    """The field of a neuron, if it is a tensor and is not what it was."""
    if not isinstance(node.op, Neuron) or node.name not in old:
        return None
    new, was = (n.op.tensors().get(name) for n in (node, old[node.name]))
    return new if new is not None and (was is None or not torch.equal(new, was)) else None


def said_of_search(trials: Sequence[Trial]) -> str:
    """What a search found, in words: how much nearer to the ANN than at its start."""
    start, found = trials[0], best(trials)
    tried = f"{len(trials)} trials" if len(trials) > 1 else "1 trial"
    unit = " nats" if start.judged == "KL" else ""
    if found.objective >= start.objective:
        stood = f"{start.judged} {start.divergence:.4g}{unit}"
        return f"{tried}, none better on held-out samples than the start ({stood})"
    turned = ", ".join(f"{name} {value:+.2f}" for name, value in found.knobs.items())
    nearer = f"{start.judged} on held-out samples from {start.divergence:.4g} to {found.divergence:.4g}{unit}"
    if found.spikes_per_neuron != start.spikes_per_neuron:
        nearer += f", spikes per neuron from {start.spikes_per_neuron:.3g} to {found.spikes_per_neuron:.3g}"
    return f"{tried}, {nearer} in trial {trials.index(found) + 1} ({turned})"


def clipping_warning(model: Model, layers: Sequence[Layer]) -> str | None:
    """What activations beyond their window do to a code in continuous time, which is exact up to there."""
    beyond = [layer for layer in layers if layer.clipped]
    if not (isinstance(model, FirstSpikeModel) and model.continuous and beyond):
        return None
    worst = max(beyond, key=lambda layer: layer.clipped)
    return (
        f"activations beyond their window were clipped in {len(beyond)} layers, in {worst.name} "
        f"{100 * worst.clipped:.2g} % of them: the answers are not exactly the ANN's; --slack widens windows"
    )


def analog_words(model: Model, kept: Sequence[str]) -> tuple[str, ...]:
    """Every op that runs in floating point, and why it may."""
    head = [f"{n.op.kind} '{n.name}': after the last neuron, on the mean output" for n in model.plan.head]
    kept_nodes = [n for n in model.plan.step if n in model.plan.cumulative and n.op.kind in kept]
    return tuple(
        [f"{n.op.kind} '{n.name}': kept analog as asked, on running means" for n in kept_nodes] + head
    )


def pooling_words(model: Model, ann: Graph) -> tuple[str, ...]:
    """How each op that takes the largest of its inputs is treated, and whether it moved before a neuron."""
    original = {node.name: node for node in ann}
    moved = {
        pool: f"moved before the neuron '{neuron.name}', exact: "
        for neuron in model.neurons
        for pool in pools_before(neuron)
        if neuron.name in original and pool.name not in {p.name for p in pools_before(original[neuron.name])}
    }
    once = [n for n in model.plan.static if isinstance(n.op, POOLS)]
    often = [n for n in model.plan.step if n in model.plan.cumulative and n.op.homogeneous]
    how = {
        **dict.fromkeys(once, "the maximum of a constant current, computed once"),
        **dict.fromkeys(often, "the change of the maximum of the summed inputs, lossless"),
        **{n: EARLIEST for n in often if isinstance(model, FirstSpikeModel) and spikes_alone(n.inputs[0])},
    }
    return tuple(f"{n.op.kind} '{n.name}': {moved.get(n, '')}{said}" for n, said in how.items())


POOLS = MaxPool | ReduceMax
EARLIEST = "the earliest spike of its window wins, which carries the largest value: exact"


def spikes_alone(node: Node) -> bool:
    """Whether a value is the spikes of neurons of one layer as they are, pooled perhaps."""
    return isinstance(node.op, Neuron) or (isinstance(node.op, MaxPool) and spikes_alone(node.inputs[0]))


def pools_before(node: Node) -> list[Node]:
    """The max-pools between what `node` reads and the synapse or neuron before it."""
    found = []
    (above,) = node.inputs
    while isinstance(above.op, Affine | BatchNorm | TemporalBias | POOLS):
        found += [above] * isinstance(above.op, POOLS)
        (above,) = above.inputs
    return found
