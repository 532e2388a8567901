"""An op that remembers: called, it is its meaning in the ANN; stepped, it takes its state along.

State is explicit: there is nothing to reset and nothing to forget. Neurons are such ops, and so is whatever
mends spikes or currents over time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from converter.graph import Op

State = tuple[Tensor, ...]
Kernel = Callable[..., tuple[State, Tensor]]


@dataclass(frozen=True, eq=False)
class Stateful(Op):
    """Base of all ops with a state; they have one input, and what they emit has its shape."""

    arguments: ClassVar[tuple[str, ...]] = ()
    """The fields `kernel` takes after state and input."""
    mends_spikes: ClassVar[bool] = False
    """Whether what it emits stands for the spikes of the neuron before it."""

    @property
    def kernel(self) -> Kernel:
        """The pure function (state, input, *arguments) -> (state, output): the op's equation.

        Its source goes into emitted models as it stands, so it uses nothing but torch.
        """
        raise NotImplementedError

    def init(self) -> State:
        """The state before the first step; it broadcasts to the input's shape."""
        raise NotImplementedError

    def step(self, state: State, value: Tensor) -> tuple[State, Tensor]:
        """One time step: (state, input [batch, …]) -> (state, output [batch, …])."""
        return self.kernel(state, value, *(getattr(self, name) for name in self.arguments))

    def scan(self, state: State, values: Tensor) -> tuple[State, Tensor]:
        """Several steps at once: inputs [steps, batch, …] -> (state, outputs [steps, batch, …])."""
        state, output = self.step(state, values[0])
        outputs = output.new_empty((len(values), *output.shape))
        outputs[0] = output
        for time, value in enumerate(values[1:], 1):
            state, outputs[time] = self.step(state, value)
        return state, outputs

    def code(self, name: str, *inputs: str) -> str:
        """`inputs` are the state and the input of the step."""
        return f"{self.kernel.__name__}({', '.join((*inputs, *self.code_arguments(name)))})"

    def code_arguments(self, name: str) -> list[str]:
        """The Python expressions of what `kernel` takes after state and input."""
        fields = ((f, getattr(self, f)) for f in self.arguments)
        return [f"{name}.{f}" if isinstance(value, Tensor) else repr(value) for f, value in fields]

    def code_init(self, name: str) -> str:
        """The Python expression for `init()`."""
        raise NotImplementedError
