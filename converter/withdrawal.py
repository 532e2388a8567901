"""Spike calibration: a neuron that has been silent for too long takes its spikes back, one a step.

A current that was above zero for a while and is not in the mean leaves spikes behind that an unsigned neuron
cannot withdraw, though its activation is zero. Of each neuron the intervals between spikes are watched; once
it has been silent for longer than its own mean interval and an allowance p, it is taken for inactive:

    spike of x > 0 at time t   n ← n + 1 ;  d ← d + (t − last − d) / n ;  last ← t
    else, if t − last > d + p and S > 0    x ← −θ
    S ← S + x / θ ;  t ← t + 1

(SpiCalib: Li et al., 2022, arXiv 2207.02702; corrected, in that no more is taken back than was emitted, and a
neuron that never fired owes nothing.) It is a heuristic: p in steps is how much longer than usual a slow but
active neuron may pause. The charge behind withdrawn spikes is given up, which is right only where the
activation is zero. A signed neuron does the same by its membrane, at once, and needs no allowance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.stateful import Kernel, State, Stateful


def withdraw(state: State, spikes: Tensor, threshold: Tensor, allowance: float) -> tuple[State, Tensor]:
    """Pass spikes on; where a neuron has paused for too long, take back one of those it emitted."""
    fired, interval, last, net, time = state
    fires = spikes > 0
    fired = fired + fires.to(spikes.dtype)
    interval = torch.where(fires, interval + (time - last - interval) / fired.clamp(min=1), interval)
    last = torch.where(fires, time, last)
    back = ~fires & (time - last > interval + allowance) & (net > 0)
    given = torch.where(back, -threshold, spikes)
    return (fired, interval, last, net + (given / threshold).round(), time + 1), given


@dataclass(frozen=True, eq=False)
class Withdrawal(Stateful):
    """Of spikes k·θ, k ≥ 0: the same and −θ. `threshold` is the neuron's, `allowance` p in steps.

    Its state is the number of spikes, their mean interval, the time of the last, the net sum, the time.
    """

    threshold: Tensor
    allowance: float
    arguments: ClassVar[tuple[str, ...]] = ("threshold", "allowance")
    mends_spikes: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    @property
    def kernel(self) -> Kernel:
        return withdraw

    def init(self) -> State:
        return (torch.zeros_like(self.threshold),) * 5

    def code_init(self, name: str) -> str:
        return f"(torch.zeros_like({name}.threshold),) * 5"
