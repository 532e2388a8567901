"""Spike calibration: after each unsigned neuron, what takes the spikes of inactive neurons back.

Inserted is converter/withdrawal.py, with an allowance of T / 2 unless told otherwise (SpiCalib: Li et al.,
2022, arXiv 2207.02702). It corrects what is left after thresholds are set, and looks at no data. Neurons that
take spikes back themselves (signed, multi-level, negative-slope) are left as they are; a network of these
alone is refused. For runs shorter than 32 steps there is hardly a pause to judge by.
"""

from __future__ import annotations

from dataclasses import dataclass

from calibrators import calibrators
from calibrators._layerwise import check_thresholds
from converter.errors import Unsupported, UsageError
from converter.graph import Graph, Node
from converter.neurons import Neuron
from converter.observe import Batches, voices_of
from converter.withdrawal import Withdrawal


@calibrators.register
@dataclass(frozen=True)
class SpikeCalibration:
    """`timesteps` of the run it is meant for; `allowance` in steps, above 0, None for half of them."""

    timesteps: int = 32
    allowance: float | None = None

    def __post_init__(self) -> None:
        """Raise `UsageError` for a run without steps or without an allowance."""
        if self.timesteps < 1:
            raise UsageError(f"timesteps is {self.timesteps}; a run takes at least 1")
        if self.allowance is not None and self.allowance <= 0:
            raise UsageError(
                f"the allowance is {self.allowance:g} steps; it lies above 0",
                hint="half of the run's steps; without spike-calibration nothing is withdrawn",
            )

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The same graph with withdrawals. Raises `Unsupported` where no neuron has a use for one."""
        check_thresholds(graph, "spike-calibration")
        allowance = self.timesteps / 2 if self.allowance is None else self.allowance
        wanted = {neuron.name for voice, neuron in voices_of(graph).items() if unsigned(voice)}
        if not wanted:
            raise Unsupported(
                f"{graph.name} has no use for spike calibration",
                [(n.where, "takes spikes back itself") for n in graph if isinstance(n.op, Neuron)],
                hint="leave it out, or convert with --spikes binary",
            )

        def rule(node: Node) -> Node:
            if node.name not in wanted or not isinstance(node.op, Neuron):
                return node
            return Node.of(Withdrawal(node.op.calibrated(), allowance), node, name=f"{node.name}.withdrawal")

        return graph.map(rule).with_unique_names()


def unsigned(voice: Node) -> bool:
    """Whether what is heard here is a neuron whose spikes are never negative, not yet mended."""
    return isinstance(voice.op, Neuron) and not voice.op.remembers
