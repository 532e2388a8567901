"""Which part each node of a spiking graph plays in a run.

static      depends on the constant input alone: computed once for an image (with direct current)
synapse     linear (or stepwise), so it acts on the spikes of each step
stateful    a neuron, which integrates and fires, or what mends a current or spikes over time
cumulative  not linear: y_t = Y_t − Y_{t−1} with Y_t = t·f(S_t / t), S_t the sum of its inputs so far, so
            the mean of y is f of the mean at every t; for a max-pool (homogeneous) Y_t = f(S_t), and no
            spike is lost or invented (algorithm: telescoping; LIPooling of Li & Zeng, IJCAI 2022,
            is the case of windows that do not overlap)
head        neither linear nor homogeneous and after the last neuron (Softmax), and all that follows it:
            applied to the mean over time, once for each read-out
"""

from __future__ import annotations

from dataclasses import dataclass

from converter.graph import Graph, Input, Node, Op
from converter.stateful import Stateful


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
                or ((each_step(node.op) or node.op.homogeneous) and not any(i in head for i in node.inputs))
            ):
                step[node] = None
            else:
                head[node] = None
        read = dict.fromkeys([i for node in head for i in node.inputs if i not in head])
        read |= dict.fromkeys(o for o in graph.outputs if o not in head)
        told = (isinstance(n.op, Stateful | Input) or each_step(n.op) for n in step)
        cumulative = frozenset(n for n, plain in zip(step, told, strict=True) if not plain)
        last = {source: node for node in step for source in node.inputs if source not in read}
        last_read = {n: tuple(s for s, reader in last.items() if reader is n) for n in step}
        return Plan(tuple(static), tuple(step), cumulative, tuple(head), tuple(read), last_read)


def each_step(op: Op) -> bool:
    """Whether `op` acts on the values of each step by themselves."""
    return op.linear or op.stepwise
