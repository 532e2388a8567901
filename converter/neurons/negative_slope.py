"""The neuron of LeakyReLU and PReLU: positive spikes of θ, negative ones scaled by the slope.

It counts N, the net number of thresholds its input has been worth, one up or down a step, and emits the
change of the activation over that count:

    v ← v + z_t ;  k = [v ≥ θ] − [v < 0] ;  v ← v − k·θ ;  o = θ·(φ(N + k) − φ(N)) ;  N ← N + k
    φ(n) = n for n ≥ 0, slope·n for n < 0

So after any inputs that sum to X the emitted sum is θ·φ(N), N on its way to round(X / θ): a current that
changes its sign leaves no error behind, unlike a neuron that adds slope·θ for every negative crossing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.neurons import Kernel, Neuron, State, neurons


def negative_slope(state: State, current: Tensor, threshold: Tensor, slope: Tensor) -> tuple[State, Tensor]:
    """Charge; count one threshold up or down; emit what that changes in the sloped count."""
    membrane, net = state[0] + current, state[1]
    change = (membrane >= threshold).to(current.dtype) - (membrane < 0).to(current.dtype)
    counted = net + change
    before = torch.where(net < 0, slope * net, net)
    after = torch.where(counted < 0, slope * counted, counted)
    return (membrane - change * threshold, counted), threshold * (after - before)


@neurons.register
@dataclass(frozen=True, eq=False)
class NegativeSlope(Neuron):
    """Spikes {0, ±θ, ±slope·θ}. `slope` is a scalar or one value a channel."""

    slope: Tensor | None = None
    arguments: ClassVar[tuple[str, ...]] = ("threshold", "slope")
    remembers: ClassVar[bool] = True
    choosable: ClassVar[bool] = False
    alphabet: ClassVar[str] = "signed"

    @property
    def kernel(self) -> Kernel:
        return negative_slope

    def __call__(self, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        return torch.where(x < 0, self._slope() * x, x)

    def magnitude(self, x: Tensor) -> Tensor:
        return x.abs()

    def rate(self, x: Tensor) -> Tensor:
        threshold = self.calibrated()
        return self(torch.minimum(torch.maximum(x, -threshold), threshold))

    def _slope(self) -> Tensor:
        assert self.slope is not None
        return self.slope
