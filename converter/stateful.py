"""An op that remembers: called, it is its meaning in the ANN; stepped, it takes its state along.

State is explicit: there is nothing to reset and nothing to forget. Neurons are such ops, and so is whatever
mends spikes or currents over time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from converter.graph import Op

State = tuple[Tensor, ...]
Kernel = Callable[..., tuple[State, Tensor]]
Steps = Sequence[Tensor]
"""A tensor for each of some steps."""
InPlace = Callable[..., None]
"""(state, inputs, outputs, *arguments): a kernel over steps that writes each new state over the old one.

`outputs` may be the very memory of `inputs`: a step's input is read before its output is written.
"""
IN_PLACE: dict[Kernel, InPlace] = {}
"""The in-place form of a kernel: the same bits without new memory."""


def in_place_of(kernel: Kernel) -> Callable[[InPlace], InPlace]:
    """Register the decorated function as the in-place form of `kernel`."""

    def register(function: InPlace) -> InPlace:
        IN_PLACE[kernel] = function
        return function

    return register


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

    def begin(self, like: Tensor) -> State:
        """The state before the first step of a run whose input looks `like` this, owned by the run."""
        state = self.init()
        return tuple(torch.empty_like(like).copy_(s) for s in state) if self.kernel in IN_PLACE else state

    def fire(self, state: State, values: Steps, out: Steps) -> State:
        """Some steps at once: inputs and room for the outputs, a tensor each step, and `state` is used up.

        The room may be the inputs' own memory.
        """
        if (write := IN_PLACE.get(self.kernel)) is not None:
            write(state, values, out, *(getattr(self, name) for name in self.arguments))
            return state
        for value, place in zip(values, out, strict=True):
            state, emitted = self.step(state, value)
            place.copy_(emitted)
        return state

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
