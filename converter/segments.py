"""A network cut where it fires: what lies between one layer of neurons and the next, and what that reads.

Whoever goes through a network layer by layer needs, at each, the current that comes in over the whole run.
All values on the way may be kept until their last reader had them, or, where samples are many or maps large,
what neurons emitted alone: then the rest is computed again, a few samples at a time, whenever it is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from converter.graph import Graph, Node, size_of
from converter.neurons import Neuron
from converter.plan import Plan
from converter.spike_bits import Packed
from converter.stateful import Stateful
from converter.unroll import Fire, each_in_time, over_time, refuse_astray

Kept = dict[Node, Tensor | Packed]
"""What is kept of some samples: [steps, batch, …], or [batch, …] of a value that no spike has reached."""


@dataclass(frozen=True)
class Segment:
    """The way to `end`, a layer of neurons or what mends their spikes.

    `nodes`, in order, are to be computed from what was kept; `keep` of these is what later segments read, and
    `done` what no later one does. `emits`: whether a later one reads what `end` emits.
    """

    end: Node
    nodes: tuple[Node, ...]
    keep: tuple[Node, ...]
    done: tuple[Node, ...]
    emits: bool


def segments(graph: Graph, *, sparing: bool) -> tuple[Segment, ...]:
    """The segments of `graph` in order; `sparing`: nothing but what neurons emit is kept from one to another.

    What comes after the last neurons belongs to none. Raises `Unsupported` where `unroll` does.
    """
    plan = Plan.of(graph)
    refuse_astray(graph, plan.step)
    there: set[Node] = set(graph.inputs)
    ways: list[tuple[Node, tuple[Node, ...]]] = []
    for end in (node for node in plan.step if emits(node)):
        ahead, waiting = set[Node](), [*end.inputs]
        while waiting:
            node = waiting.pop()
            if node not in there and node not in ahead:
                ahead.add(node)
                waiting += node.inputs
        ways.append((end, tuple(node for node in graph.order if node in ahead)))
        there |= {end} if sparing else {end, *ahead}
    last: dict[Node, int] = {}
    for place, (end, nodes) in enumerate(ways):
        own = set(nodes)
        last |= {source: place for node in (*nodes, end) for source in node.inputs if source not in own}
    return tuple(
        Segment(
            end,
            nodes,
            tuple(node for node in nodes if last.get(node, -1) > place),
            tuple(node for node, reader in last.items() if reader == place),
            end in last,
        )
        for place, (end, nodes) in enumerate(ways)
    )


def emits(node: Node) -> bool:
    """Whether a segment ends here."""
    return isinstance(node.op, Neuron) or (isinstance(node.op, Stateful) and node.op.mends_spikes)


@dataclass(frozen=True)
class Runner:
    """How values are computed: a run of `steps`, `fire` being what ops with a state do."""

    steps: int
    fire: Fire
    static: frozenset[Node]
    cumulative: frozenset[Node]

    @staticmethod
    def of(graph: Graph, steps: int, fire: Fire) -> Runner:
        """The runner for `graph`."""
        plan = Plan.of(graph)
        return Runner(steps, fire, frozenset(plan.static), plan.cumulative)

    def current(
        self,
        segment: Segment,
        kept: Kept,
        listen: Callable[[Node, Tensor], None] = lambda node, value: None,
        changed: Mapping[Node, Node] = MappingProxyType({}),
    ) -> Tensor:
        """What comes into the end of `segment`: [steps, batch, …]. What it is to keep goes into `kept`.

        `listen(node, value)` hears of each op on the way what comes in first, [steps, batch, …]. `changed`:
        nodes that are to compute what others do.
        """
        left = Counter(source for node in (*segment.nodes, segment.end) for source in node.inputs)
        values: dict[Node, Tensor] = {}

        def given(source: Node, reader: Node) -> Tensor:
            if source not in values:
                value = kept[source]
                values[source] = value.unpacked() if isinstance(value, Packed) else value
            timed = source in self.static and reader not in self.static
            return over_time(values[source], self.steps) if timed else values[source]

        for node in segment.nodes:
            arguments = [given(source, node) for source in node.inputs]
            if node in self.static:
                values[node] = node.op(*arguments)
            else:
                listen(node, arguments[0])
                meant = changed.get(node, node)
                values[node] = each_in_time(meant, arguments, self.fire, cumulative=node in self.cumulative)
            if node in segment.keep:
                kept[node] = values[node]
            del arguments  # which would outlive the next op's values
            for source in node.inputs:
                left[source] -= 1
                if not left[source]:
                    values.pop(source)
        return given(segment.end.inputs[0], segment.end)


def largest_in_time(graph: Graph) -> int:
    """How many values of a sample the largest value has that spikes have reached."""
    return max((size_of(node.shape) for node in Plan.of(graph).step), default=1)


def most_kept(parts: Sequence[Segment], bits: Callable[[Node], int]) -> int:
    """Bytes that a sample takes at the worst, `bits(node)` being those of each value of an end."""
    kept: dict[Node, int] = {}
    worst = 0
    for segment in parts:
        if segment.emits:
            kept[segment.end] = -(-size_of(segment.end.shape) * bits(segment.end) // 8)
        worst = max(worst, sum(kept.values()))
        for node in segment.done:
            kept.pop(node, None)
    return worst
