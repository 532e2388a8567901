"""Activations become neurons; what cannot spike is refused, all of it at once.

    Relu, Clip(0, c)    the chosen neuron, with ceiling c
    LeakyRelu, PRelu    the neuron with a negative slope

Linear ops act on spikes as they are. Max-pools and other homogeneous ops run on running sums, exactly
(converter/cumulative.py). Any other op has no spiking meaning: it may stand after the last neuron (a
Softmax head, applied to the mean output), or the user lets it stay with `keep_analog`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch

from converter.errors import Unsupported
from converter.graph import Graph, Node
from converter.neurons import Neuron
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.negative_slope import NegativeSlope
from converter.ops import Clip, LeakyRelu, PRelu, Relu
from converter.plan import Plan


@dataclass(frozen=True)
class Spike:
    """The pass. `neuron` is the prototype every Relu and Clip becomes, its ceiling set by the Clip."""

    neuron: Neuron = IntegrateFire()  # noqa: RUF009  (frozen)
    keep_analog: Collection[str] = ()

    def __call__(self, graph: Graph) -> Graph:
        """The spiking graph, thresholds still unset. Raises `Unsupported` naming every node in the way."""
        spiking = graph.rewrite(self._rule)
        why = "only activations of the form clamp(x, 0, c) have a spiking counterpart"
        refused = dict.fromkeys(in_the_way(spiking), why)
        if self.neuron.one_sided:
            why = "a first spike says 0 or more, this activation says less"
            refused |= {node: why for node in spiking if isinstance(node.op, LeakyRelu | PRelu)}
        refused = {node: why for node, why in refused.items() if node.op.kind not in self.keep_analog}
        if refused:
            raise Unsupported(
                f"{graph.name} has {len(refused)} node{'s' * (len(refused) > 1)} that cannot be converted",
                [(node.where, why) for node, why in refused.items()],
                hint="ann2snn inspect lists every node; "
                + " ".join(dict.fromkeys(f"--keep-analog {n.op.kind}" for n in refused))
                + " leaves them in floating point",
            )
        if not any(isinstance(node.op, Neuron) for node in spiking):
            raise Unsupported(
                f"{graph.name} has nothing to convert", [("no Relu, Clip, LeakyRelu or PRelu is in it", "")]
            )
        return spiking

    def _rule(self, node: Node) -> Node | None:
        match node.op:
            case Relu():
                return replace(node, op=replace(self.neuron, ceiling=None))
            case Clip(low, high) if low == 0 and high is not None:
                return replace(node, op=replace(self.neuron, ceiling=high))
            case LeakyRelu() | PRelu() if self.neuron.one_sided:
                return None
            case LeakyRelu(alpha):
                return replace(node, op=self._sloped(torch.tensor(alpha)))
            case PRelu(slope):
                return replace(node, op=self._sloped(slope))
        return None

    def _sloped(self, slope: torch.Tensor) -> Neuron:
        return NegativeSlope(initial=self.neuron.initial, slope=slope)


def in_the_way(graph: Graph) -> list[Node]:
    """The nodes of a spiking graph that have no spiking meaning and stand before a neuron."""
    plan = Plan.of(graph, constant_input=False)
    return [node for node in plan.step if node in plan.cumulative and not node.op.homogeneous]
