"""A simulation operator by operator: each node over all time steps before the next node begins.

The same spikes as `RateModel`, in another order: when a neuron is reached, its exact input over the whole run
is there. That is what calibration needs, and one convolution over steps × batch samples is faster than one
for each step. Memory is that of all steps of the values still to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from converter.errors import Unsupported
from converter.graph import BATCH, Graph, Node, Op, show_shape
from converter.neurons import Neuron
from converter.plan import Plan
from converter.stateful import Stateful
from converter.window import Window

Fire = Callable[[Node, Tensor], Tensor]
"""(node with a state, what comes in [steps, batch, …]) -> what it emits [steps, batch, …]."""


def fire_in_turn(node: Node, currents: Tensor) -> Tensor:
    """The op's own steps, one after the other."""
    assert isinstance(node.op, Stateful)
    return node.op.scan(node.op.init(), currents)[1]


@dataclass(frozen=True)
class InWindows:
    """A `Fire` for the schedule `pipelined`: its one step is a whole window of `timesteps` steps.

    What comes in is the mean over the window before, what is emitted the mean over the neuron's own. Neurons
    that fire while it still comes in have more steps, their views: what was said so far, in the last all.
    """

    timesteps: int

    def __call__(self, node: Node, currents: Tensor) -> Tensor:
        """[views, batch, …] -> [views, batch, …]. Raises `Unsupported` for what works step by step."""
        if not isinstance(node.op, Neuron):
            raise Unsupported(
                "the schedule pipelined runs whole windows",
                [(node.where, "it works step by step")],
                hint="--schedule stream",
            )
        return Window(node.op, self.timesteps)(currents.flatten(0, 1)).reshape(currents.shape)


def run_of(schedule: str, timesteps: int, graph: Graph) -> tuple[int, Fire]:
    """How to `unroll` a run of `graph` for `timesteps` under this schedule: (steps, fire).

    `said` is what a value says: of a stream the mean of its `timesteps` steps, of a pipeline its last step, a
    whole window, mostly the only one.
    """
    if schedule != "pipelined":
        return timesteps, fire_in_turn
    views = (node.op.views(timesteps) for node in graph if isinstance(node.op, Neuron))
    return max(views, default=1), InWindows(timesteps)


def said(fire: Fire, values: Tensor, delay: int = 0) -> Tensor:
    """What `values` of all steps of a run say: [steps, batch, …] -> [batch, …]; of a stream after `delay`."""
    return values[-1] if isinstance(fire, InWindows) else values[delay:].mean(0)


def unroll(
    graph: Graph,
    x: Tensor,
    timesteps: int,
    fire: Fire = fire_in_turn,
    listen: Callable[[Node, Sequence[Tensor]], None] = lambda node, values: None,
    delays: Sequence[int] = (0,),
) -> tuple[Tensor, ...]:
    """The outputs after `timesteps` steps for a constant input current `x` [batch, …], one tensor each.

    Each of `delays` is a read-out that leaves so many first steps out: [delays · batch, …], in this order.
    Raises `Unsupported` where the batch does not stand first: steps and batch are run as one dimension.
    """
    plan = Plan.of(graph)
    refuse_astray(graph, plan.step)
    static = frozenset(plan.static)
    left = {node: len(users) for node, users in graph.users().items()}
    have: dict[Node, Tensor] = {graph.inputs[0]: x}
    means: dict[Node, Tensor] = {}
    for node in (*plan.static, *plan.step):
        if node in static:
            if node not in have:
                have[node] = node.op(*(have[i] for i in node.inputs))
        else:
            given = [over_time(have[i], timesteps) if i in static else have[i] for i in node.inputs]
            listen(node, given)
            have[node] = each_in_time(node, given, fire, cumulative=node in plan.cumulative)
        if node in plan.frontier:
            told = [have[node] if node in static else said(fire, have[node], delay) for delay in delays]
            means[node] = torch.cat(told) if len(told) > 1 else told[0]
        for source in node.inputs:
            left[source] -= 1
            if not left[source]:
                del have[source]
    for node in plan.head:
        means[node] = node.op(*(means[i] for i in node.inputs))
    return tuple(means[o] for o in graph.outputs)


def over_time(value: Tensor, timesteps: int) -> Tensor:
    """The same value at every step: [batch, …] -> [steps, batch, …], without the memory."""
    return value.expand(timesteps, *value.shape)


def refuse_astray(graph: Graph, nodes: Iterable[Node]) -> None:
    """`Unsupported` where the batch does not stand first: steps and batch are run as one dimension."""
    if astray := [node for node in nodes if node.shape[:1] != (BATCH,)]:
        raise Unsupported(
            f"{graph.name} cannot be run operator by operator",
            [
                (node.where, f"the batch does not stand first in its {show_shape(node.shape)}")
                for node in astray
            ],
        )


def each_in_time(node: Node, values: Sequence[Tensor], fire: Fire, *, cumulative: bool) -> Tensor:
    """What `node` makes of `values` [steps, batch, …] of all steps: [steps, batch, …]."""
    if isinstance(node.op, Stateful):
        return fire(node, values[0])
    if cumulative and not isinstance(fire, InWindows):  # whose steps say what was said so far
        return _cumulative(node.op, values)
    return each_step(node.op, values)


def each_step(op: Op, values: Sequence[Tensor]) -> Tensor:
    """An op without a state, all steps as one batch."""
    result = op(*(v.flatten(0, 1) for v in values))
    return result.reshape(*values[0].shape[:2], *result.shape[1:])


def _cumulative(op: Op, values: Sequence[Tensor]) -> Tensor:
    """Telescoping: the changes of the op over running sums (homogeneous), or of t · op over running means."""
    sums = [v.cumsum(0) for v in values]
    if op.homogeneous:
        return _changes(each_step(op, sums))
    time = torch.arange(1, len(sums[0]) + 1, device=sums[0].device, dtype=sums[0].dtype)

    def along(value: Tensor) -> Tensor:
        return time.reshape(-1, *[1] * (value.dim() - 1))

    result = each_step(op, [s / along(s) for s in sums])
    return _changes(result * along(result))


def _changes(totals: Tensor) -> Tensor:
    """What each step adds to the total before it."""
    return torch.diff(totals, dim=0, prepend=torch.zeros_like(totals[:1]))
