"""Layer-wise reconstruction: weights adjusted until the layer's spikes are nearer to its ANN activations.

Layer by layer, on what its already adjusted, spiking predecessors give it, a few Adam steps lower

    mean (o − a)²      o: mean spikes over T steps, run as they will be; a: ANN activation

The gradient goes through the mean current z̄ = W·x̄ + b of the layer alone, x̄ the mean of its spiking input:
∂o/∂z̄ = 1, for a leaky activation its slope below 0; and nothing pulls a neuron that says all it can further
that way. So nothing is differentiated through time and no layer through another; no labels are needed (Li et
al., ICML 2021, "advanced"; the straight-through rounding of Bu et al., ICLR 2022). One half of the samples is
learnt from, the other half has to agree. The first layer, whose current is exact, stays as it is. It depends
on T.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from calibrators import calibrators
from calibrators._layerwise import Layer, by_channel, check_run, with_neurons
from calibrators._run import layer_by_layer
from calibrators._synapses import reweighted, synapse, synapses, with_weights
from converter.graph import Graph, Node
from converter.observe import Batches
from converter.unroll import said

SAMPLES = 32
"""How many samples an Adam step looks at."""
RATE = 0.01
"""Size of the first step: of a weight in mean absolute weights of its layer, of a bias in θ / T."""
DECAYS = (0.9, 0.98)
"""Adam's (Kingma & Ba, ICLR 2015); the second is shorter than usual, as the runs are."""


@calibrators.register
@dataclass(frozen=True)
class Reconstruction:
    """`timesteps` and `schedule` of the run it is meant for; `iterations` of Adam for each layer."""

    timesteps: int = 32
    iterations: int = 60
    schedule: str = "stream"
    changes_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise `UsageError` for a run or a descent without steps, or a schedule there is not."""
        check_run(self.timesteps, self.iterations, self.schedule)

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The graph with other weights and biases; the thresholds must be set.

        Raises `DataError` for fewer than two samples.
        """
        learnt: dict[str, Tensor] = {}
        shifts: dict[str, Tensor] = {}
        generator = torch.Generator().manual_seed(0)

        def mend(layer: Layer) -> Layer:
            if not layer.given:
                return layer
            weights, shift = self._descend(layer.of(slice(layer.half)), generator)
            changed = with_weights(layer, weights).shifted(shift)
            held = slice(layer.half, None)
            if changed.of(held).error().mean() >= layer.of(held).error().mean():
                return layer
            learnt.update({node.name: weight for node, weight in weights.items()})
            shifts[layer.node.name] = shift
            return changed

        layer_by_layer(
            "reconstruction", graph, batches, self.timesteps, self.schedule, mend, ann, synapses(graph)
        )
        return with_neurons(reweighted(graph, learnt), {}, shifts)

    def _descend(self, layer: Layer, generator: torch.Generator) -> tuple[dict[Node, Tensor], Tensor]:
        """The weights of the layer's synapses, and a shift of its current, after all steps."""
        weights = {node: synapse(node).weight.clone().requires_grad_() for node in layer.given}
        shift = torch.zeros_like(by_channel(layer.activation, layer.node)).requires_grad_()
        quantum = layer.neuron.calibrated() / self.timesteps
        rates = [RATE * float(synapse(node).weight.abs().mean()) for node in weights]
        groups = [{"params": [w], "lr": rate} for w, rate in zip(weights.values(), rates, strict=True)]
        groups.append({"params": [shift], "lr": RATE * float(quantum.mean())})
        adam = torch.optim.Adam(groups, betas=DECAYS)
        cooling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.iterations)
        for _ in range(self.iterations):
            drawn = torch.randperm(len(layer.activation), generator=generator)[:SAMPLES]
            some = layer.of(drawn)
            wanted = pull(with_weights(some, weights).shifted(shift.detach()), quantum)
            with torch.enable_grad():
                current = shift
                for node, x in some.given.items():
                    op = replace(synapse(node), weight=weights[node], bias=None)
                    current = current + op(said(some.fire, x))
                (current * wanted).sum().backward()
            adam.step()
            cooling.step()
            adam.zero_grad()
        return {node: weight.detach() for node, weight in weights.items()}, shift.detach()


def pull(layer: Layer, quantum: Tensor) -> Tensor:
    """The gradient of half its squared error with respect to its mean current: [batch, …].

    `quantum`: what one spike adds to the mean. Within half of one of all it can say, a neuron says all.
    """
    neuron, spoken, mean = layer.neuron, layer.said(), said(layer.fire, layer.currents + layer.shift)
    full = neuron.limit()
    slope = -neuron(-torch.ones_like(full))
    gain = torch.where((mean < 0) & (slope != 0), slope, 1.0)
    reach = torch.where(mean < 0, neuron(-full), neuron(full))
    gradient = gain * (spoken - layer.activation)
    further = gradient * mean.sign() < 0
    return torch.where(further & ((spoken - reach).abs() < gain.abs() * quantum / 2), 0.0, gradient)
