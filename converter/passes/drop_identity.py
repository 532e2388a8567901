"""What changes nothing goes: layouts that are already so, two layouts in a row, sums of one, scales by 1."""

from __future__ import annotations

from dataclasses import replace

import torch

from converter.graph import Graph, Node
from converter.ops import Add, Affine, Concat, Reshape, Transpose


def drop_identity(graph: Graph) -> Graph:
    """The graph without nodes that pass on what they get."""
    return graph.rewrite(_rule)


def _rule(node: Node) -> Node | None:
    match node:
        case Node(op=Reshape(), inputs=(Node(op=Reshape(), inputs=inner),)):
            return replace(node, inputs=inner)
        case Node(op=Reshape(), inputs=(source,)) if source.shape == node.shape:
            return source
        case Node(op=Transpose(second), inputs=(Node(op=Transpose(first), inputs=inner),)):
            return replace(node, op=Transpose(tuple(first[i] for i in second)), inputs=inner)
        case Node(op=Transpose(order), inputs=(source,)) if order == tuple(range(len(order))):
            return source
        case Node(op=Add() | Concat(), inputs=(source,)):
            return source
        case Node(op=Affine(scale, shift), inputs=(source,)) if source.shape == node.shape:
            plain = scale is None or bool(torch.all(scale == 1))
            return source if plain and (shift is None or bool(torch.all(shift == 0))) else None
    return None
