"""Quantise, clip, floor, shift: the network learns with what a neuron says in L steps.

    a = λ · ⌊ L · clip(z/λ, 0, 1) + ½ ⌋ / L        ∂a/∂z = [0 < z < λ],  ∂a/∂λ = [z ≥ λ] or (a − z)/λ inside

The floor passes gradients straight through. An integrate-and-fire neuron of threshold λ that starts half full
says exactly this after L steps of its mean current, and errs by nothing on average after any number of steps
(Bu et al., ICLR 2022). Run window by window (`--schedule pipelined`) for T = L the spiking network *is* the
trained one. In a stream a current also arrives unevenly: with `steps` it learns with that too, last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from calibrators.training import Phase, recipes, straight_through
from calibrators.training._through_time import InTime
from converter.errors import UsageError


@recipes.register
@dataclass(frozen=True)
class Qcfs(InTime):
    """`levels`: L, the steps that the network is meant to run."""

    levels: int = 4
    decay: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        """Raise `UsageError` for a quantiser without levels, and as `InTime`."""
        super().__post_init__()
        if self.levels < 1:
            raise UsageError(f"levels is {self.levels}; a quantiser has at least 1")

    def phase(self, progress: float) -> Phase:
        """Quantised, then in time."""
        return self.in_time(Phase(f"quantised, L = {self.levels}", self.quantised), progress)

    def quantised(self, z: Tensor, threshold: Tensor) -> Tensor:
        """The equation above; `threshold` is λ."""
        share = (z / threshold).clamp(0, 1)
        return threshold * straight_through(share, torch.floor(share * self.levels + 0.5) / self.levels)
