"""Instructions of layers in whole numbers: sums of codes through oneDNN, then charge, fire and reset in one pass.

Membranes lie as [batch, height, width, channels] whatever the layout of values, codes in channels_last.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.engine import native, onednn
from converter.engine.codes import EXACT, FITS, Charge, Code, Given, Spikes, Term, Value, Weighed
from converter.engine.frame import Frame
from converter.engine.functions import Function, function_of
from converter.errors import ModelError
from converter.graph import Node, Op
from converter.ops import Conv, Linear, Pad


@dataclass
class Sum:
    """A synapse's sum of codes; its weights are laid out once for each size of input."""

    term: Weighed
    laid: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def __call__(self, x: Tensor) -> Tensor:
        term = self.term
        if isinstance(term.op, Linear) and len(x) == 1:
            return self(x.expand(2, -1).contiguous())[:1]
        shape = tuple(x.shape)
        if shape not in self.laid:
            self.laid[shape] = onednn.pack_codes(term.op, term.codes, shape)
        return innermost(onednn.weigh_codes(term.op, self.laid[shape], x, term.zero, len(term.codes)))

    def __deepcopy__(self, memo: object) -> Sum:
        return type(self)(self.term)


@dataclass
class Fire:
    """A layer of neurons: its current, and its neurons through all steps of a chunk."""

    charge: Charge
    sums: dict[Weighed, Sum] = field(default_factory=dict)
    numbers: dict[str, Tensor] = field(default_factory=dict)
    """Per-channel numbers, the channels over and over, int32."""

    def __post_init__(self) -> None:
        """Lay out what does not change."""
        c = self.charge
        self.sums = {t: Sum(t) for t in c.terms if isinstance(t, Weighed)}
        times = max(1, round(native.NEAR / len(c.worth)))
        given = {"bias": c.bias, "threshold": c.threshold, "worth": c.worth}
        given |= {str(i): self._factor(t) for i, t in enumerate(c.terms)}
        self.numbers = {name: t.repeat(times).to(torch.int32) for name, t in given.items()}

    def _factor(self, term: Term) -> Tensor:
        one = torch.ones_like(self.charge.worth)
        match term:
            case Weighed():
                return term.factor
            case Spikes():
                return one * term.factor
        return one

    def __call__(self, frame: Frame) -> None:
        c = self.charge
        terms = [(self._data(t, frame), isinstance(t, Given), t.zero if isinstance(t, Spikes) else 0)
                 for t in c.terms]
        out = frame.code(c.node)
        state = frame.states.get(c.node) or self._begin(frame, terms)
        frame.states[c.node] = state
        if native.library() is None:
            self._eager(frame, terms, state, out)
        else:
            self._native(frame, terms, state, out)

    def _data(self, term: Term, frame: Frame) -> Tensor:
        """What a term says in this chunk, the channels innermost."""
        match term:
            case Weighed():
                return self.sums[term](frame.codes[term.source])
            case Spikes():
                return innermost(frame.codes[term.source])
            case Given():
                return frame.whole(term.source, self.charge.exponent)
        return innermost(frame.read(term.source) * 2.0**-self.charge.exponent)

    def _begin(self, frame: Frame, terms: list[tuple[Tensor, bool, int]]) -> tuple[Tensor, ...]:
        """Membranes before the first step, as wide as a run may need them; the net count beside."""
        c = self.charge
        size = (frame.samples, *(d for d in c.node.shape[2:]), c.node.shape[1])
        given = sum(float(data.abs().max()) for data, static, _ in terms if static)
        most = c.most + given
        if most >= FITS:
            raise ModelError(
                f"the current of {c.node.where} does not fit into 31 bits",
                hint="an input beyond those of the calibration data; --engine float adds in floating point",
            )
        farthest = max(float(c.threshold.max()), float(c.initial.abs().max())) + frame.last * most
        wide = torch.int64 if farthest >= FITS else torch.int32
        membrane = c.initial.to(wide).expand(size).contiguous()
        net = torch.zeros(size, dtype=torch.int32) if c.kind != native.SOFT and c.kind != native.HARD else None
        return (membrane,) if net is None else (membrane, net)

    def _native(
        self, frame: Frame, terms: list[tuple[Tensor, bool, int]], state: tuple[Tensor, ...], out: Tensor
    ) -> None:
        c, at = self.charge, {name: numbers.data_ptr() for name, numbers in self.numbers.items()}
        count, wide = state[0].numel(), state[0].dtype == torch.int64
        layer = native.Layer(count=count, steps=frame.steps, block=len(self.numbers["bias"]))
        layer.terms, layer.kind, layer.levels, layer.zero = len(terms), c.kind, c.levels, c.zero
        for i, (data, static, zero) in enumerate(terms):
            kind = native.KINDS[data.dtype]
            layer.term[i] = native.Term(data.data_ptr(), at[str(i)], 0 if static else count, kind, zero)
        layer.bias, layer.threshold, layer.worth = at["bias"], at["threshold"], at["worth"]
        layer.membrane, layer.codes = state[0].data_ptr(), out.data_ptr()
        layer.net = state[1].data_ptr() if len(state) > 1 else None
        native.fire(layer, wide)

    def _eager(
        self, frame: Frame, terms: list[tuple[Tensor, bool, int]], state: tuple[Tensor, ...], out: Tensor
    ) -> None:
        """The same where there is no compiler."""
        c, membrane = self.charge, state[0]
        threshold, worth, codes = (t.to(membrane.dtype) for t in (c.threshold, c.worth, c.bias))
        for step, place in enumerate(frame.each(innermost(out))):
            membrane.add_(codes)
            for (data, static, zero), term in zip(terms, c.terms, strict=True):
                now = (data if static else frame.at(data, step)).to(membrane.dtype)
                now = now - zero if zero else now
                membrane.add_(now.mul_(self._factor(term).to(membrane.dtype)) if not static else now)
            above = membrane >= threshold
            count = above.to(torch.int32)
            if c.kind == native.SIGNED:
                count -= ((membrane < 0) & (state[1] > 0)).to(torch.int32)
            elif c.kind in (native.LEVELS, native.BURST):
                count = membrane.div(threshold, rounding_mode="floor").clamp_(max=c.levels).to(torch.int32)
                least = -state[1].clamp(max=c.levels) if c.kind == native.LEVELS else 0
                count = count.clamp(min=least)
            if len(state) > 1:
                state[1].add_(count)
            if c.kind == native.HARD:
                membrane.masked_fill_(above, 0)
            else:
                membrane.sub_(count * threshold)
            place.copy_(count * worth + c.zero)


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


def exactly(op: Op, exponent: int | None) -> Function:
    """How a node that the image alone determines is computed, in float64 and exactly.

    Its inputs come in units of 2^exponent; a convolution of codes adds up in float32 while that is exact.
    """
    double = op.map_tensors(lambda t: t.double() if t.is_floating_point() else t)

    def plain(*inputs: Tensor) -> Tensor:
        return double(*(i.double() for i in inputs))

    if not isinstance(op, Conv) or op.packed is None or op.weight.dim() != 4 or exponent is None:
        return plain
    weight = op.packed.codes.float()
    add = function_of(replace(op, weight=weight, bias=None, packed=None))
    sums = float(weight.abs().flatten(1).sum(1).max())
    scale = op.packed.scale.double().reshape(-1, 1, 1)
    bias = op.bias.double().reshape(-1, 1, 1) if op.bias is not None else torch.zeros(1)

    def convolved(*inputs: Tensor) -> Tensor:
        fits = float(inputs[0].abs().max()) * sums * 2.0**-exponent < EXACT
        return add(inputs[0].float()).double().mul_(scale).add_(bias) if fits else plain(*inputs)

    return convolved
