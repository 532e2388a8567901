"""A run of a spiking graph as a list of instructions over memory that is used again at every step.

Steps run in chunks of K: what has no state acts on the K·B values of a chunk at once, [K·B, …] with the steps
outermost; what has a state goes through them one after the other, in place. K = 1 is step-major (one step
through all layers), a larger K layer-major over chunks. The spikes are the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

from torch import Tensor

from converter.engine.codes import Codes, Spikes, Value, Weighed
from converter.engine.frame import Frame
from converter.engine.functions import Function
from converter.engine.instructions import AddTo, Apply, Fire, Round, Telescope, TelescopeMean
from converter.engine.whole import Decode, Move
from converter.engine.whole import Fire as FireCodes
from converter.graph import BATCH, Graph, Input, Listener, Node
from converter.ops import Add, Affine, AvgPool, Conv, ConvTranspose, Grid, Linear, MaxPool
from converter.plan import Plan
from converter.stateful import Stateful

Instruction = Callable[[Frame], None]


@dataclass(frozen=True)
class Program:
    """The instructions of a step, each with its node and the values that nothing reads after it."""

    instructions: tuple[tuple[Node, Instruction, tuple[Node, ...]], ...]
    inputs: tuple[Node, ...]
    """Those whose value is given at each step."""
    frontier: tuple[Node, ...]
    chunks: bool
    """Whether several steps can be run as one batch: where the batch stands first in every value."""

    def advance(self, frame: Frame, steps: int, listen: Listener | None = None) -> list[list[Tensor]]:
        """Run a chunk of `steps`; for each, what the read-out sums up. These values die with the next chunk.

        `listen(node, value)` hears every value of every step, node by node; it may not keep it.
        """
        frame.steps = steps
        for node in self.inputs:
            tell(listen, frame, node)
        for node, run, done in self.instructions:
            run(frame)
            if node in frame.values:
                tell(listen, frame, node)
            for each in done:
                frame.values.pop(each, None)
        found = [
            [frame.at(frame.values[n], k) if n in frame.values else frame.static[n] for n in self.frontier]
            for k in range(steps)
        ]
        frame.values.clear()
        frame.time += steps
        return found


def wanted(plan: Plan, codes: Codes, told: Container[Node] | None) -> tuple[frozenset[Node], frozenset[Node]]:
    """Of which nodes of a step values are needed, and of which that only move spikes their codes."""
    values = {n for n in plan.step if n in plan.frontier or (told is not None and n in told)}
    moved: set[Node] = set()
    for node in reversed(plan.step):
        if (charge := codes.charges.get(node)) is not None:
            values |= {t.source for t in charge.terms if isinstance(t, Value)}
            moved |= {t.source for t in charge.terms if isinstance(t, Weighed | Spikes)}
        elif node in codes.codes and node in moved:
            moved.update(node.inputs)
        elif node in values:
            values.update(node.inputs)
    return frozenset(values), frozenset(moved)


def tell(listen: Listener | None, frame: Frame, node: Node) -> None:
    """Let `listen` hear each step of what `node` says in this chunk."""
    if listen is not None:
        for step in range(frame.steps):
            listen(node, frame.at(frame.values[node], step))


def compiled(
    graph: Graph,
    plan: Plan,
    functions: Mapping[Node, Function],
    codes: Codes | None = None,
    told: Container[Node] | None = None,
) -> Program:
    """The program of `graph`; `functions` says how each of its ops is computed.

    `codes` run in whole numbers; then values are made only where an op without codes or the read-out needs
    them, and where a node is in `told` (None: no listener; one who does not say what it hears is told all).
    """
    users = graph.users()
    stepped = frozenset(plan.step)

    def reusable(node: Node) -> bool:
        """Whether the one that reads `node` may write over it."""
        mine = node in stepped and node not in plan.cumulative and (owns(node) or node.op in FIRING)
        return mine and len(users[node]) == 1 and node not in plan.frontier

    FIRING = {n.op for n in plan.step if isinstance(n.op, Stateful)}

    def instruction(node: Node) -> Instruction:
        if isinstance(node.op, Stateful):
            return Fire(node, node.op, reusable(node.inputs[0]))
        if node in plan.cumulative and node.op.homogeneous:
            own = owns(node)
            return Telescope(
                node,
                functions[node] if own else copying(functions[node]),
                tuple(own and reusable(i) for i in node.inputs),
            )
        if node in plan.cumulative:
            return TelescopeMean(node, functions[node])
        if isinstance(node.op, Add) and len(node.inputs) == 2:
            for total, other in (node.inputs, node.inputs[::-1]):
                if reusable(total) and total.shape == node.shape:
                    return AddTo(node, total, other)
        if isinstance(node.op, Grid):
            return Round(node, node.op, reusable(node.inputs[0]))
        return Apply(node, functions[node])

    lines: list[tuple[Node, Instruction, tuple[Node, ...]]] = []
    values, moved = wanted(plan, codes, told) if codes is not None else (stepped, frozenset[Node]())
    for node in plan.step:
        run: list[Instruction] = []
        if codes is not None and node in codes.charges:
            run.append(FireCodes(codes.charges[node]))
        elif codes is not None and node in moved:
            run.append(Move(node, codes.codes[node].zero))
        if node in values:
            coded = codes is not None and (node in codes.charges or node in moved)
            run.append(Decode(node, codes.codes[node]) if codes and coded else instruction(node))
        if not isinstance(node.op, Input):
            lines += [(node, each, ()) for each in run[:-1]]
            lines += [(node, each, plan.last_read.get(node, ())) for each in run[-1:]]
    given = tuple(node for node in plan.step if isinstance(node.op, Input))
    read = {i for node in plan.step for i in node.inputs} | stepped
    chunks = graph.batch is None and all(
        n.shape[:1] == (BATCH,) or (n not in stepped and not any(d >= BATCH for d in n.shape)) for n in read
    )
    return Program(tuple(lines), given, plan.frontier, chunks)


def owns(node: Node) -> bool:
    """Whether the result is memory of its own, which may be written over once it has been read."""
    if isinstance(node.op, Affine):
        return node.op.scale is not None or node.op.shift is not None
    return isinstance(node.op, Conv | ConvTranspose | Linear | AvgPool | MaxPool) or (
        isinstance(node.op, Add) and len(node.inputs) > 1
    )


def copying(function: Function) -> Function:
    """A function whose result is never its argument's memory."""
    return lambda *inputs: function(*inputs).clone()
