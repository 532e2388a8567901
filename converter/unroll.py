"""A simulation operator by operator: each node over all time steps before the next node begins.

The same spikes as `RateModel`, in another order: when a neuron is reached, its exact input over the whole run
is there. That is what calibration needs, and one convolution over steps × batch samples is faster than one
for each step. Memory is that of all steps of the values still to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from converter.graph import Graph, Input, Node
from converter.neurons import Neuron
from converter.rate import Plan

Fire = Callable[[Node, Tensor], Tensor]
"""(neuron node, currents [steps, batch, …]) -> spikes [steps, batch, …]."""


def fire_in_turn(node: Node, currents: Tensor) -> Tensor:
    """The neuron's own steps, one after the other."""
    assert isinstance(node.op, Neuron)
    return node.op.scan(node.op.init(), currents)[1]


def unroll(graph: Graph, x: Tensor, timesteps: int, fire: Fire = fire_in_turn) -> tuple[Tensor, ...]:
    """The outputs after `timesteps` steps for a constant input current `x` [batch, …], one tensor each."""
    plan = Plan.of(graph)
    static, step = set(plan.static), set(plan.step)
    left = {node: len(users) for node, users in graph.users().items()}
    have: dict[Node, Tensor] = {graph.inputs[0]: x}
    means: dict[Node, Tensor] = {}
    for node in graph:
        given = [have.get(i, means.get(i)) for i in node.inputs] if node in static | step else []
        if isinstance(node.op, Input):
            pass
        elif node in static:
            have[node] = node.op(*given)
        elif node in step:
            over_time = [
                v if i in step else v.expand(timesteps, *v.shape)
                for i, v in zip(node.inputs, given, strict=True)
            ]
            if isinstance(node.op, Neuron):
                have[node] = fire(node, over_time[0])
            elif node in plan.cumulative:
                have[node] = _cumulative(node, over_time)
            else:
                have[node] = _each_step(node, over_time)
        if node in plan.frontier:
            means[node] = have[node].mean(0) if node in step else have[node]
        for source in node.inputs:
            left[source] -= 1
            if not left[source]:
                have.pop(source, None)
    for node in plan.head:
        means[node] = node.op(*(means[i] for i in node.inputs))
    return tuple(means[o] for o in graph.outputs)


def _each_step(node: Node, values: Sequence[Tensor]) -> Tensor:
    """A linear op, all steps as one batch."""
    steps, batch = values[0].shape[:2]
    return node.op(*(v.flatten(0, 1) for v in values)).unflatten(0, (steps, batch))


def _cumulative(node: Node, values: Sequence[Tensor]) -> Tensor:
    """Telescoping: the changes of the op over the running sums (homogeneous), or of t · op over the running means."""
    steps, batch = values[0].shape[:2]
    sums = [v.cumsum(0) for v in values]
    time = torch.arange(1, steps + 1, device=sums[0].device, dtype=sums[0].dtype)
    if not node.op.homogeneous:
        sums = [s / time.reshape(-1, *[1] * (s.dim() - 1)) for s in sums]
    result = node.op(*(s.flatten(0, 1) for s in sums)).unflatten(0, (steps, batch))
    if not node.op.homogeneous:
        result = result * time.reshape(-1, *[1] * (result.dim() - 1))
    return torch.diff(result, dim=0, prepend=torch.zeros_like(result[:1]))
