"""Poisson input: each value spikes at random, with a probability in proportion to its size.

    x_t = [U < |x| / peak] · peak · sign x,   U uniform in [0, 1), fresh at every step

A normalised image has negative values, so its spikes are signed. The error falls with 1/√T: use it for
studies of robustness, not for accuracy at few steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from converter.encodings import Encoding, encodings


def poisson(x: Tensor, generator: Generator, peak: float) -> Tensor:
    """One step of Poisson spikes of amplitude `peak`, signed as `x` is."""
    chance = torch.rand(x.shape, generator=generator, device=x.device)
    return torch.where(chance < x.abs() / peak, peak * x.sign(), 0.0)


@encodings.register
@dataclass(frozen=True)
class Poisson(Encoding):
    """`peak` is the largest absolute input of the calibration data; what exceeds it fires at every step."""

    peak: float = 1.0
    constant: ClassVar[bool] = False

    def encode(self, x: Tensor, generator: Generator) -> Tensor:
        return poisson(x, generator, self.peak)

    @property
    def kernel(self) -> Callable[..., Tensor]:
        return poisson
