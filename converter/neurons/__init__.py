"""Spiking neurons: what replaces an activation.

A neuron is a stateful op: called, it is the activation it stands for; stepped, it integrates a current and
emits spikes. Spikes carry their amplitude in activation units (a neuron emits `threshold` or 0), so
weights stay the network's own and Add, Concat, pooling and read-out need no bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from converter.errors import Refusal
from converter.registry import Registry
from converter.stateful import Kernel, State, Stateful


@dataclass(frozen=True, eq=False)
class Neuron(Stateful):
    """Base of all neurons.

    `threshold`  amplitude of a spike in activation units, a scalar or one value a channel ([C], [C, 1, 1]);
                 None until a calibrator has set it
    `initial`    membrane at the start, as a fraction of the threshold, a number or one a channel; ½ makes the
                 spike count after T steps of a constant current round instead of floor (Bu et al., ICLR 2022)
    `ceiling`    where the activation itself saturates (6 for ReLU6), or None
    """

    threshold: Tensor | None = None
    initial: float | Tensor = 0.5
    ceiling: float | None = None

    arguments: ClassVar[tuple[str, ...]] = ("threshold",)
    choosable: ClassVar[bool] = True
    """Whether it may stand for a ReLU, so a user may choose it; others have an activation of their own."""
    alphabet: ClassVar[str] = "binary"
    """What a spike may be: `binary` {0, θ}, `signed` also negative, `levels` several thresholds at once,
    `burst` several spikes at once, `powers` one of several signed powers of two."""
    pools_spikes: ClassVar[bool] = False
    """Whether the spikes of a window of neurons pool without loss, so that no max-pool need move up."""
    one_sided: ClassVar[bool] = False
    """Whether a negative slope has no counterpart in its code either."""
    remembers: ClassVar[bool] = False
    """Whether the state holds, beside the membrane, the net count of thresholds emitted so far."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0].clamp(0, self.ceiling)

    def magnitude(self, x: Tensor) -> Tensor:
        """How large a threshold the activation input `x` asks for; same shape as `x`."""
        return self(x)

    def rate(self, x: Tensor) -> Tensor:
        """The mean output over many steps of a constant current `x`; same shape as `x`."""
        return torch.minimum(self(x), self.limit())

    def limit(self) -> Tensor:
        """The largest mean output there is."""
        return self.most * self.calibrated()

    def window(self, current: Tensor, timesteps: int) -> Tensor:
        """The mean of its spikes over a window of steps, after one with this mean current."""
        return fire_window(self.step, self.init(), current, timesteps)

    @property
    def window_functions(self) -> tuple[Callable[..., Any], ...]:
        """The functions of ours behind `window`, for emitted models."""
        return (self.kernel, fire_window)

    def code_window(self, name: str, current: str) -> str:
        """The Python expression for `window`, of the current in the variable `current`."""
        given = [self.kernel.__name__, self.code_init(name), current, "timesteps", *self.code_arguments(name)]
        return f"fire_window({', '.join(given)})"

    def views(self, timesteps: int) -> int:
        """How often within a window of so many steps others look at what it has said: once, at the end."""
        return 1

    def quantised(self, x: Tensor, ranges: Tensor, timesteps: int) -> Tensor:
        """What a window says of currents `x` [channels, …], were these the ranges [channels, 1]: as `x`."""
        levels = self.parts * timesteps
        step = (ranges / levels).clamp_min(torch.finfo(ranges.dtype).tiny)
        phase = self.initial.reshape(-1, 1) if isinstance(self.initial, Tensor) else self.initial
        return step * (x / step + phase).floor().clamp(0, levels)

    def calibrated(self) -> Tensor:
        """The threshold. Raises `Refusal` while there is none."""
        if self.threshold is None:
            raise Refusal("has no threshold yet", "run a calibrator, for example percentile")
        return self.threshold

    @property
    def parts(self) -> int:
        """How many thresholds a layer's range is divided into by a calibrator."""
        return 1

    @property
    def most(self) -> int:
        """How many thresholds a step can say: the whole range, or more where a neuron may exceed it."""
        return self.parts

    @property
    def bits(self) -> int:
        """How many bits a spike carries; each costs an accumulate at every weight it reaches."""
        return 1

    def count(self, spikes: Tensor) -> Tensor:
        """How many spikes each of these values of a step is; same shape."""
        return (spikes != 0).to(spikes.dtype)

    @property
    def spikes(self) -> str:
        """What a spike of this neuron may be, as reports say it: `binary`, `signed`, `levels:4`."""
        return f"{self.alphabet}:{self.most}" if self.most > 1 else self.alphabet

    def init(self) -> State:
        """The state before the first step; it broadcasts to the current's shape."""
        threshold = self.calibrated()
        start = self.initial * threshold
        return (start, torch.zeros_like(threshold)) if self.remembers else (start,)

    def code_init(self, name: str) -> str:
        net = f" torch.zeros_like({name}.threshold)" if self.remembers else ""
        initial = f"{name}.initial" if isinstance(self.initial, Tensor) else repr(self.initial)
        return f"({initial} * {name}.threshold,{net})"


def fire_window(
    kernel: Callable[..., tuple[State, Tensor]],
    state: State,
    current: Tensor,
    timesteps: int,
    *arguments: Any,
) -> Tensor:
    """The mean of a neuron's spikes over a window, after one in which its mean current was `current`."""
    charge, total = timesteps * current, torch.zeros_like(current)
    for _ in range(timesteps):
        state, spikes = kernel(state, charge, *arguments)
        charge, total = torch.zeros_like(charge), total + spikes
    return total / timesteps


neurons: Registry[type[Neuron]] = Registry("neuron", "converter.neurons")

__all__ = ["Kernel", "Neuron", "State", "neurons"]
