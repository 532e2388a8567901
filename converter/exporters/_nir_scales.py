"""A NIR graph without Scale nodes, as far as weights can say them: few tools read a Scale.

A Scale behind weights that nothing else reads goes into them: their rows and their bias. Any other becomes a
diagonal convolution or matrix; one that differs from place to place, or would be too wide, stays.
"""

from __future__ import annotations

import nir
import torch

from converter.exporters._nir_nodes import array, per_channel, scale

Nodes = dict[str, nir.NIRNode]
Edges = list[tuple[str, str]]


def without_scales(nodes: Nodes, edges: Edges) -> tuple[Nodes, Edges]:
    """The same graph."""
    nodes, edges = dict(nodes), list(edges)
    for name in [n for n, node in nodes.items() if isinstance(node, nir.Scale)]:
        factor = torch.from_numpy(nodes[name].scale)
        source, *more = (a for a, b in edges if b == name)
        each = per_channel(factor)
        alone = not more and sum(a == source for a, _ in edges) == 1
        if each is not None and alone and isinstance(nodes[source], nir.Conv2d | nir.Affine):
            nodes[source] = _scaled(nodes[source], each)
            del nodes[name]
            edges = [(source if a == name else a, b) for a, b in edges if b != name]
        else:
            nodes[name] = scale(factor)
    return nodes, edges


def _scaled(node: nir.NIRNode, each: torch.Tensor) -> nir.NIRNode:
    """Weights whose outputs are `each` as large."""
    weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
    rows, added = weight * each.reshape(-1, *[1] * (weight.dim() - 1)), bias * each
    if isinstance(node, nir.Affine):
        return nir.Affine(array(rows), array(added))
    return nir.Conv2d(
        node.input_shape, array(rows), node.stride, node.padding, node.dilation, node.groups, array(added)
    )
