"""A simulation operator by operator: each node over all time steps before the next node begins.

The same spikes as `RateModel`, in another order: when a neuron is reached, its exact input over the whole run
is there. That is what calibration needs, and one convolution over steps × batch samples is faster than one
for each step. Memory is that of all steps of the values still to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from converter.errors import Unsupported
from converter.graph import BATCH, Graph, Node, Op, show_shape
from converter.neurons import Neuron
from converter.rate import Plan

Fire = Callable[[Node, Tensor], Tensor]
"""(neuron node, currents [steps, batch, …]) -> spikes [steps, batch, …]."""


def fire_in_turn(node: Node, currents: Tensor) -> Tensor:
    """The neuron's own steps, one after the other."""
    assert isinstance(node.op, Neuron)
    return node.op.scan(node.op.init(), currents)[1]


def unroll(graph: Graph, x: Tensor, timesteps: int, fire: Fire = fire_in_turn) -> tuple[Tensor, ...]:
    """The outputs after `timesteps` steps for a constant input current `x` [batch, …], one tensor each.

    Raises `Unsupported` where the batch does not stand first: steps and batch are run as one dimension.
    """
    plan = Plan.of(graph)
    if astray := [node for node in plan.step if node.shape[:1] != (BATCH,)]:
        raise Unsupported(
            f"{graph.name} cannot be run operator by operator",
            [
                (node.where, f"the batch does not stand first in its {show_shape(node.shape)}")
                for node in astray
            ],
        )
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
            have[node] = _run(node, given, fire, cumulative=node in plan.cumulative)
        if node in plan.frontier:
            means[node] = have[node] if node in static else have[node].mean(0)
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


def _run(node: Node, values: Sequence[Tensor], fire: Fire, *, cumulative: bool) -> Tensor:
    if isinstance(node.op, Neuron):
        return fire(node, values[0])
    return _cumulative(node.op, values) if cumulative else _each_step(node.op, values)


def _each_step(op: Op, values: Sequence[Tensor]) -> Tensor:
    """An op without a state, all steps as one batch."""
    result = op(*(v.flatten(0, 1) for v in values))
    return result.reshape(*values[0].shape[:2], *result.shape[1:])


def _cumulative(op: Op, values: Sequence[Tensor]) -> Tensor:
    """Telescoping: the changes of the op over running sums (homogeneous), or of t · op over running means."""
    sums = [v.cumsum(0) for v in values]
    if op.homogeneous:
        return _changes(_each_step(op, sums))
    time = torch.arange(1, len(sums[0]) + 1, device=sums[0].device, dtype=sums[0].dtype)

    def along(value: Tensor) -> Tensor:
        return time.reshape(-1, *[1] * (value.dim() - 1))

    result = _each_step(op, [s / along(s) for s in sums])
    return _changes(result * along(result))


def _changes(totals: Tensor) -> Tensor:
    """What each step adds to the total before it."""
    return torch.diff(totals, dim=0, prepend=torch.zeros_like(totals[:1]))
