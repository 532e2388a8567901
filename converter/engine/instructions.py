"""What the nodes of a step do to the memory of a run: one small instruction for each part a node can play."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from converter.engine import native
from converter.engine.frame import Frame, channels_last
from converter.engine.functions import Function, version_of
from converter.engine.fused import Fused
from converter.engine.pools import plain, pool_of
from converter.graph import BATCH, Node
from converter.neurons import Neuron
from converter.neurons.integrate_fire import integrate_fire
from converter.ops import Grid
from converter.stateful import State, Stateful


@dataclass(frozen=True)
class Apply:
    """An op without a state, all steps of a chunk at once."""

    node: Node
    function: Function

    def __call__(self, frame: Frame) -> None:
        frame.values[self.node] = self.function(*(frame.read(i) for i in self.node.inputs))


@dataclass(frozen=True)
class AddTo:
    """A sum written over one of its two terms, which nothing else reads."""

    node: Node
    total: Node
    other: Node

    def __call__(self, frame: Frame) -> None:
        frame.values[self.node] = frame.values[self.total].add_(frame.read(self.other))


@dataclass(frozen=True)
class Round:
    """Rounding to a grid, in one pass; over its input where nothing else reads that."""

    node: Node
    op: Grid
    reuse: bool

    def __call__(self, frame: Frame) -> None:
        x = frame.read(self.node.inputs[0])
        out = x if self.reuse else torch.empty_like(x)
        scale = 2.0**-self.op.exponent
        if dense(x) is None or dense(x) != dense(out) or not native.round_floats(scale, x, out):
            torch.mul(x, scale, out=out).add_(0.5).floor_().mul_(1 / scale)
        frame.values[self.node] = out


@dataclass
class Thresholds:
    """A layer's thresholds as machine code takes them: the channels, innermost in memory, over and over."""

    laid: Tensor | None = None
    version: int = -1

    def of(self, threshold: Tensor | None, like: Tensor) -> Tensor | None:
        """For values that lie like these; None where their thresholds are not one a channel."""
        if threshold is None or (layout := dense(like)) is None or threshold.dtype != torch.float32:
            return None
        channels = like.shape[1] if layout == "channels last" or like.dim() == 2 else 1
        if threshold.numel() not in (1, channels):
            return None
        if self.laid is None or self.version != version_of(threshold):
            self.version = version_of(threshold)
            times = max(1, round(native.NEAR / channels))
            self.laid = threshold.reshape(-1).expand(channels).repeat(times)
        return self.laid


def dense(x: Tensor) -> str | None:
    """How float32 on a CPU lies in memory without gaps; None where it does not."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return None
    if channels_last(x):
        return "channels last"
    return "in order" if x.is_contiguous() else None


@dataclass(frozen=True)
class Fire:
    """A node with a state, step by step; over its input where nothing else reads that."""

    node: Node
    op: Stateful
    reuse: bool
    thresholds: Thresholds = field(default_factory=lambda: Thresholds())
    fused: Fused = field(default_factory=lambda: Fused())

    def __call__(self, frame: Frame) -> None:
        source = self.node.inputs[0]
        value = frame.values.get(source)
        inputs = (frame.static[source],) * frame.steps if value is None else frame.each(value)
        state = frame.states.get(self.node)
        shapes = (s.shape for s in (self.op.init() if state is None else state))
        if torch.broadcast_shapes(inputs[0].shape, *shapes) != inputs[0].shape:
            self._grow(frame, inputs)
            return
        out = value if self.reuse and value is not None else frame.out(self.node, inputs[0])
        state = state or self.op.begin(inputs[0])
        frame.values[self.node] = out
        given = inputs[0] if value is None else value
        if not self._natively(state, given, out, frame.steps):
            in_one = self.fused.fire(self.op, state, given, out, frame.steps)
            state = in_one or self.op.fire(state, inputs, frame.each(out))
        frame.states[self.node] = state

    def _natively(self, state: State, value: Tensor, out: Tensor, steps: int) -> bool:
        """Do it in one pass over memory; False where that cannot be."""
        if self.op.kernel is not integrate_fire or not all(dense(t) == dense(value) for t in (out, *state)):
            return False
        threshold = self.thresholds.of(self.op.threshold, value) if isinstance(self.op, Neuron) else None
        return threshold is not None and native.fire_floats(threshold, state[0], value, out, steps)

    def _grow(self, frame: Frame, inputs: Sequence[Tensor]) -> None:
        """A state with more dimensions than its input: so has what is emitted, in memory of its own."""
        state, emitted = frame.states.get(self.node) or self.op.init(), []
        for value in inputs:
            state, now = self.op.step(state, value)
            emitted.append(now)
        frame.states[self.node] = state
        frame.values[self.node] = torch.cat(emitted)


@dataclass(frozen=True)
class Telescope:
    """A homogeneous op through time: what it makes of the sums so far, less what it made of them before."""

    node: Node
    function: Function
    """Gives memory of its own."""
    inputs: tuple[bool, ...]
    """For each input, whether its memory may be written over."""

    def __call__(self, frame: Frame) -> None:
        given = [frame.read(i) for i in self.node.inputs]
        state = frame.states.get(self.node)
        if state is None:
            state = tuple(torch.zeros_like(frame.at(x, 0)) for x in given)
        if self._natively(frame, given[0], state):
            return
        result = self.function(*map(partial(self._summed, frame), given, state, self.inputs))
        if len(state) == len(given):
            state = (*state, torch.zeros_like(frame.at(result, 0)))
        frame.values[self.node] = self._changes(frame, result, state[-1])
        last = frame.at(result, frame.steps - 1)
        frame.states[self.node] = (*state[:-1], last if frame.steps == 1 else last.clone())

    def _natively(self, frame: Frame, x: Tensor, state: State) -> bool:
        """Do it in one pass over memory, with the same bits; False where that cannot be."""
        if not (plain(self.node) and len(x) == frame.steps * frame.samples and dense(x) == "channels last"):
            return False
        if len(state) == 1:
            largest = x.new_zeros((frame.samples, *self.node.shape[1:]))
            state = (*state, largest.contiguous(memory_format=torch.channels_last))
        if not all(dense(t) == "channels last" for t in state):
            return False
        (sums, largest), out = state, frame.out(self.node, state[1])
        if not native.pool_floats(pool_of(self.node), sums, largest, x, out, frame.steps):
            return False
        frame.values[self.node], frame.states[self.node] = out, state
        return True

    @staticmethod
    def _summed(frame: Frame, x: Tensor, total: Tensor, reuse: bool) -> Tensor:
        """The sums of x so far after each step of the chunk; `total` goes on with it."""
        if frame.steps == 1:
            return total.add_(x)
        sums = x if reuse else torch.empty_like(x)
        for now, room in zip(frame.each(x), frame.each(sums), strict=True):
            room.copy_(total.add_(now))
        return sums

    @staticmethod
    def _changes(frame: Frame, result: Tensor, before: Tensor) -> Tensor:
        if frame.steps == 1:
            return torch.sub(result, before, out=before)
        changes, n = torch.empty_like(result), frame.samples
        torch.sub(result[:n], before, out=changes[:n])
        torch.sub(result[n:], result[:-n], out=changes[n:])
        return changes


@dataclass(frozen=True)
class TelescopeMean:
    """Any other op through time: the change of t times what it makes of the mean so far."""

    node: Node
    function: Function

    def __call__(self, frame: Frame) -> None:
        given = [frame.read(i) for i in self.node.inputs]
        state = frame.states.get(self.node) or (given[0].new_zeros(()),) * (len(given) + 1)
        emitted = []
        for step in range(frame.steps):
            time = frame.time + step + 1
            now = (
                frame.at(x, step) if BATCH in i.shape else x
                for x, i in zip(given, self.node.inputs, strict=True)
            )
            sums = tuple(total + x for total, x in zip(state, now, strict=False))
            result = time * self.function(*(total / time for total in sums))
            emitted.append(result - state[-1])
            state = (*sums, result)
        frame.states[self.node] = state
        frame.values[self.node] = emitted[0] if len(emitted) == 1 else torch.cat(emitted)
