"""One ONNX node at a time: what tests of operators build and look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import converter.ops  # noqa: F401  (registers the operators)
from converter.graph import BATCH, Input, Node
from converter.view import NodeView, lowerings

N = BATCH


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lower(
    kind: str, *inputs: tuple[int, ...] | Tensor | None, opset: int = 20, outputs: int = 1, **attributes: Any
) -> Any:
    """The lowering of one ONNX node; a tuple is the shape of a value of the network, a tensor a constant."""
    given = [Node(Input(), (), f"x{k}", i) if isinstance(i, tuple) else i for k, i in enumerate(inputs)]
    view = NodeView(kind, "node", opset, attributes, given, [f"y{i}" for i in range(outputs)])
    return lowerings.find(kind, opset)(view)


def chain(node: Node) -> list[str]:
    """The kinds from the input to this node."""
    return [*(chain(node.inputs[0]) if node.inputs else []), node.op.kind][-9:]


def all_nodes(ends: tuple[Node, ...]) -> Iterator[Node]:
    for end in ends:
        yield end
        yield from all_nodes(end.inputs)
