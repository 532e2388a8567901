"""Which layers run in whole numbers: neurons whose spikes are codes of a byte, and the sums that charge them.

    code     k · worth_c + zero, uint8; zero is 128 where spikes may be negative
    current  Σ_terms factor_c · (what a term says) + bias_c, in units of the membrane, 2^exponent

A term is a synapse's sum of its 8-bit codes times spike codes, spikes themselves (a shortcut), something that
the image alone determines, or a value of a node that runs in floating point. All of it is known to fit:
sums of products 24 bits, currents 31; a membrane that may outgrow 31 bits in a run has 63.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from converter.engine.native import BURST, HARD, LEVELS, MOST, SIGNED, SOFT, TERMS
from converter.errors import Refusal
from converter.fixed_point import unit, whole
from converter.graph import Graph, Node
from converter.neurons import Neuron
from converter.ops import Add, AvgPool, Concat, Conv, Linear, MaxPool, Movement, Pad
from converter.plan import Plan
from converter.program import Instruction, lowered
from converter.weights import parse

EXACT = 1 << 24
"""Up to here float32 adds whole numbers exactly, and so do the operators for codes."""
FITS = 1 << 31


@dataclass(frozen=True, eq=False)
class Code:
    """What a byte stands for: (code − zero) · gain · 2^exponent; `largest` is that of a code's size."""

    exponent: int
    gain: int
    zero: int
    largest: Tensor
    """For each channel, or one for all: int64 [channels] or [1]."""

    def reads_as(self, other: Code) -> bool:
        """Whether a byte says the same in both."""
        return (self.exponent, self.gain, self.zero) == (other.exponent, other.gain, other.zero)


@dataclass(frozen=True, eq=False)
class Weighed:
    """Σ codes · (source − zero), times `factor` [out]."""

    source: Node
    op: Conv | Linear
    codes: Tensor
    zero: int
    factor: Tensor
    channels: tuple[int, int] | None = None
    """Those of the source it takes, where that is not all."""


@dataclass(frozen=True, eq=False)
class Spikes:
    """Spikes as they are, (source − zero) · factor."""

    source: Node
    zero: int
    factor: int


@dataclass(frozen=True, eq=False)
class Given:
    """What the image alone determines."""

    source: Node


@dataclass(frozen=True, eq=False)
class Value:
    """What a node that runs in floating point says."""

    source: Node


Term = Weighed | Spikes | Given | Value


@dataclass(frozen=True, eq=False)
class Charge:
    """A layer of neurons in whole numbers. The tensors are int64 [channels]."""

    node: Node
    terms: tuple[Term, ...]
    exponent: int
    """Of the membrane's unit."""
    kind: int
    levels: int
    threshold: Tensor
    worth: Tensor
    initial: Tensor
    bias: Tensor
    most: float
    """The largest size of a step's current, what is given by the image apart."""
    zero: int


@dataclass(frozen=True)
class Codes:
    """The layers of a graph that run in whole numbers, and what their spikes are as codes."""

    charges: Mapping[Node, Charge]
    codes: Mapping[Node, Code]
    """Of neurons, and of what only moves their spikes."""
    units: Mapping[Node, int | None]
    """The exponent of each node's values, where they are whole numbers of it."""
    layers: int
    """Layers of neurons in all."""

    @property
    def words(self) -> str:
        """How many layers run so."""
        count = len(self.charges)
        which = "all" if count == self.layers else str(count)
        return f"{which} of {self.layers} layers of neurons in whole numbers, spikes and weights in bytes"


def codes_of(graph: Graph, plan: Plan) -> Codes:
    """What of `graph` runs in whole numbers; nothing where no weights are codes of 8 bits."""
    return Reader(graph, plan).read()


class Reader:
    """Reads a graph once, in order."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.plan = plan
        self.users = graph.users()
        self.order = graph.order
        self.units: dict[Node, int | None] = {}
        self.codes: dict[Node, Code] = {}
        self.charges: dict[Node, Charge] = {}
        self.static = frozenset(plan.static)

    def read(self) -> Codes:
        """All layers."""
        layers = 0
        for node in self.order:
            self.units[node] = unit(node.op, [self.units[i] for i in node.inputs])
            if isinstance(node.op, Neuron) and node not in self.static:
                layers += 1
                try:
                    self._neuron(node)
                except Refusal:
                    continue
            elif (code := self._moved(node)) is not None:
                self.codes[node] = code
        weighed = (t for charge in self.charges.values() for t in charge.terms)
        if not any(isinstance(t, Weighed) for t in weighed):
            return Codes({}, {}, {}, layers)
        return Codes(self.charges, self.codes, self.units, layers)

    def _moved(self, node: Node) -> Code | None:
        """The code of values that only moved, if they are one."""
        given = [self.codes.get(i) for i in node.inputs]
        first = given[0] if given else None
        plain = isinstance(node.op, Concat) or (isinstance(node.op, Movement) and len(given) == 1)
        if first is None or not plain or any(g is None or not first.reads_as(g) for g in given):
            return None
        if isinstance(node.op, Pad) and node.op.mode != "constant" and first.zero:
            return None
        largest = torch.stack([g.largest.max() for g in given if g is not None]).max().reshape(1)
        return replace(first, largest=largest)

    def _neuron(self, node: Node) -> None:
        """The layer of `node`. Raises `Refusal` where something of it does not fit."""
        current = node.inputs[0]
        if (given := self.units[current]) is None or len(node.shape) not in (2, 4):
            raise Refusal("its current is no whole number of units")
        fire = lowered(node, [given], False)
        channels = node.shape[1]
        tensors = {name: by_channel(t, len(node.shape), channels) for name, t in fire.tensors.items()}
        kind, levels = kind_of(fire)
        signed = kind in (SIGNED, LEVELS)
        worth, gain = tensors["worth"], 1
        if bool((worth == worth[0]).all()):
            worth, gain = torch.ones_like(worth), int(worth[0])
        code = Code(fire.exponent, gain, 128 if signed else 0, worth * levels)
        if channels > MOST or int(code.largest.max()) > (127 if signed else 255):
            raise Refusal("a spike does not fit into a byte")
        exponent = given - fire.shifts[0]
        terms, bias, most = [], torch.zeros(channels, dtype=torch.int64), 0.0
        for term, sign_bias, bound in self._terms(current, exponent, channels):
            terms.append(term)
            bias, most = bias + sign_bias, most + bound
        if len(terms) > TERMS or most + float(bias.abs().max()) >= FITS:
            raise Refusal("a current does not fit into 31 bits")
        if max(float(tensors[n].abs().max()) for n in ("threshold", "initial")) >= FITS:
            raise Refusal("a threshold does not fit into 31 bits")
        self.charges[node] = Charge(
            *(node, tuple(terms), exponent, kind, levels, tensors["threshold"], worth),
            *(tensors["initial"], bias, most + float(bias.abs().max()), code.zero),
        )
        self.codes[node] = code

    def _terms(self, node: Node, exponent: int, channels: int) -> Iterator[tuple[Term, Tensor | int, float]]:
        """The terms that `node` is the sum of, each with its bias and the largest size it may have."""
        op = node.op
        if node in self.static:
            yield Given(node), 0, 0.0
            return
        if (code := self.codes.get(node)) is not None:
            factor = code.gain << (code.exponent - exponent)
            yield Spikes(node, code.zero, factor), 0, float(code.largest.max() * factor)
            return
        alone = len(self.users[node]) == 1 and node not in self.plan.frontier
        if alone and isinstance(op, Add) and all(i.shape == node.shape for i in node.inputs):
            for i in node.inputs:
                yield from self._terms(i, exponent, channels)
            return
        if alone and isinstance(op, Conv | Linear) and (found := self._weighed(node, exponent)) is not None:
            yield from found
            return
        if (size := self._size(node)) is None or size * 2.0**-exponent >= EXACT:
            raise Refusal("the size of a value is not known")
        yield Value(node), 0, size * 2.0**-exponent

    def _weighed(self, node: Node, exponent: int) -> list[tuple[Term, Tensor | int, float]] | None:
        """A synapse as sums of codes, one for each part of what it reads; None where it is not that."""
        op, source = node.op, node.inputs[0]
        assert isinstance(op, Conv | Linear)
        if len(node.shape) != (4 if isinstance(op, Conv) else 2) or op.packed is None:
            return None
        parts: list[tuple[Node, tuple[int, int]]] = [(source, (0, source.shape[1]))]
        if source not in self.codes and isinstance(source.op, Concat) and source.op.dim == 1:
            if isinstance(op, Conv) and op.groups != 1:
                return None
            at, parts = 0, []
            for i in source.inputs:
                parts.append((i, (at, at + i.shape[1])))
                at += i.shape[1]
        if any(part not in self.codes for part, _ in parts):
            return None
        format = parse(op.packed.format)
        if format is None or format.table or (outer := self.units[node]) is None:
            return None
        inner = self.units[source]
        assert inner is not None
        mantissa, _ = torch.frexp(op.packed.scale.double())
        scale = (mantissa * 32).long() << (whole(op)[1] + inner - exponent)
        found: list[tuple[Term, Tensor | int, float]] = []
        for part, (first, last) in parts:
            code = self.codes[part]
            factor = (scale * code.gain) << (code.exponent - inner)
            codes = op.packed.codes[:, first:last] if len(parts) > 1 else op.packed.codes
            sizes = codes.long().abs().flatten(2).sum(2) if codes.dim() > 2 else codes.long().abs()
            grouped = isinstance(op, Conv) and op.groups > 1
            largest = code.largest.max() if grouped or len(code.largest) == 1 else code.largest
            sums = (sizes * largest).sum(1)
            inside = int((sizes.sum(1) * 255).max()) if code.zero else int(sums.max())
            if inside >= EXACT or float((sums * factor).max()) >= FITS:
                return None
            found.append((Weighed(part, op, codes, code.zero, factor), 0, float((sums * factor).max())))
        if op.bias is not None:
            bias = torch.ldexp(op.bias.double(), torch.tensor(-exponent)).long()
            found[0] = (found[0][0], bias, found[0][2])
        return found

    def _size(self, node: Node) -> float | None:
        """The largest size of a step's value of a node that runs in floating point, where it is known."""
        if (code := self.codes.get(node)) is not None:
            return float(code.largest.max()) * code.gain * 2.0**code.exponent
        op = node.op
        if node in self.static or not node.inputs:
            return None
        sizes = [self._size(i) for i in node.inputs]
        known = [s for s in sizes if s is not None]
        if len(known) < len(sizes):
            return None
        if isinstance(op, Conv | Linear):
            bias = float(op.bias.abs().max()) if op.bias is not None else 0.0
            return float(op.weight.abs().flatten(1).sum(1).max()) * known[0] + bias
        if isinstance(op, Add):
            return sum(known)
        return max(known) if isinstance(op, MaxPool | AvgPool | Movement) else None


def kind_of(fire: Instruction) -> tuple[int, int]:
    """What the neuron does, and how many thresholds it may say at once."""
    neuron, levels = fire.settings["neuron"], int(fire.settings.get("levels", 1))
    if neuron == "integrate-fire":
        return (HARD if fire.settings["reset"] == "hard" else SOFT), 1
    return {"signed": SIGNED, "multi-level": LEVELS, "burst": BURST}[neuron], levels


def by_channel(values: Tensor, rank: int, channels: int) -> Tensor:
    """One number a channel, for values [batch, channels, …]. Raises `Refusal` where it is more than that."""
    try:
        return values.broadcast_to((1, channels, *[1] * (rank - 2))).reshape(-1).contiguous()
    except RuntimeError as error:
        raise Refusal("its numbers are not one a channel") from error
