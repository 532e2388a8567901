"""What a spiking network is to say as a whole: the ANN's read-out, and in every layer the ANN's activations.

    mean over outputs of D(ANN, SNN) / D(ANN, constant)  +  mean over layers of Σ (r − a)² / Σ a²

D is the KL divergence of values that go through a softmax or a sigmoid, or are the scores of classes, and the
squared error of others; the constant is the mean of each channel. So 1 is an answer that knows nothing of its
input, whatever the unit of an output, and an answer of two classes at 10,000 places weighs as one of four
numbers. The layers keep what a few samples cannot tell (FitNets: Romero et al., ICLR 2015).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from calibrators._rates import read_out
from converter.graph import Graph, Node
from converter.neurons import Neuron
from converter.plan import Plan

TINY = 1e-12
LEAST = 1e-4
"""What the spread of an output counts at least, in its own square, or in nats a place."""


@dataclass(frozen=True)
class Said:
    """What a network says of some samples: its `readout`, before what comes after it, and its `layers`."""

    readout: Sequence[Tensor]
    layers: Mapping[str, Tensor]


def said_by(graph: Graph, x: Tensor, layers: Mapping[str, object]) -> Said:
    """What `graph`, of `read_out`, says of `x`, and in it the nodes named in `layers`."""
    found: dict[str, Tensor] = {}

    def listen(node: Node, value: Tensor) -> None:
        if node.name in layers:
            found[node.name] = value

    return Said(graph.run(x, listen=listen), found)


@dataclass(frozen=True)
class Aim:
    """What is wanted of each read-out and each layer: how it is graded, and the unit of that, a sample."""

    grades: Sequence[Grade]
    units: Sequence[float]
    layers: Mapping[str, float]

    @staticmethod
    def of(ann: Graph, x: Tensor, part: int) -> Aim:
        """That of the spiking graph `ann` before calibration; units are those of `x`, `part` at a time."""
        layers = {node.name: 0.0 for node in ann if isinstance(node.op, Neuron)}
        grades, parts = grades_of(ann), list[Sequence[Tensor]]()
        for some in x.split(part):
            said = said_by(read_out(ann), some, layers)
            parts.append(said.readout)
            layers = {name: size + float(said.layers[name].square().sum()) for name, size in layers.items()}
        whole = [torch.cat(each) for each in zip(*parts, strict=True)]
        units = [float(grade.spread(value)) for grade, value in zip(grades, whole, strict=True)]
        return Aim(
            grades,
            [unit / len(x) for unit in units],
            {name: max(size, TINY) / len(x) for name, size in layers.items()},
        )

    def missed(self, said: Said, wanted: Said) -> tuple[Tensor, Tensor]:
        """By how much, each a scalar: the read-out, and the layers; means over samples."""
        count = len(said.readout[0])
        each = zip(self.grades, said.readout, wanted.readout, self.units, strict=True)
        answers = [grade.apart(a, b) / unit for grade, a, b, unit in each]
        layers = [
            (said.layers[name] - wanted.layers[name]).square().sum() / unit
            for name, unit in self.layers.items()
        ]
        return torch.stack(answers).mean() / count, torch.stack(layers).mean() / count


@dataclass(frozen=True)
class Grade:
    """How two read-outs are held against each other: as `values`, `chances` (of sigmoids) or `shares`.

    The shares of each place add up to 1 along `dim`.
    """

    kind: str
    dim: int = 1

    def apart(self, said: Tensor, wanted: Tensor) -> Tensor:
        """D, in sum over all places and samples: a squared error, or KL(wanted ‖ said) in nats."""
        if self.kind == "values":
            return (said - wanted).square().sum()
        if self.kind == "chances":
            chance = wanted.sigmoid()
            cross, own = (
                F.binary_cross_entropy_with_logits(v, chance, reduction="sum") for v in (said, wanted)
            )
            return cross - own
        mine, theirs = (value.log_softmax(self.dim) for value in (said, wanted))
        return (theirs.exp() * (theirs - mine)).sum()

    def spread(self, wanted: Tensor) -> Tensor:
        """D of the constant answer from `wanted`, or a little where that is no different."""
        axis = self.dim % wanted.dim()
        rest = [d for d in range(wanted.dim()) if d != axis]
        if self.kind == "values":
            constant = wanted.mean(rest, keepdim=True)
        elif self.kind == "chances":
            constant = wanted.sigmoid().mean(rest, keepdim=True).clamp(TINY, 1 - TINY).logit()
        else:
            constant = wanted.softmax(axis).mean(rest, keepdim=True).log()
        size = wanted.square().sum() if self.kind == "values" else wanted.new_tensor(wanted.numel())
        return torch.maximum(self.apart(constant.expand_as(wanted), wanted), LEAST * size).clamp_min(TINY)


def grades_of(graph: Graph) -> list[Grade]:
    """For each read-out of `graph` the grade that what comes after it asks for."""
    plan, users = Plan.of(graph), graph.users()

    def grade(node: Node) -> Grade:
        for reader in users[node]:
            match reader.op.kind:
                case "Softmax" | "LogSoftmax" if reader in plan.head:
                    return Grade("shares", reader.op.dim)  # type: ignore[attr-defined]
                case "Sigmoid" if reader in plan.head:
                    return Grade("chances", 1 if len(node.shape) > 1 else 0)
        if len(graph.outputs) == 1 and node in graph.outputs and len(node.shape) == 2 and node.shape[1] > 1:
            return Grade("shares", 1)
        return Grade("values", 1 if len(node.shape) > 1 else 0)

    return [grade(node) for node in plan.frontier]
