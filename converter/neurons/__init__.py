"""Spiking neurons: what replaces an activation.

A neuron is an `Op`: called, it is the activation it stands for; stepped, it integrates a current and
emits spikes. Spikes carry their amplitude in activation units (a neuron emits `threshold` or 0), so
weights stay the network's own and Add, Concat, pooling and read-out need no bookkeeping. State is
explicit: there is nothing to reset and nothing to forget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.errors import Refusal
from converter.graph import Op
from converter.registry import Registry

State = tuple[Tensor, ...]
Kernel = Callable[..., tuple[State, Tensor]]


@dataclass(frozen=True, eq=False)
class Neuron(Op):
    """Base of all neurons.

    `threshold`  amplitude of a spike in activation units, a scalar or one value a channel ([C], [C, 1, 1]);
                 None until a calibrator has set it
    `initial`    membrane at the start, as a fraction of the threshold; ½ makes the spike count after T steps
                 of a constant current round instead of floor (Bu et al., ICLR 2022)
    `ceiling`    where the activation itself saturates (6 for ReLU6), or None
    """

    threshold: Tensor | None = None
    initial: float = 0.5
    ceiling: float | None = None

    arguments: ClassVar[tuple[str, ...]] = ("threshold",)
    """The fields `kernel` takes after state and current."""
    choosable: ClassVar[bool] = True
    """Whether it may stand for a ReLU, so a user may choose it; others have an activation of their own."""
    alphabet: ClassVar[str] = "binary"
    """What a spike may be: `binary` {0, θ}, `signed` also negative, `levels` several thresholds at once."""
    remembers: ClassVar[bool] = False
    """Whether the state holds, beside the membrane, the net count of thresholds emitted so far."""

    @property
    def kernel(self) -> Kernel:
        """The pure function (state, current, *arguments) -> (state, spikes): the neuron's equation.

        Its source goes into emitted models as it stands, so it uses nothing but torch.
        """
        raise NotImplementedError

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0].clamp(0, self.ceiling)

    def magnitude(self, x: Tensor) -> Tensor:
        """How large a threshold the activation input `x` asks for; same shape as `x`."""
        return self(x)

    def rate(self, x: Tensor) -> Tensor:
        """The mean output over many steps of a constant current `x`; same shape as `x`."""
        return torch.minimum(self(x), self.parts * self.calibrated())

    def calibrated(self) -> Tensor:
        """The threshold. Raises `Refusal` while there is none."""
        if self.threshold is None:
            raise Refusal("has no threshold yet", "run a calibrator, for example percentile")
        return self.threshold

    @property
    def parts(self) -> int:
        """How many thresholds a step can say: what a calibrator divides a layer's range by."""
        return 1

    @property
    def spikes(self) -> str:
        """What a spike of this neuron may be, as reports say it: `binary`, `signed`, `levels:4`."""
        return f"{self.alphabet}:{self.parts}" if self.parts > 1 else self.alphabet

    def init(self) -> State:
        """The state before the first step; it broadcasts to the current's shape."""
        threshold = self.calibrated()
        start = self.initial * threshold
        return (start, torch.zeros_like(threshold)) if self.remembers else (start,)

    def step(self, state: State, current: Tensor) -> tuple[State, Tensor]:
        """One time step: (state, current [batch, …]) -> (state, spikes [batch, …])."""
        return self.kernel(state, current, *(getattr(self, name) for name in self.arguments))

    def scan(self, state: State, currents: Tensor) -> tuple[State, Tensor]:
        """Several steps at once: currents [steps, batch, …] -> (state, spikes [steps, batch, …])."""
        spikes = []
        for current in currents:
            state, fired = self.step(state, current)
            spikes.append(fired)
        return state, torch.stack(spikes)

    def code(self, name: str, *inputs: str) -> str:
        """`inputs` are the state and the current."""
        fields = ((f, getattr(self, f)) for f in self.arguments)
        given = [f"{name}.{f}" if isinstance(value, Tensor) else repr(value) for f, value in fields]
        return f"{self.kernel.__name__}({', '.join((*inputs, *given))})"

    def code_init(self, name: str) -> str:
        """The Python expression for `init()`."""
        net = f" torch.zeros_like({name}.threshold)" if self.remembers else ""
        return f"({self.initial!r} * {name}.threshold,{net})"


neurons: Registry[type[Neuron]] = Registry("neuron", "converter.neurons")
