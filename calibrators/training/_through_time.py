"""Learning in time: at last the network runs as it will, a stream of T steps, and gradients go back there.

A neuron in a stream errs because it rounds, which a recipe's activation can say, and because its current
comes unevenly: of the first spikes of the layer before there are too few, or too many. The last phase says
both, as it simulates

    v_t = v_{t−1} − s_{t−1} + z_t / λ,   v_0 = φ         s_t = H(v_t − 1)         o_t = λ · s_t

H has no gradient that would help; in its place stands a triangle, 1 where the membrane is at its threshold
and 0 from one threshold away (Bellec et al., NeurIPS 2018; Neftci et al., IEEE SPM 2019). ∂x is ∂loss/∂x:

    ∂s_t = λ · ∂o_t − ∂v_{t+1}        ∂v_t = ∂v_{t+1} + max(0, 1 − |v_t − 1|) · ∂s_t        ∂z_t = ∂v_t / λ
    ∂λ   = Σ_t (s_t · ∂o_t − z_t / λ · ∂z_t)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from calibrators.training import Phase
from converter.errors import Unsupported, UsageError
from converter.graph import Graph
from converter.neurons.negative_slope import NegativeSlope


@dataclass(frozen=True, kw_only=True)
class InTime:
    """Base of recipes for rates.

    `steps`: T, if the network is to learn with a stream of T steps of binary spikes too. `phases`: the one
    share of the training at which it begins to.
    """

    steps: int | None = None
    phases: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        """Raise `UsageError` for a run without steps, or phases that cannot be."""
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"steps is {self.steps}; a run takes at least 1")
        if len(self.phases) != 1 or not 0 <= self.phases[0] <= 1:
            raise UsageError(
                f"the phases are {', '.join(map(str, self.phases))}",
                hint="one share of the training, 0 to 1: where the stream begins",
            )

    def refuse(self, graph: Graph) -> None:
        """A neuron with a slope below zero has no threshold to run with; without time it is left as it is."""
        found = [node for node in graph if isinstance(node.op, NegativeSlope)]
        if found and self.steps is not None:
            raise Unsupported(
                f"{len(found)} activation{'s' * (len(found) > 1)} of {graph.name} cannot learn in time",
                [(node.where, "it has a slope below zero, and no threshold") for node in found],
                hint="without --steps it stays as it is",
            )

    def in_time(self, phase: Phase, progress: float) -> Phase:
        """What holds at this share of the training, `phase` being what comes before the stream."""
        if self.steps is None or progress < self.phases[0]:
            return phase
        return replace(phase, name=f"stream, T = {self.steps}", steps=self.steps)


class Fire(torch.autograd.Function):
    """(currents [steps, …], λ, φ) -> o [steps, …], with the gradients above; none of φ."""

    @staticmethod
    def forward(ctx: Any, currents: Tensor, threshold: Tensor, initial: float | Tensor) -> Tensor:
        """Keeps the currents, membranes and spikes of all steps."""
        charges = currents / threshold
        membranes, spikes = torch.empty_like(charges), torch.empty_like(charges)
        left: Tensor | float = initial
        for step, charge in enumerate(charges):
            torch.add(charge, left, out=membranes[step])
            torch.ge(membranes[step], 1.0, out=spikes[step])
            left = membranes[step] - spikes[step]
        ctx.save_for_backward(charges, membranes, spikes, threshold)
        return spikes * threshold

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """From the last step to the first."""
        charges, membranes, spikes, threshold = ctx.saved_tensors
        (of_spikes,) = gradients
        near = (1 - (membranes - 1).abs()).clamp_min(0)
        of_membranes = torch.empty_like(charges)
        later = torch.zeros_like(charges[0])
        for step in reversed(range(len(charges))):
            later = later + near[step] * (threshold * of_spikes[step] - later)
            of_membranes[step] = later
        of_currents = of_membranes / threshold
        of_threshold = (spikes * of_spikes - charges * of_currents).sum_to_size(threshold.shape)
        return of_currents, of_threshold, None


def fire(currents: Tensor, threshold: Tensor, initial: float | Tensor) -> Tensor:
    """What a layer emits of `currents` [steps, …]: λ or nothing at every step; the same shape."""
    spikes: Tensor = Fire.apply(currents.float(), threshold, initial)  # type: ignore[no-untyped-call]
    return spikes
