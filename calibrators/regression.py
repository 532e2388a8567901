"""Regression: a layer's weights once more, by least squares on what its spiking predecessors really say.

Layer by layer, with x̄ the mean over T steps of the spikes that come in, o of those that go out, a the ANN's
activation and r = a − o, a few rounds of

    D = (Σ r·x̄ᵀ) (Σ x̄·x̄ᵀ + λ)⁻¹        x̄ less its mean; over samples and places
    W ← W + s·D                           s = Σ r·(D x̄) / Σ (D x̄)²  over those where a or o is not zero
    b ← b + mean(r) − s·D·mean(x̄)

Inputs known up to a rounding error deserve less weight, and an error that several of them share can be undone
by the others: that is what D finds. r is zero where both are silent, so what a neuron keeps to itself is
free. The neuron is run as it will be; its slope is taken for one. One half of the samples is learnt from, and
each channel keeps the round that does best on the other half, which may be none. The aim is that of
`reconstruction`, by solving instead of descending: some five runs instead of tens. It depends on T.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from calibrators import calibrators
from calibrators._layerwise import Layer, by_channel, check_run, with_neurons
from calibrators._run import layer_by_layer
from calibrators._synapses import reweighted, synapse, synapses, with_weights
from converter.graph import Graph, Node
from converter.observe import Batches
from converter.ops import Conv, ConvTranspose, Linear
from converter.unroll import each_step, said

RIDGE = 1e-2
"""λ, in mean squares of the inputs."""
TINY = 1e-30


@calibrators.register
@dataclass(frozen=True)
class Regression:
    """`timesteps` and `schedule` of the run it is meant for; `rounds` for each layer."""

    timesteps: int = 32
    rounds: int = 4
    schedule: str = "stream"
    changes_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise `UsageError` for a run or a regression without steps, or a schedule there is not."""
        check_run(self.timesteps, self.rounds, self.schedule)

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The graph with other weights and biases; the thresholds must be set.

        Raises `DataError` for fewer than two samples.
        """
        learnt: dict[str, Tensor] = {}
        shifts: dict[str, Tensor] = {}

        def mend(layer: Layer) -> Layer:
            mended, weights, shift = agreed(layer, *self._best(layer))
            learnt.update({node.name: weight for node, weight in weights.items()})
            shifts[layer.node.name] = shift
            return mended

        layer_by_layer(
            "regression", graph, batches, self.timesteps, self.schedule, mend, ann, synapses(graph)
        )
        return with_neurons(reweighted(graph, learnt), {}, shifts)

    def _best(self, layer: Layer) -> tuple[dict[Node, Tensor], Tensor]:
        """The weights of the layer's synapses, and a shift of its current, of each channel's best round."""
        fit, held = slice(layer.half), slice(layer.half, None)
        inputs = {node: said(layer.fire, x[:, fit]) for node, x in layer.given.items() if able(node)}
        moments = {node: Moments.of(node, x) for node, x in inputs.items()}
        weights = {node: synapse(node).weight for node in inputs}
        shift = torch.zeros_like(by_channel(layer.activation, layer.node))
        best, best_shift, lowest = weights, shift, torch.full_like(shift, torch.inf)
        for left in range(self.rounds, -1, -1):
            spoken = layer.shifted(shift).said()
            missing = layer.activation - spoken
            error = by_channel(missing[held].square(), layer.node)
            better = error < lowest
            lowest, best_shift = error.minimum(lowest), shift.where(better, best_shift)
            best = {node: weight.where(along(better, weight), best[node]) for node, weight in weights.items()}
            if not left:
                break
            missing, alive = missing[fit], (layer.activation[fit] != 0) | (spoken[fit] != 0)
            turns = {node: moments[node].direction(x, missing) for node, x in inputs.items()}
            each = (weighted(node, turn)(inputs[node]) for node, turn in turns.items())
            moved = sum(each, start=torch.zeros_like(missing))
            middle = by_channel(moved, layer.node)
            size = by_channel((moved - middle).square() * alive, layer.node)
            gain = by_channel((moved - middle) * missing, layer.node) / size.clamp_min(TINY)
            turns = {node: along(gain, turn) * turn for node, turn in turns.items()}
            weights = {node: weight + turns[node] for node, weight in weights.items()}
            shift = shift + by_channel(missing, layer.node) - gain * middle
            more = [each_step(weighted(node, turn), [layer.given[node]]) for node, turn in turns.items()]
            layer = replace(layer, currents=sum(more, start=layer.currents))
        return best, best_shift


def agreed(
    layer: Layer, weights: Mapping[Node, Tensor], shift: Tensor
) -> tuple[Layer, dict[Node, Tensor], Tensor]:
    """The layer with these weights and this shift, and both; as it was for channels that are no better so."""
    held = slice(layer.half, None)
    changed = with_weights(layer, weights).shifted(shift)
    better = changed.of(held).error() < layer.of(held).error()
    kept = {node: w.where(along(better, w), synapse(node).weight) for node, w in weights.items()}
    shift = shift.where(better, torch.zeros_like(shift))
    return with_weights(layer, kept).shifted(shift), kept, shift


@dataclass(frozen=True)
class Moments:
    """Of the mean inputs of a synapse: their means [groups, inputs, 1], (Σ x̄·x̄ᵀ + λ)⁻¹ of each group."""

    node: Node
    middle: Tensor
    inverse: Tensor

    @staticmethod
    def of(node: Node, x: Tensor) -> Moments:
        """Those of `x` [batch, …], a sample at a time."""
        start = x.new_zeros(())
        count = sum(rows(node, some).shape[-1] for some in x.split(1))
        middle = sum((rows(node, some).sum(-1, keepdim=True) for some in x.split(1)), start=start) / count
        each = (rows(node, some) - middle for some in x.split(1))
        covariance = (sum((some @ some.mT for some in each), start=start) / count).double()
        size = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp_min(TINY)
        eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        return Moments(node, middle, torch.linalg.inv(covariance + RIDGE * size * eye))

    def direction(self, x: Tensor, missing: Tensor) -> Tensor:
        """D for inputs `x` [batch, …] and r = `missing` [batch, …], in the shape of the weight."""
        weight, total, count = synapse(self.node).weight, x.new_zeros(()), 0
        for some, r in zip(x.split(1), missing.split(1), strict=True):
            each = rows(self.node, some) - self.middle
            away = r.reshape(len(each), -1, each.shape[-1])
            total, count = total + away @ each.mT, count + each.shape[-1]
        return (total.double() / count @ self.inverse).to(weight.dtype).reshape(weight.shape)


def rows(node: Node, x: Tensor) -> Tensor:
    """What each output of a synapse reads of one sample `x` [1, …]: [groups, inputs, places]."""
    op = synapse(node)
    if not isinstance(op, Conv):
        return x[..., None]
    kernel = op.weight.shape[2:]
    patches = F.unfold(
        x, tuple(kernel), dilation=op.dilation or 1, padding=op.padding or 0, stride=op.stride or 1
    )
    return patches.reshape(op.groups, -1, patches.shape[-1])


def able(node: Node) -> bool:
    """Whether the weights of a synapse are rows, one for each channel: of a matrix or 2-d convolution."""
    if isinstance(node.op, Linear):
        return len(node.shape) == 2
    return isinstance(node.op, Conv) and len(node.shape) == 4


def weighted(node: Node, weight: Tensor) -> Conv | ConvTranspose | Linear:
    """The synapse with another weight and no bias."""
    return replace(synapse(node), weight=weight, bias=None)


def along(channels: Tensor, weight: Tensor) -> Tensor:
    """A number for each channel, or one for all, so that it broadcasts to a weight [channels, …]."""
    return channels.reshape(-1, *[1] * (weight.dim() - 1))
