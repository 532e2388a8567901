"""Chains of Relu and Clip become one activation of the form clamp(x, 0, c), which a neuron can be.

clip(clip(x, a, b), c, d)  =  clip(x, clip(a, c, d), clip(b, c, d))
clip(x, a, b)              =  clip(x − a, 0, b − a) + a          a window that does not start at 0 is shifted
min(x, b)                  =  b − relu(b − x)
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from converter.graph import Graph, Node
from converter.ops import Affine, Clip, Relu


def merge_activation(graph: Graph) -> Graph:
    """One Relu, or one Clip from 0, for every chain of them."""
    return graph.rewrite(_merged).rewrite(_from_zero)


def _merged(node: Node) -> Node | None:
    bounds = _bounds(node)
    if bounds is None:
        return None
    low, high = bounds
    (source,) = node.inputs
    if (inner := _bounds(source)) is not None:
        merged = tuple(min(max(edge, low), high) for edge in inner)
        return replace(node, op=_clip(*merged), inputs=source.inputs)
    if low == -math.inf and high == math.inf:
        return source
    return replace(node, op=Relu()) if isinstance(node.op, Clip) and bounds == (0, math.inf) else None


def _from_zero(node: Node) -> Node | None:
    bounds = _bounds(node)
    if bounds is None or bounds[0] == 0:
        return None
    low, high = bounds
    return _mirrored(node, high) if low == -math.inf else _shifted(node, low, high)


def _bounds(node: Node) -> tuple[float, float] | None:
    """(low, high), low ≤ high: where they cross, ONNX lets the upper one win."""
    match node.op:
        case Relu():
            return 0.0, math.inf
        case Clip(low, high):
            top = math.inf if high is None else high
            return min(-math.inf if low is None else low, top), top
    return None


def _clip(low: float, high: float) -> Relu | Clip:
    if low == 0 and high == math.inf:
        return Relu()
    return Clip(None if low == -math.inf else low, None if high == math.inf else high)


def _shifted(node: Node, low: float, high: float) -> Node:
    moved = replace(node, op=Affine(None, torch.tensor(-low)), name=f"{node.name}.down")
    clipped = replace(node, op=_clip(0.0, high - low), inputs=(moved,))
    return replace(node, op=Affine(None, torch.tensor(low)), inputs=(clipped,), name=f"{node.name}.up")


def _mirrored(node: Node, high: float) -> Node:
    flip = Affine(torch.tensor(-1.0), torch.tensor(high))
    turned = replace(node, op=flip, name=f"{node.name}.down")
    cut = replace(node, op=Relu(), inputs=(turned,))
    return replace(node, op=flip, inputs=(cut,), name=f"{node.name}.up")
