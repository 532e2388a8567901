"""Instructions of layers in whole numbers: sums of codes in oneDNN; charge, fire and reset in one pass.

Membranes lie as [batch, height, width, channels] whatever the layout of values, codes in channels_last.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.engine import native, onednn
from converter.engine.bytes import Within, fits
from converter.engine.codes import NARROW, PLANE, WIDE, Charge, Code, Given, Spikes, Term, Weighed
from converter.engine.frame import Frame
from converter.engine.functions import Function
from converter.engine.ready import REMEMBERS, Ready
from converter.errors import ModelError
from converter.graph import Node
from converter.ops import Conv, Pad


@dataclass
class Sum:
    """A synapse's sum of codes; its weights are laid out once for each size of input."""

    term: Weighed
    laid: dict[tuple[int, ...], Function] = field(default_factory=dict)

    def __call__(self, x: Tensor) -> Tensor:
        shape = tuple(x.shape)
        if (add := self.laid.get(shape)) is None:
            self.laid[shape] = add = self._laid(shape)
        return innermost(add(x))

    def _laid(self, shape: tuple[int, ...]) -> Function:
        """Planes of codes are as many outputs more; but those of a group must stay beside each other."""
        op, planes, zero = self.term.op, self.term.planes, self.term.zero
        if len(planes) == 1 or not (isinstance(op, Conv) and op.groups > 1):
            return onednn.weigher(op, torch.cat(planes), zero, shape)
        each = [onednn.weigher(op, plane, zero, shape) for plane in planes]
        return lambda x: torch.cat([add(x) for add in each], 1)

    def __deepcopy__(self, memo: object) -> Sum:
        return type(self)(self.term)


@dataclass
class Fire:
    """A layer of neurons: its current, and its neurons through all steps of a chunk."""

    charge: Charge
    sums: dict[Weighed, Sum] = field(init=False)
    lines: list[tuple[int, int, Tensor]] = field(init=False)
    """Of each number that is added: which term it is of, the plane of it, and its factor."""
    within: dict[Term, Within] = field(init=False)
    """Synapses whose sums are taken in the pass over the neurons."""
    ready: dict[torch.dtype, Ready] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Lay out what does not change."""
        c, one = self.charge, torch.ones_like(self.charge.worth)
        weighed = [t for t in c.terms if isinstance(t, Weighed)]
        self.within = {t: Within(t) for t in weighed if fits(t)}
        self.sums, self.lines = {t: Sum(t) for t in weighed if t not in self.within}, []
        for i, term in enumerate(c.terms):
            if isinstance(term, Weighed):
                count = 1 if term in self.within else len(term.planes)
                self.lines += [(i, p, term.factor * PLANE ** (count - 1 - p)) for p in range(count)]
            else:
                self.lines.append((i, 0, one * term.factor if isinstance(term, Spikes) else one))

    def __deepcopy__(self, memo: object) -> Fire:
        return type(self)(self.charge)

    def __call__(self, frame: Frame) -> None:
        terms = [self._data(term, frame) for term in self.charge.terms]
        if (state := frame.states.get(self.charge.node)) is None:
            frame.states[self.charge.node] = state = self._begin(frame, terms)
        run = self._eager if native.library() is None else self._native
        run(frame.steps, terms, state, frame.code(self.charge.node))

    def _data(self, term: Term, frame: Frame) -> Tensor:
        """What a term says in this chunk, the channels innermost; of one within, the spikes it weighs."""
        c = self.charge
        match term:
            case Weighed() if term in self.within:
                return self.within[term](frame.codes[term.source], frame.steps, c.comes.shape)
            case Weighed():
                return self.sums[term](frame.codes[term.source])
            case Spikes():
                return innermost(frame.codes[term.source])
            case Given():
                return frame.whole(term.source, c.exponent)
        return innermost(frame.read(term.source) * 2.0**-c.exponent)

    def _begin(self, frame: Frame, terms: list[Tensor]) -> tuple[Tensor, ...]:
        """Membranes before the first step, as wide as a run may need them; the net count beside."""
        c = self.charge
        size = (frame.samples, *c.node.shape[2:], c.node.shape[1])
        given = sum(float(x.abs().max()) for x, t in zip(terms, c.terms, strict=True) if isinstance(t, Given))
        most = c.most + given
        farthest = max(float(c.threshold.max()), float(c.initial.abs().max())) + frame.last * most
        if farthest >= WIDE:
            raise ModelError(
                f"the membranes of {c.node.where} do not fit into 53 bits",
                hint="fewer bits (--weights int8), or fewer steps",
            )
        number = torch.float64 if farthest >= NARROW else torch.int32
        membrane = c.initial.to(number).expand(size).contiguous()
        state = [membrane]
        if c.kind in REMEMBERS:
            state.append(torch.zeros(size, dtype=torch.int32))
        if c.pool is not None:
            shape = c.comes.shape
            state.append(torch.zeros((frame.samples, *shape[2:], shape[1]), dtype=number))
            state.append(torch.zeros(size, dtype=number))
        return tuple(state)

    def _native(self, steps: int, terms: list[Tensor], state: tuple[Tensor, ...], out: Tensor) -> None:
        number = state[0].dtype
        if (ready := self.ready.get(number)) is None:
            self.ready[number] = ready = Ready(self.charge, self.lines, self.within, number)
        ready(steps, terms, state, out)

    def _eager(self, steps: int, terms: list[Tensor], state: tuple[Tensor, ...], out: Tensor) -> None:
        """The same where there is no compiler."""
        c, membrane = self.charge, state[0]
        threshold, worth = c.threshold.to(membrane), c.worth.to(membrane)
        for step, place in enumerate(innermost(out).chunk(steps)):
            current = c.bias
            for i, plane, factor in self.lines:
                term = c.terms[i]
                now = terms[i] if isinstance(term, Given) else terms[i].chunk(steps)[step]
                now = now[..., plane * len(c.worth) : (plane + 1) * len(c.worth)]
                zero = term.zero if isinstance(term, Spikes) else 0
                current = current + (now.long() - zero) * factor
            if c.pool is not None:
                sums, before = state[-2:]
                largest = self._pooled(sums.add_(current))
                current = largest - before
                before.copy_(largest)
            membrane.add_(current)
            above = membrane >= threshold
            count = above.to(torch.int32)
            if c.kind == native.SIGNED:
                count -= ((membrane < 0) & (state[1] > 0)).to(torch.int32)
            elif c.kind in (native.LEVELS, native.BURST):
                count = membrane.div(threshold, rounding_mode="floor").clamp_(max=c.levels).to(torch.int32)
                least = -state[1].clamp(max=c.levels) if c.kind == native.LEVELS else 0
                count = count.clamp(min=least)
            if c.kind in REMEMBERS:
                state[1].add_(count)
            if c.kind == native.HARD:
                membrane.masked_fill_(above, 0)
            else:
                membrane.sub_(count * threshold)
            place.copy_(count * worth + c.zero)

    def _pooled(self, sums: Tensor) -> Tensor:
        """The largest sums of each window, in a type that holds them exactly."""
        assert self.charge.pool is not None
        return self.charge.pool.op(sums.permute(0, 3, 1, 2).double()).permute(0, 2, 3, 1).to(sums.dtype)


@dataclass(frozen=True)
class Move:
    """Codes that only move."""

    node: Node
    zero: int

    def __call__(self, frame: Frame) -> None:
        given, op = [frame.codes[i] for i in self.node.inputs], self.node.op
        if isinstance(op, Pad) and op.mode == "constant":
            moved = F.pad(given[0], op.amounts, value=self.zero)
        else:
            moved = op(*given)
        layout = torch.channels_last if moved.dim() == 4 else torch.contiguous_format
        frame.codes[self.node] = moved.contiguous(memory_format=layout)


@dataclass(frozen=True)
class Decode:
    """What codes stand for, for those who know none."""

    node: Node
    code: Code

    def __call__(self, frame: Frame) -> None:
        said = frame.codes[self.node].to(torch.float32)
        said = said.sub_(self.code.zero) if self.code.zero else said
        frame.values[self.node] = said.mul_(self.code.gain * 2.0**self.code.exponent)


def innermost(x: Tensor) -> Tensor:
    """Values with their channels innermost: [batch, height, width, channels], or [batch, channels]."""
    return (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).contiguous()
