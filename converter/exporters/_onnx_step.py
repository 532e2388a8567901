"""One time step of a spiking network in ONNX: what is carried from step to step, and what a step computes.

It does what `RateModel.advance` does, part by part: static values, steps (synapses, neurons, telescoping),
sums, and what the head makes of their mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from converter.errors import Unsupported
from converter.exporters._onnx import Writer
from converter.exporters._onnx_neurons import PARTS, stepped
from converter.graph import Input, Node, Shape
from converter.rate import RateModel
from converter.spiking import State
from converter.stateful import Stateful


@dataclass(frozen=True)
class Held:
    """One tensor that a step takes and gives on; before the first it is `initial`, broadcast to `shape`."""

    name: str
    shape: Shape
    initial: Tensor

    @property
    def next(self) -> str:
        """What it is called when it is given on."""
        return f"{self.name}.next"


@dataclass(frozen=True)
class Step:
    """The states of a model: the number of steps done, those of the nodes, the sums to read out."""

    time: Held
    nodes: dict[Node, tuple[Held, ...]]
    sums: tuple[Held, ...]

    @staticmethod
    def of(model: RateModel) -> Step:
        """What the steps of `model` hold. Raises `Unsupported` naming every op that has no form."""
        zero = torch.zeros(())
        nodes: dict[Node, tuple[Held, ...]] = {}
        refusals = []
        for node in model.plan.step:
            if isinstance(node.op, Stateful):
                if type(node.op) not in PARTS:
                    refusals.append((node.where, "has no form in ONNX"))
                    continue
                pairs = zip(PARTS[type(node.op)], node.op.init(), strict=False)
                nodes[node] = tuple(Held(f"{node.name}.{part}", node.shape, v) for part, v in pairs)
            elif node in model.plan.cumulative:
                sums = [Held(f"{node.name}.sum{i}", s.shape, zero) for i, s in enumerate(node.inputs)]
                nodes[node] = (*sums, Held(f"{node.name}.total", node.shape, zero))
        if refusals:
            raise Unsupported(f"{model.graph.name} has a neuron that ONNX is not written for", refusals)
        reads = tuple(Held(f"{n.name}.readout", n.shape, zero) for n in model.plan.frontier)
        taken = {node.name for node in model.graph}
        time = next(
            name for name in map("time{}".format, ("", *range(2, len(taken) + 3))) if name not in taken
        )
        return Step(Held(time, (), zero), nodes, reads)

    @property
    def all(self) -> tuple[Held, ...]:
        """Every state."""
        return (self.time, *(held for each in self.nodes.values() for held in each), *self.sums)

    def values(self, state: State, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """What the states are in `state`, by name, in the `shapes` of this batch."""
        found = {held.name: held.initial for held in self.all}
        for node, held in self.nodes.items():
            found |= {h.name: t for h, t in zip(held, state.nodes.get(node, ()), strict=False)}
        found[self.time.name] = torch.tensor(float(state.time))
        found |= {h.name: t for h, t in zip(self.sums, state.sums, strict=False)}
        return {name: value.expand(tuple(shapes[name])).contiguous() for name, value in found.items()}


@dataclass(frozen=True)
class Written:
    """The names of what a step computes."""

    states: dict[str, str]
    """State -> what it is next."""
    answers: tuple[str, ...]


def write_step(w: Writer, model: RateModel, step: Step, have: dict[Node, str]) -> Written:
    """One step from the static values in `have` and the states, under their names; `have` gets its values."""
    time = step.time.name
    done = w.add("Add", time, w.number(1))
    states = {time: done}
    for node in model.plan.step:
        if isinstance(node.op, Input):
            continue
        given = [have[i] for i in node.inputs]
        own = [held.name for held in step.nodes.get(node, ())]
        if not isinstance(node.op, Stateful) and node not in model.plan.cumulative:
            w.values((node,), have)
            continue
        with w.inside(node.name):
            before = len(w.nodes)
            if isinstance(node.op, Stateful):
                after, value = stepped(w, node.op, own, given[0], time)
            else:
                after, value = _telescoped(w, node, own, given, done)
            have[node] = w.rename(value, node.name, since=before)
        states |= dict(zip(own, after, strict=True))
    sums, counted = _summed(w, model, step, have, done)
    states |= sums
    means = {
        node: w.add("Div", total, counted, to=w.name(f"{node.name}.mean"))
        for node, total in zip(model.plan.frontier, sums.values(), strict=True)
    }
    read = w.values(model.plan.head, means)
    return Written(states, tuple(read[o] for o in model.graph.outputs))


def _telescoped(
    w: Writer, node: Node, own: Sequence[str], given: Sequence[str], time: str
) -> tuple[tuple[str, ...], str]:
    """y = f(S) − f(S before), or t·f(S/t) less the same before, S the sums of the inputs."""
    sums = [w.add("Add", total, x) for total, x in zip(own, given, strict=False)]
    plain = node.op.homogeneous
    arguments = sums if plain else [w.add("Div", total, time) for total in sums]
    result = w.value(node, arguments, to=w.name(f"{node.name}.now"))
    result = result if plain else w.add("Mul", time, result)
    return (*sums, result), w.add("Sub", result, own[-1])


def _summed(
    w: Writer, model: RateModel, step: Step, have: Mapping[Node, str], done: str
) -> tuple[dict[str, str], str]:
    """The sums to read out, by state, and over how many steps; those within the delay stand alone."""
    sums: dict[str, str] = {}
    counted = w.add("Max", w.add("Sub", done, w.number(model.delay)), w.number(1)) if model.delay else done
    later = w.add("Greater", counted, w.number(1)) if model.delay else ""
    for node, held in zip(model.plan.frontier, step.sums, strict=True):
        with w.inside(held.name):
            total = w.add("Add", held.name, have[node])
            sums[held.name] = w.add("Where", later, total, have[node]) if later else total
    return sums, counted
