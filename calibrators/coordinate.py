"""Coordinate search: three numbers a channel, moved in turn as long as its spikes come nearer to the ANN.

    threshold θ · f                      finer or wider
    initial   φ + d                      the first membrane, in thresholds
    drive     β + d · θ / T              a constant current, d thresholds over the whole run
    exchange  φ + d and β − d · θ / T    the same charge, for d < 0 later: a spike that cannot be taken back
                                         should not be fired on the first steps' word
    mean      β − (mean o − mean a)      bias correction

Layer by layer on spiking predecessors; channels do not meet within a layer, so one run of the layer judges a
move for all of its channels at once, by the mean square of (mean spikes − ANN activation). The steps halve
each round. One half of the samples decides the moves, the other half has to agree, channel by channel. The
drive is folded into the weights before. It depends on T, and the answer is best at that T, not before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from calibrators import calibrators
from calibrators._layerwise import Correction, Layer, by_channel, with_neurons
from calibrators._run import layer_by_layer
from converter.graph import Graph
from converter.neurons import Neuron
from converter.observe import Batches

OFFSETS = (-1.0, -0.5, -0.25, 0.25, 0.5)
MOVES = (
    *(("threshold", factor) for factor in (0.7, 0.8, 0.9, 1.1, 1.25, 1.4)),
    *((knob, offset) for knob in ("initial", "drive", "exchange") for offset in OFFSETS),
    ("mean", 1.0),
)
"""(knob, amount) of a round, in this order; from round to round the amounts become smaller."""
ENOUGH = 1 << 16
"""So many values a channel decide a move: more samples of a layer are left out of the search."""


@dataclass(frozen=True)
class Setting:
    """Of one layer, each [channels, 1, …] or a scalar; threshold and drive in activation units."""

    threshold: Tensor
    initial: Tensor
    drive: Tensor

    @staticmethod
    def of(layer: Layer) -> Setting:
        """As the layer stands, channel by channel."""
        drive = torch.zeros_like(by_channel(layer.activation, layer.node))
        neuron = layer.neuron
        return Setting(neuron.calibrated() + drive, neuron.initial + drive, drive)

    def moved(self, knob: str, amount: float, layer: Layer, timesteps: int) -> Setting:
        """One knob by one amount; `mean` asks the layer under this setting what it says too much."""
        quantum = self.threshold / timesteps
        match knob:
            case "threshold":
                ceiling = layer.neuron.ceiling
                most = torch.inf if ceiling is None else ceiling / layer.neuron.parts
                return replace(self, threshold=(self.threshold * amount).clamp(max=most))
            case "initial":
                return replace(self, initial=self.initial + amount)
            case "drive":
                return replace(self, drive=self.drive + amount * quantum)
            case "exchange":
                return replace(self, initial=self.initial + amount, drive=self.drive - amount * quantum)
        return replace(self, drive=self.drive - self.on(layer).bias())

    def on(self, layer: Layer) -> Layer:
        """The layer with this setting."""
        return replace(layer, node=replace(layer.node, op=self.neuron(layer))).shifted(self.drive)

    def neuron(self, layer: Layer) -> Neuron:
        """The layer's neuron with this setting."""
        return replace(layer.neuron, threshold=self.threshold, initial=self.initial)

    def where(self, better: Tensor, other: Setting) -> Setting:
        """This setting for the channels that are `better` with it, the other for the rest."""
        pairs = zip(self.__dict__.values(), other.__dict__.values(), strict=True)
        return Setting(*(torch.where(better, mine, others) for mine, others in pairs))


@calibrators.register
@dataclass(frozen=True)
class Coordinate(Correction):
    """`timesteps` and `schedule` of the run it is meant for; `rounds` of moves for each layer."""

    rounds: int = 2

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The graph with other thresholds, first membranes and biases; the thresholds must be set.

        Raises `DataError` for fewer than two samples.
        """
        found: dict[str, Neuron] = {}
        drives: dict[str, Tensor] = {}

        def mend(layer: Layer) -> Layer:
            setting = self._search(layer)
            found[layer.node.name] = setting.neuron(layer)
            drives[layer.node.name] = setting.drive
            return setting.on(layer)

        layer_by_layer("coordinate", graph, batches, self.timesteps, self.schedule, mend, ann)
        return with_neurons(graph, found, drives)

    def _search(self, layer: Layer) -> Setting:
        """The best setting of one layer; where the held-out half does not agree, the one it came with."""
        start = Setting.of(layer)
        places = layer.activation[0].numel() // max(start.threshold.numel(), 1)
        enough = max(ENOUGH // places, 1)
        fit = layer.of(slice(min(layer.half, enough)))
        held = layer.of(slice(layer.half, layer.half + enough))
        best, lowest = start, start.on(fit).error()
        for round_ in range(self.rounds):
            for knob, amount in MOVES:
                smaller = amount ** (0.5**round_) if knob == "threshold" else amount * 0.5**round_
                moved = best.moved(knob, smaller, fit, self.timesteps)
                error = moved.on(fit).error()
                best, lowest = moved.where(error < lowest, best), torch.minimum(error, lowest)
        return best.where(best.on(held).error() < start.on(held).error(), start)
