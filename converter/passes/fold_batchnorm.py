"""Batch normalisation, at inference, is a scale and a shift for each channel.

    y = scale·(x − mean)/√(var + ε) + bias  =  g·x + h,   g = scale/√(var + ε),  h = bias − g·mean

Becoming an `Affine` it can go where fold_affine takes it: back into the convolution before it, forward into
the one after it (after a pool, a Concat, the input), or stay as it is before an activation.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from converter.graph import Graph, Node
from converter.ops import Affine, BatchNorm
from converter.view import channelwise


def fold_batchnorm(graph: Graph) -> Graph:
    """Every BatchNorm as an Affine."""

    def rule(node: Node) -> Node | None:
        match node.op:
            case BatchNorm(scale, bias, mean, var, epsilon):
                gain = scale / torch.sqrt(var + epsilon)
                rank = len(node.shape)
                affine = Affine(channelwise(gain, rank), channelwise(bias - gain * mean, rank))
                return replace(node, op=affine)
        return None

    return graph.rewrite(rule)
