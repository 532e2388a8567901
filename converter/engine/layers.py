"""Finds the layers of a graph that run in whole numbers, and writes down what each of them does.

A layer is one if its neurons' spikes fit into a byte and its current is a sum of terms (`codes`) whose sizes
are known. What is not stays in floating point, beside them in the same run.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from converter.engine.codes import EXACT, WIDE, Charge, Code, Codes, Given, Spikes, Term, Value, Weighed
from converter.engine.native import BURST, HARD, LEVELS, MOST, SIGNED, SOFT, TERMS
from converter.engine.pools import plain
from converter.errors import Refusal
from converter.graph import Graph, Node, Op, size_of
from converter.neurons import Neuron
from converter.ops import Add, AvgPool, Concat, Conv, ConvTranspose, Linear, MaxPool, Movement, Pad
from converter.plan import Plan
from converter.program import Instruction, lowered
from converter.units import unit, whole
from converter.weights import parse

PAYS = 0.25
"""The share of a step's multiplying and adding from which on layers in whole numbers pay.

They take about half the time that they take in floating point. The others then have the spikes decoded
that reach them, and what the image alone determines is computed in doubles: `benchmarks latency fastestdet`.
"""


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
        weighed = {t.op for c in self.charges.values() for t in c.terms if isinstance(t, Weighed)}
        if not weighed:
            return Codes({}, {}, {}, layers)
        if self._share(weighed) < PAYS:
            return Codes({}, {}, {}, layers, len(self.charges))
        return Codes(self.charges, self.codes, self.units, layers)

    def _share(self, whole: Container[Op]) -> float:
        """How much of the multiplying and adding of a step these synapses do."""
        done = {n.op: multiplications(n) for n in self.plan.step}
        return sum(count for op, count in done.items() if op in whole) / sum(done.values())

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
        pool = current if self._pools(current) else None
        terms, bias, most = [], torch.zeros(channels, dtype=torch.int64), 0.0
        for term, shift, bound in self._terms(pool.inputs[0] if pool else current, exponent):
            terms.append(term)
            bias, most = bias + shift, most + bound
        if len(terms) > TERMS or most + float(bias.abs().max()) >= WIDE:
            raise Refusal("a current does not fit into 53 bits")
        self.charges[node] = Charge(
            *(node, tuple(terms), exponent, kind, levels, tensors["threshold"], worth),
            *(tensors["initial"], bias, most + float(bias.abs().max()), code.zero, pool),
        )
        self.codes[node] = code

    def _pools(self, node: Node) -> bool:
        """Whether `node` is a max-pool through time that only one layer of neurons reads."""
        return plain(node) and node in self.plan.cumulative and self._alone(node)

    def _alone(self, node: Node) -> bool:
        """Whether nothing but one op reads it."""
        return len(self.users[node]) == 1 and node not in self.plan.frontier

    def _terms(self, node: Node, exponent: int) -> Iterator[tuple[Term, Tensor | int, float]]:
        """The terms that `node` is the sum of, each with its bias and the largest size it may have."""
        op = node.op
        if node in self.static:
            yield Given(node), 0, 0.0
            return
        if (code := self.codes.get(node)) is not None:
            factor = code.gain << (code.exponent - exponent)
            yield Spikes(node, code.zero, factor), 0, float(code.largest.max() * factor)
            return
        alone = self._alone(node)
        if alone and isinstance(op, Add) and all(i.shape == node.shape for i in node.inputs):
            for i in node.inputs:
                yield from self._terms(i, exponent)
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
        if format is None or format.table or self.units[node] is None:
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
            weighed = Weighed(part, op, codes, code.zero, factor)
            for plane in weighed.planes:
                if by_output(plane, replace(code, largest=code.largest + code.zero)).max() >= EXACT:
                    return None
            sums = by_output(codes, code)
            found.append((weighed, 0, float((sums * factor).max())))
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


def multiplications(node: Node) -> int:
    """How many a synapse takes for a sample; none for what is no synapse."""
    op = node.op
    if isinstance(op, ConvTranspose):
        return size_of(node.inputs[0].shape) * op.weight[0].numel()
    return size_of(node.shape) * op.weight[0].numel() if isinstance(op, Conv | Linear) else 0


def by_output(codes: Tensor, code: Code) -> Tensor:
    """The largest size of each output's sum of codes times what spikes with this code say."""
    rows = codes.long().reshape(*codes.shape[:2], -1)
    largest = code.largest if code.largest.numel() == rows.shape[1] else code.largest.max()
    up, down = ((rows.clamp(min=0)).sum(2) * largest).sum(1), ((-rows).clamp(min=0).sum(2) * largest).sum(1)
    return up + down if code.zero else torch.maximum(up, down)


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
