"""SpikingModel: what a spiking network is, however its layers share the time.

A value is the mean of its spikes over the steps so far. Which part a node plays is said by `converter.plan`.
State is explicit and memory does not grow with the number of steps.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import TypeVar

import torch
from torch import Tensor, nn

from converter.cumulative import telescope, telescope_mean
from converter.encodings import Encoding
from converter.encodings.current import Current
from converter.engine import Function, gpu
from converter.errors import ConversionError, Refusal, UsageError
from converter.graph import Graph, Input, Listener, Node
from converter.neurons import Neuron
from converter.plan import Plan
from converter.stateful import Stateful

L = TypeVar("L", bound=Listener)
Values = dict[Node, Tensor]
Readout = tuple[Tensor, ...]


@dataclass(frozen=True)
class State:
    """Where a simulation stands: `time` steps done, each stateful node's own state, the sums to read out."""

    time: int = 0
    nodes: dict[Node, tuple[Tensor, ...]] = field(default_factory=dict)
    sums: tuple[Tensor, ...] = ()


class SpikingModel(nn.Module):
    """What a spiking network is, however its layers share the time: a graph, its plan and its parameters.

    Parameters are buffers named `layer.field`, the layer after its ONNX node; `.to(device)` moves them.
    Raises `ConversionError` when a neuron has no threshold.
    """

    def __init__(self, graph: Graph, encoding: Encoding | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.encoding = encoding or Current()
        self.seed = seed
        self.names = identifiers(graph, dir(type(self)))
        for node in graph:
            if isinstance(node.op, Neuron):
                try:
                    node.op.calibrated()
                except Refusal as refusal:
                    raise ConversionError(f"{node.where} {refusal.why}", hint=refusal.hint) from refusal
            if tensors := node.op.tensors():
                self.add_module(self.names[node.name], Parameters(tensors))
        self._bind(graph)

    def _bind(self, graph: Graph) -> None:
        """Take over `graph`, its parameters being this module's buffers."""
        bound: dict[Node, Node] = {}
        for node in graph:
            holder = getattr(self, self.names[node.name], None) if node.op.tensors() else None
            op = replace(node.op, **dict(holder.named_buffers())) if holder is not None else node.op
            bound[node] = replace(node, op=op, inputs=tuple(bound[i] for i in node.inputs))
        self.graph = replace(
            graph,
            inputs=tuple(bound[i] for i in graph.inputs),
            outputs=tuple(bound[o] for o in graph.outputs),
        )
        self.plan = Plan.of(self.graph, constant_input=self.encoding.constant)
        gpu.steady(self.device)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]  # torch's own hook for .to()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._bind(self.graph)
        return self

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next((t.device for t in self.buffers()), torch.device("cpu"))

    @property
    def neurons(self) -> tuple[Node, ...]:
        """The nodes that fire, in order."""
        return tuple(n for n in self.plan.step if isinstance(n.op, Neuron))

    def mean(self, total: Tensor, timesteps: int) -> Tensor:
        """What a neuron says, of the sum of what was heard of it over a run of `timesteps` steps."""
        return total / timesteps

    def currents(
        self, x: Tensor | tuple[Tensor, ...], functions: Mapping[Node, Function] | None = None
    ) -> Values:
        """What the input alone determines, for `x` [batch, …]: the static values that the steps read."""
        given = x if isinstance(x, tuple) else (x,)
        self.graph.check(given)
        have = dict(zip(self.graph.inputs, given, strict=True))
        for node in self.plan.static:
            if node not in have:
                have[node] = (functions or {}).get(node, node.op)(*(have[i] for i in node.inputs))
        wanted = {i for node in self.plan.step for i in node.inputs} | {*self.plan.frontier, *self.plan.step}
        return {node: value for node, value in have.items() if node in wanted}

    def pass_on(
        self, currents: Values, state: State, listen: Listener | None, charges: Values | None = None
    ) -> State:
        """One time step of every node, from `currents(x)`; the sums are those of this step alone.

        `listen(node, value)` sees every value of the step. A neuron in `charges` is charged with what stands
        there, not with what reaches it.
        """
        values, nodes, time, charged = dict(currents), dict(state.nodes), state.time + 1, charges or {}
        for node in self.plan.step:
            if isinstance(node.op, Stateful):
                given = charged[node] if node in charged else values[node.inputs[0]]
                nodes[node], values[node] = node.op.step(nodes.get(node) or node.op.init(), given)
            elif node in self.plan.cumulative:
                arguments = tuple(values[i] for i in node.inputs)
                if node.op.homogeneous:
                    nodes[node], values[node] = telescope(node.op, nodes.get(node), *arguments)
                else:
                    nodes[node], values[node] = telescope_mean(node.op, nodes.get(node), time, *arguments)
            elif not isinstance(node.op, Input):
                values[node] = node.op(*(values[i] for i in node.inputs))
            if listen is not None:
                listen(node, values[node])
            for done in self.plan.last_read.get(node, ()):
                del values[done]
        return State(time, nodes, tuple(values[node] for node in self.plan.frontier))

    def encoded(self, x: Tensor | tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
        """The inputs of each step, without end. Draws of the encoding start from `seed` each time."""
        images = x if isinstance(x, tuple) else (x,)
        generator = torch.Generator(images[0].device).manual_seed(self.seed)
        while True:
            yield tuple(self.encoding.encode(image, generator) for image in images)

    def tiles(self, batch: int) -> list[slice]:
        """The portions of a batch of this size that are best run one after the other."""
        return [slice(0, batch)]

    def execution(self, batch: int) -> str:
        """How batches of this size are run, in words."""
        return f"operator by operator, {batch} samples at a time"

    def each_step(
        self, x: Tensor | tuple[Tensor, ...], functions: Mapping[Node, Function] | None = None
    ) -> Iterator[Values]:
        """`currents` of the inputs of each step, without end; computed once where they are all the same."""
        if self.encoding.constant:
            return repeat(self.currents(x, functions))
        return (self.currents(now, functions) for now in self.encoded(x))


class Parameters(nn.Module):
    """The tensors of one op, as buffers under their field names: copies, so that loading changes no graph."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.clone())


def refuse_early(timesteps: Sequence[int], delay: int) -> None:
    """`UsageError` when one of `timesteps` lies within the delay of the read-out, or is no step at all."""
    if early := [t for t in timesteps if t <= delay]:
        listed = ", ".join(map(str, sorted(early)))
        raise UsageError(
            f"the read-out begins after step {delay}, so there is no answer after {listed}"
            if min(early) > 0
            else f"timesteps is {min(early)}; a simulation takes at least 1",
            hint=f"-T {delay + 1} or more; a smaller --delay" if delay else "",
        )


def identifiers(graph: Graph, members: Iterable[str]) -> dict[str, str]:
    """Node name -> a unique ASCII identifier, free for use as a module attribute, here and emitted.

    `members` are the names that the model's class takes.
    """
    own = {"encoding", "seed", "delay", "names", "graph", "plan", "init", "step", "advance"}
    taken = set(dir(nn.Module())) | set(members) | own
    found: dict[str, str] = {}
    for node in graph:
        plain = re.sub(r"\W+", "_", node.name, flags=re.ASCII).strip("_") or "node"
        plain = f"n{plain}" if plain[0].isdigit() else plain
        unique, count = plain, 1
        while unique in taken or keyword.iskeyword(unique):
            count += 1
            unique = f"{plain}_{count}"
        taken.add(unique)
        found[node.name] = unique
    return found
