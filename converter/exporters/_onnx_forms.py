"""What the forms of ops in ONNX have in common: the table, how to enter it, what several need.

A form is (writer, node, names of the inputs) -> name of the result. What newer opsets have one operator for
is written with it, so that a reader finds it again; older ones get the same from simpler operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from converter.errors import Refusal
from converter.exporters._onnx import Writer
from converter.graph import Node, Op

Form = Callable[[Writer, Node, Sequence[str]], str]
FORMS: dict[type[Op], Form] = {}


def form(*kinds: type[Op]) -> Callable[[Form], Form]:
    """Decorator: this function writes ops of these kinds, and of kinds derived from them."""

    def keep(function: Form) -> Form:
        FORMS.update(dict.fromkeys(kinds, function))
        return function

    return keep


def plain(kind: str, *fields: str, since: int = 1, **named: str) -> Form:
    """The form of an op that is the operator `kind`: attributes are these fields, or `attribute=field`."""
    names = {**{f: f for f in fields}, **named}

    def write(w: Writer, node: Node, inputs: Sequence[str]) -> str:
        needs(w, kind, since)
        return w.add(kind, *inputs, **{a: getattr(node.op, f) for a, f in names.items()})

    return write


def needs(w: Writer, kind: str, since: int) -> None:
    """Raise `Refusal` where the opset is older than the operator."""
    if w.opset < since:
        raise Refusal(f"{kind} is there from opset {since} on")


def of(node: Node, kind: type[Any]) -> Any:
    assert isinstance(node.op, kind)
    return node.op


def ends(amounts: Sequence[int], rank: int) -> tuple[list[int], list[int]]:
    """F.pad's amounts, last dimension first, as (before, after) of each of the last `rank` dimensions."""
    before, after = [0] * rank, [0] * rank
    for place, (first, last) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        before[rank - 1 - place], after[rank - 1 - place] = first, last
    return before, after


def reduced(w: Writer, kind: str, x: str, dims: tuple[int, ...], *, keep: bool) -> str:
    """`kind` over `dims`, which became an input in opset 18, and in 13 for the sum."""
    if w.opset >= 18 or kind == "ReduceSum":
        return w.add(kind, x, w.integers(*dims), keepdims=int(keep))
    return w.add(kind, x, axes=list(dims), keepdims=int(keep))
