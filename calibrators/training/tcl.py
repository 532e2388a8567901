"""Trainable clipping level: the network learns where each layer saturates, and to saturate early.

    a = clamp(z, 0, λ)        ∂a/∂z = [0 < z < λ],  ∂a/∂λ = [z ≥ λ]

An L2 penalty on λ pulls it down: a smaller range is said in fewer steps, what lies above it is clipped, and
the loss weighs the two (Ho & Chang, DAC 2021). The threshold of the spiking neuron is λ. With `steps` the
network learns at last with the spikes of a stream of so many.
"""

from __future__ import annotations

from dataclasses import dataclass

from calibrators.training import Phase, clipped, recipes
from calibrators.training._through_time import InTime
from converter.errors import UsageError


@recipes.register
@dataclass(frozen=True)
class Tcl(InTime):
    """`decay`: the L2 penalty on each layer's λ, in shares of where λ began."""

    decay: float = 1e-3

    def __post_init__(self) -> None:
        """Raise `UsageError` for a penalty that rewards, and as `InTime`."""
        super().__post_init__()
        if not self.decay >= 0:
            raise UsageError(f"the decay of λ is {self.decay:g}; it is at least 0")

    def phase(self, progress: float) -> Phase:
        """Clipped, then in time."""
        return self.in_time(Phase("clip", clipped), progress)
