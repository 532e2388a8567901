"""Other people's converters on our networks: SpikingJelly's `ann2snn`, measured as our own is.

A peer converts an `nn.Module`, so the imported graph is written down as one, of standard modules, and must
answer as the graph does (to 1e-5) before anything is converted. It is calibrated on the same images, measured
on the same images, and every T is read out of one run. A Softmax after the last neuron is applied to the mean
output, as we do.

SpikingJelly: Fang et al., Science Advances 2023; version 2.0.0. It replaces `nn.ReLU` alone, and keeps quiet
about what it does not replace, so a network in which neurons are missing is refused here.
"""

from __future__ import annotations

import contextlib
import io
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from benchmarks.importing import distance
from converter.errors import Refusal, Unsupported
from converter.graph import Graph, Node, size_of
from converter.metrics import Answers, add_answers, check_labels, count_right
from converter.neurons import Neuron
from converter.operations import fan_out_of, macs_of
from converter.ops import Add, AvgPool, Concat, Conv, Linear, MaxPool, Pad, ReduceMean, Relu, Reshape, Slice
from converter.passes.spike import Spike
from converter.plan import Plan
from converter.report import Point
from converter.spiking import identifiers

TOLERANCE = 1e-5
"""Largest difference max|a − b| / max|b| between the graph and the module a peer is given."""

QUANTILE = 1 << 24
"""More values than this at once, and the peer's torch.quantile refuses."""

CONV: tuple[Callable[..., nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAX_POOL: tuple[Callable[..., nn.Module], ...] = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVG_POOL: tuple[Callable[..., nn.Module], ...] = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)

Calibration = Callable[[int], list[Tensor]]
"""The calibration samples, in batches of at most so many."""
Recipe = Callable[[Calibration], Any]
"""Makes a recipe of SpikingJelly for these samples."""


def rate_coding(batches: Calibration) -> Any:
    """The 99.9th percentile of each channel, membranes starting at half a threshold, pools before neurons."""
    from spikingjelly.activation_based.ann2snn import RateCodingRecipe

    flags = dict.fromkeys(("channel_wise", "half_threshold", "pre_spike_maxpool"), True)
    return RateCodingRecipe(batches(100), mode="99.9%", **flags)


def threshold_balancing(batches: Calibration) -> Any:
    """Local threshold balancing (Bu et al., CVPR 2025): θ ← θ + 2·mean((x − θ)₊), once for each batch.

    The number of batches decides how high θ comes. Batches of 8, all taken four times, gave the peer its best
    curve up to T = 16 of those tried on resnet20 (of 26, once and four times; of 8, four and twelve times).
    """
    from spikingjelly.activation_based.ann2snn import LocalThresholdBalancingRecipe

    return LocalThresholdBalancingRecipe(batches(8) * 4)


@dataclass(frozen=True)
class Converted:
    """A network that a peer converted: one step a call, and where its parts are."""

    step: nn.Module
    head: tuple[Node, ...]
    """What is applied to the mean output."""
    neurons: tuple[nn.Module, ...]
    synapses: dict[nn.Module, Tensor]
    """The layers that spikes reach -> how many weights each of their inputs has."""
    macs: float
    """Multiplications of a sample that are done once, before the first neuron."""


@dataclass
class Tally:
    """Counts what passes: spikes, the neurons they are of, and the weights they reach."""

    synapses: dict[nn.Module, Tensor]
    spikes: float = 0.0
    operations: float = 0.0
    neurons: dict[nn.Module, int] = field(default_factory=dict)

    def fired(self, module: nn.Module, _: tuple[Tensor, ...], spikes: Tensor) -> None:
        """A neuron's output."""
        self.spikes += float((spikes != 0).sum())
        self.neurons[module] = spikes[0].numel()

    def reached(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A synapse's input."""
        events = (inputs[0] != 0).to(inputs[0].dtype)
        self.operations += float((events * self.synapses[module]).sum(dtype=torch.float64))


def module_of(graph: Graph) -> fx.GraphModule:
    """The ANN up to its head, as standard modules; the layers bear the names of `layers_of(graph)`.

    Raises `Unsupported` for operators that have no such form, naming each, and for several inputs or outputs.
    """
    names, plan = layers_of(graph), Plan.of(Spike()(graph))
    of_spiking = {node.name for node in plan.head}
    ends = [node for node in graph if node.name in {n.name for n in plan.frontier}]
    if len(graph.inputs) != 1 or len(ends) != 1:
        why = f"{len(graph.inputs)} inputs and {len(ends)} outputs, a peer takes one of each"
        raise Unsupported(f"{graph.name} has {why}", [])
    modules, made = nn.Module(), fx.Graph()
    values: dict[Node, fx.Node] = {graph.inputs[0]: made.placeholder("x")}
    refused = []
    for node in graph.order[1:]:
        if node.name in of_spiking:
            continue
        given = tuple(values.get(i, values[graph.inputs[0]]) for i in node.inputs)
        try:
            form = _form(node)
        except Refusal as refusal:
            refused.append((node.where, refusal.why))
            continue
        if isinstance(form, nn.Module):
            modules.add_module(names[node.name], form)
            values[node] = made.call_module(names[node.name], given)
        else:
            values[node] = form(made, *given)
    if refused:
        raise Unsupported(f"{graph.name} cannot be given to a peer", refused)
    made.output(values[ends[0]])
    return fx.GraphModule(modules, made).eval().requires_grad_(False)


def layers_of(graph: Graph) -> dict[str, str]:
    """Node name -> the name of its layer in the module."""
    return identifiers(graph, dir(fx.GraphModule))


def _form(node: Node) -> nn.Module | Callable[..., fx.Node]:
    """The op as a standard module, or as what to add to an fx.Graph."""
    match node.op:
        case Relu():
            return nn.ReLU()
        case Conv(weight, bias, stride, padding, dilation, groups):
            return _conv(weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
        case Linear(weight, bias):
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
            return _with(linear, weight, bias)
        case MaxPool(kernel, stride, padding, dilation, ceil, pad) if not pad:
            return MAX_POOL[len(kernel) - 1](kernel, stride, padding, dilation, ceil_mode=ceil)
        case AvgPool(kernel, stride, padding, ceil, include):
            return AVG_POOL[len(kernel) - 1](kernel, stride, padding, ceil, include)
        case Add():
            return lambda made, first, *rest: _sum(made, first, rest)
        case Concat(dim):
            return lambda made, *parts: made.call_function(torch.cat, (list(parts), dim))
        case ReduceMean() as op:
            return lambda made, x: made.call_function(torch.mean, (x, op.dims, op.keep))
        case Reshape(shape) if shape[0] == -1 and len(shape) == 2:
            return nn.Flatten()
        case Slice(dim, start, stop, step) if dim:
            index = (*[slice(None)] * dim, slice(start, stop, step))
            return lambda made, x: made.call_function(operator.getitem, (x, index))
        case Pad(amounts, "constant") if len(amounts) == 6 and not any(amounts[:4]) and min(amounts) >= 0:
            # Zero channels around the others: a convolution with ones and zeros is the module that says it.
            channels = node.shape[1] - sum(amounts[4:])
            ones = nn.functional.pad(torch.eye(channels), (0, 0, *amounts[4:]))
            return _conv(ones[:, :, None, None], None)
    raise Refusal("has no form that the peer converts")


def _sum(made: fx.Graph, total: fx.Node, others: Sequence[fx.Node]) -> fx.Node:
    for other in others:
        total = made.call_function(operator.add, (total, other))
    return total


def _conv(weight: Tensor, bias: Tensor | None, **options: Any) -> nn.Module:
    kind = CONV[weight.dim() - 3]
    out, per_group, *kernel = weight.shape
    inputs = per_group * options.get("groups", 1)
    return _with(kind(inputs, out, tuple(kernel), bias=bias is not None, **options), weight, bias)


def _with(module: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    module.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return module


def convert(graph: Graph, recipe: Recipe, calibration: Calibration) -> Converted:
    """SpikingJelly's conversion of `graph`.

    Raises `Unsupported` where the peer cannot do this network, in its own words, or does it in part only.
    """
    from spikingjelly.activation_based import ann2snn, base
    from spikingjelly.logger import logger

    logger.disable("spikingjelly")
    module = module_of(graph)
    plan = Plan.of(Spike()(graph))
    head = tuple(node for node in graph if node.name in {n.name for n in plan.head})
    largest = max(size_of(node.shape) for node in graph)

    def batches(size: int) -> list[Tensor]:
        return calibration(max(1, min(size, QUANTILE // largest)))

    with torch.no_grad():
        x = batches(100)[0]
        far = distance(applied(head, module(x)), graph.run(x))
    if not far <= TOLERANCE:
        raise Unsupported(f"{graph.name} as a module is off by {far:.1e}, more than {TOLERANCE:.0e}", [])
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            step = ann2snn.Converter(recipe(batches)).convert(module).eval()
    except (ValueError, RuntimeError) as error:
        raise Unsupported(f"SpikingJelly does not convert {graph.name}", [(str(error), "")]) from error
    fire = tuple(m for m in step.modules() if isinstance(m, base.MemoryModule))
    wanted = sum(isinstance(n.op, Neuron) for n in plan.step)
    if len(fire) != wanted:
        raise Unsupported(
            f"SpikingJelly made {len(fire)} layers of neurons in {graph.name}, not {wanted}", []
        )
    names, inside = layers_of(graph), {n.name for n in plan.step}
    synapses = {
        step.get_submodule(names[n.name]): fan_out_of(n)
        for n in graph
        if isinstance(n.op, Conv | Linear) and n.name in inside
    }
    return Converted(step, head, fire, synapses, macs_of(plan.static))


def applied(head: Sequence[Node], value: Tensor) -> tuple[Tensor]:
    """The network's output for this value before its head."""
    for node in head:
        value = node.op(value)
    return (value,)


@torch.no_grad()
def measure(
    peer: Converted,
    ann: Graph,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    timesteps: Sequence[int],
) -> tuple[tuple[Point, ...], float | None]:
    """The curve at `timesteps`, and the ANN's accuracy on the same samples: as `converter.metrics` counts.

    `batches` gives (inputs, labels or None).
    """
    from spikingjelly.activation_based.functional import reset_net

    answers = {t: Answers() for t in sorted(timesteps)}
    samples = right = 0.0
    labelled = True
    for x, labels in batches:
        target, tally = ann.run(x), Tally(peer.synapses)
        if labels is not None:
            check_labels(labels, target[0].shape[1])
            right += count_right(target[0].argmax(1), labels)
        handles = [m.register_forward_hook(tally.fired) for m in peer.neurons]
        handles += [m.register_forward_pre_hook(tally.reached) for m in peer.synapses]
        reset_net(peer.step)
        total = torch.zeros(())
        for time in range(1, max(answers) + 1):
            total = total + peer.step(x)
            if time in answers:
                readout = applied(peer.head, total / time)
                add_answers(answers[time], readout, target, labels, tally.spikes, tally.operations)
        for handle in handles:
            handle.remove()
        labelled = labelled and labels is not None
        samples += len(x)
        neurons = sum(tally.neurons.values())
    points = tuple(a.point(t, t, samples, neurons, labelled, True, peer.macs) for t, a in answers.items())
    return points, right / samples if labelled else None
