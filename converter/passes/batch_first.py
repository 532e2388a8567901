"""Values that are only moved go from batch first to batch first in one step: a channel shuffle is a Slice.

    Reshape → Transpose → Reshape → Gather …  =  y[n, j, …] = x[n, index[j], …]

Exports at batch 1 shuffle channels with the batch somewhere inside. What such a chain does to one sample is
read off by sending the numbers of its values through it, so nothing is said of how it was written; where
they come out in rows of the input, as channels do, rows are picked. A chain through anything that does more
than move, or that joins several values, stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from converter.graph import BATCH, Graph, Node, Op
from converter.ops import Gather, Reshape, Slice, Transpose

MOVES = Reshape | Transpose | Slice | Gather


def batch_first(graph: Graph) -> Graph:
    """The graph with the batch in front where values had it elsewhere on their way."""
    return graph.rewrite(_rule)


def _rule(node: Node) -> Node | None:
    """`node` in one step from the last value before it that has the batch in front, if others lie between."""
    if not _stands_first(node):
        return None
    chain = [node]
    while isinstance(chain[-1].op, MOVES):
        (source,) = chain[-1].inputs
        if _stands_first(source):
            return _replaced(node, source, chain) if len(chain) > 1 else None
        chain.append(source)
    return None


def _stands_first(node: Node) -> bool:
    return node.shape[:1] == (BATCH,)


def _replaced(node: Node, source: Node, chain: list[Node]) -> Node:
    """`node`, its values picked from `source` as the `chain` from it to there picks them."""
    numbers = torch.arange(prod(source.shape[1:])).reshape(1, *source.shape[1:])
    for each in reversed(chain):
        numbers = each.op(numbers)
    row = next(r for r in _rows(source) if _in_rows(numbers.flatten(), prod(r)))
    rows = (-1, prod(source.shape[1:]) // prod(row), *row)
    pick = _pick(numbers.flatten()[:: prod(row)] // prod(row), rows[1])
    kept = Reshape((-1, *node.shape[1:]))
    made = source
    for op in (kept,) if pick is None else (Reshape(rows), pick, kept):
        if not isinstance(op, Reshape) or op.shape[1:] != made.shape[1:]:
            made = Node.of(op, made, name=f"{node.name}.{op.kind.lower()}")
    return made if made is source else replace(made, name=node.name)


def _rows(source: Node) -> Iterator[tuple[int, ...]]:
    """The shapes that a row of a sample may have, the largest first: its last dimensions, all to none."""
    return (source.shape[i:] for i in range(1, len(source.shape) + 1))


def _in_rows(numbers: Tensor, size: int) -> bool:
    """Whether `numbers` are rows of so many, whole and in order."""
    if len(numbers) % size:
        return False
    rows = numbers.reshape(-1, size)
    return bool((rows[:, 0] % size == 0).all() and (rows == rows[:, :1] + torch.arange(size)).all())


def _pick(index: Tensor, of: int) -> Op | None:
    """What picks the rows `index` out of so many: None when all are taken as they stand."""
    places = index.tolist()
    step = places[1] - places[0] if len(places) > 1 else 1
    row = range(places[0], places[-1] + 1, step) if step > 0 else range(0)
    if places == list(range(of)):
        return None
    return Slice(1, row.start, row.stop, step) if places == list(row) else Gather(index, 1)
