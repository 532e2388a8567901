"""A bias of its own for every time step of a run, before a neuron.

    z_t ← z_t + b_t  for t = 1 … T;  after step T nothing is added

A layer's answer is late: its first spikes come from inputs that have only begun to arrive. A constant bias
mends the mean over a run, one for each step mends each step (FTBC: Wu et al., ECCV 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.stateful import Kernel, State, Stateful


def add_in_time(state: State, current: Tensor, bias: Tensor) -> tuple[State, Tensor]:
    """Add the bias of this step; the state counts the steps."""
    (time,) = state
    now = bias.index_select(0, time.clamp(max=len(bias) - 1).reshape(1))[0]
    return (time + 1,), current + torch.where(time < len(bias), now, 0.0)


@dataclass(frozen=True, eq=False)
class TemporalBias(Stateful):
    """`bias` [steps, channels, 1, …] in activation units. In the ANN it means nothing."""

    bias: Tensor
    arguments: ClassVar[tuple[str, ...]] = ("bias",)

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    @property
    def kernel(self) -> Kernel:
        return add_in_time

    def init(self) -> State:
        return (torch.zeros((), dtype=torch.long, device=self.bias.device),)

    def code_init(self, name: str) -> str:
        return f"(torch.zeros((), dtype=torch.long, device={name}.bias.device),)"
