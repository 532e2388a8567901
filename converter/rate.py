"""RateModel: a graph with neurons, run through time as a PyTorch module.

A value is the mean of its spikes over the steps so far. Every node plays one of five parts:

    static      depends on the constant input alone: computed once for an image (with direct current)
    synapse     linear, so it acts on the spikes of each step
    stateful    a neuron, which integrates and fires, or what mends a current or spikes over time
    cumulative  not linear: y_t = Y_t − Y_{t−1} with Y_t = t·f(S_t / t), S_t the sum of its inputs so far, so
                the mean of y is f of the mean at every t; for a max-pool (homogeneous) Y_t = f(S_t), and no
                spike is lost or invented (algorithm: telescoping; LIPooling of Li & Zeng, IJCAI 2022,
                is the case of windows that do not overlap)
    head        neither linear nor homogeneous and after the last neuron (Softmax), and all that follows it:
                applied to the mean over time, once for each read-out

State is explicit and memory does not grow with the number of steps.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from converter.cumulative import telescope, telescope_mean
from converter.encodings import Encoding
from converter.encodings.current import Current
from converter.errors import ConversionError, Refusal, UsageError
from converter.graph import Graph, Input, Listener, Node
from converter.neurons import Neuron
from converter.stateful import Stateful

Values = dict[Node, Tensor]
Readout = tuple[Tensor, ...]


@dataclass(frozen=True)
class Plan:
    """Which node plays which part; every list in topological order. `frontier` feeds the read-out."""

    static: tuple[Node, ...]
    step: tuple[Node, ...]
    cumulative: frozenset[Node]
    head: tuple[Node, ...]
    frontier: tuple[Node, ...]
    last_read: dict[Node, tuple[Node, ...]]
    """After a node of `step` has run, the values that nothing reads any more."""

    @staticmethod
    def of(graph: Graph, *, constant_input: bool = True) -> Plan:
        """The parts the nodes of `graph` play; `constant_input` says that each step sees the same image."""
        users = graph.users()
        before: set[Node] = set()  # a neuron follows
        for node in reversed(graph.order):
            if any(u in before or isinstance(u.op, Stateful) for u in users[node]):
                before.add(node)
        static: dict[Node, None] = {}
        step: dict[Node, None] = {}
        head: dict[Node, None] = {}
        for node in graph.order:
            given = isinstance(node.op, Input)
            if (given and constant_input) or (
                not given and not isinstance(node.op, Stateful) and all(i in static for i in node.inputs)
            ):
                static[node] = None
            elif (
                isinstance(node.op, Stateful)
                or node in before
                or given
                or ((node.op.linear or node.op.homogeneous) and not any(i in head for i in node.inputs))
            ):
                step[node] = None
            else:
                head[node] = None
        read = dict.fromkeys([i for node in head for i in node.inputs if i not in head])
        read |= dict.fromkeys(o for o in graph.outputs if o not in head)
        told = (isinstance(n.op, Stateful | Input) or n.op.linear for n in step)
        cumulative = frozenset(n for n, plain in zip(step, told, strict=True) if not plain)
        last = {source: node for node in step for source in node.inputs if source not in read}
        last_read = {n: tuple(s for s, reader in last.items() if reader is n) for n in step}
        return Plan(tuple(static), tuple(step), cumulative, tuple(head), tuple(read), last_read)


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

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]  # torch's own hook for .to()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._bind(self.graph)
        return self

    @property
    def neurons(self) -> tuple[Node, ...]:
        """The nodes that fire, in order."""
        return tuple(n for n in self.plan.step if isinstance(n.op, Neuron))

    def mean(self, total: Tensor, timesteps: int) -> Tensor:
        """What a neuron says, of the sum of what was heard of it over a run of `timesteps` steps."""
        return total / timesteps

    def currents(self, x: Tensor | tuple[Tensor, ...]) -> Values:
        """What the input alone determines, for `x` [batch, …]: the static values that the steps read."""
        given = x if isinstance(x, tuple) else (x,)
        self.graph.check(given)
        have = dict(zip(self.graph.inputs, given, strict=True))
        for node in self.plan.static:
            if node not in have:
                have[node] = node.op(*(have[i] for i in node.inputs))
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

    def each_step(self, x: Tensor | tuple[Tensor, ...]) -> Iterator[Values]:
        """`currents` of the inputs of each step, without end; computed once where they are all the same."""
        if self.encoding.constant:
            return repeat(self.currents(x))
        return map(self.currents, self.encoded(x))


L = TypeVar("L", bound=Listener)


class RateModel(SpikingModel):
    """A rate-coded spiking network in which every layer fires at every step: the schedule `stream`.

    `forward(x, timesteps)` gives the read-out after every step, [timesteps, batch, …] (a tuple of them when
    the network has several outputs), so one run is the whole accuracy-against-time curve.

    The first `delay` steps, while the spikes of the first layers are still on their way, are run and not
    counted: the read-out is the mean over the steps after them (during them, that of the step alone).
    """

    schedule: ClassVar[str] = "stream"

    def __init__(
        self, graph: Graph, encoding: Encoding | None = None, *, seed: int = 0, delay: int = 0
    ) -> None:
        super().__init__(graph, encoding, seed=seed)
        if delay < 0:
            raise UsageError(f"the delay of the read-out is {delay} steps; it is 0 or more")
        self.delay = delay

    def step(
        self, x: Tensor | tuple[Tensor, ...], state: State | None = None, listen: Listener | None = None
    ) -> tuple[Readout, State]:
        """One time step with this step's input: the read-out so far, one tensor an output, and the state."""
        return self.advance(self.currents(x), state or State(), listen)

    def advance(
        self, currents: Values, state: State, listen: Listener | None = None
    ) -> tuple[Readout, State]:
        """One time step from `currents(x)`. `listen(node, value)` sees every value of the step."""
        now = self.pass_on(currents, state, listen)
        counted = max(now.time - self.delay, 1)
        if counted > 1:
            now = replace(now, sums=tuple(a + b for a, b in zip(state.sums, now.sums, strict=True)))
        return self.read(now.sums, counted), now

    def read(self, sums: Sequence[Tensor], time: int) -> Readout:
        """The outputs for these sums over `time` steps: means, and what the head makes of them."""
        have = {node: total / time for node, total in zip(self.plan.frontier, sums, strict=True)}
        for node in self.plan.head:
            have[node] = node.op(*(have[i] for i in node.inputs))
        return tuple(have[o] for o in self.graph.outputs)

    def iterate(self, x: Tensor | tuple[Tensor, ...], listen: Listener | None = None) -> Iterator[Readout]:
        """The read-out after each step, without end. Draws of the encoding start from `seed` each time."""
        state = State()
        for currents in self.each_step(x):
            readout, state = self.advance(currents, state, listen)
            yield readout

    def answers(
        self, x: Tensor | tuple[Tensor, ...], timesteps: Sequence[int], listener: Callable[[], L]
    ) -> Iterator[tuple[int, Readout, L]]:
        """(t, read-out, listener) for the steps `timesteps`, and those between, in order: one run for all.

        The listener, made once, has heard every value up to there. Raises `UsageError` for a step within
        the delay.
        """
        refuse_early(timesteps, self.delay)
        listen = listener()
        for time, readout in zip(range(1, max(timesteps) + 1), self.iterate(x, listen), strict=False):
            yield time, readout, listen

    def latency(self, timesteps: int) -> int:
        """How many steps after the image was given the answer of `timesteps` steps is there: as many."""
        return timesteps

    def forward(
        self,
        x: Tensor | tuple[Tensor, ...],
        timesteps: int,
        at: Sequence[int] | None = None,
        listen: Listener | None = None,
    ) -> Tensor | Readout:
        """The read-out after every step of `timesteps` (or after the steps `at` only): [steps, batch, …]."""
        if timesteps < 1:
            raise UsageError(f"timesteps is {timesteps}; a simulation takes at least 1")
        steps = zip(range(1, timesteps + 1), self.iterate(x, listen), strict=False)
        kept = [readout for t, readout in steps if at is None or t in at]
        if not kept:
            raise UsageError(f"none of the steps {list(at or ())} is among the {timesteps} of the simulation")
        stacked = tuple(torch.stack(each) for each in zip(*kept, strict=True))
        return stacked[0] if len(stacked) == 1 else stacked


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
