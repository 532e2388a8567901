"""NIR nodes from weights, and what a factor does to them: arrays in, nodes out, nothing of graphs."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor

WIDEST = 2**20
"""How many weights a diagonal matrix may have: beyond, a pool or a scale stays the node of that name."""


def diagonal(channels: int, kernel: Sequence[int], value: float) -> Tensor | None:
    """The convolution of each channel by itself, `value` everywhere; None where that would be too wide."""
    if channels * channels * prod(kernel) > WIDEST:
        return None
    weight = torch.zeros(channels, channels, *kernel)
    weight[torch.arange(channels), torch.arange(channels)] = value
    return weight


def whole(weight: Tensor, groups: int) -> Tensor:
    """The same convolution without groups: nir 1.0.8 takes one group's channels for those of the input."""
    out, each = len(weight) // groups, weight.shape[1]
    full = weight.new_zeros(len(weight), each * groups, *weight.shape[2:])
    for g in range(groups):
        full[g * out : (g + 1) * out, g * each : (g + 1) * each] = weight[g * out : (g + 1) * out]
    return full


def absorbed(weight: Tensor, factor: Tensor) -> Tensor:
    """The weights of each input channel times its factor."""
    each = factor.reshape(len(factor), -1)[:, 0]
    return weight * each.reshape(1, -1, *[1] * (weight.dim() - 2))


def conv(
    weight: Tensor, bias: Tensor, windows: Sequence[Sequence[int]], shape: tuple[int, ...]
) -> nir.NIRNode:
    """A convolution of what has `shape`; `windows` are stride, padding and dilation."""
    return nir.Conv2d((shape[1], shape[2]), array(weight), *map(tuple, windows), 1, array(bias))


def affine(weight: Tensor, bias: Tensor) -> nir.NIRNode:
    """A matrix and what it adds."""
    return nir.Affine(array(weight), array(bias))


def scale(factor: Tensor) -> nir.NIRNode:
    """Each value times its factor: in weights, which all tools read, if it is one a channel; or a Scale."""
    each = per_channel(factor)
    weight = None if each is None else diagonal(len(factor), (1,) * (factor.dim() - 1), 1.0)
    if each is None or weight is None:
        return nir.Scale(array(factor))
    weight, zero = absorbed(weight, each), torch.zeros(len(factor))
    if factor.dim() == 1:
        return affine(weight, zero)
    return conv(weight, zero, ((1, 1), (0, 0), (1, 1)), tuple(factor.shape))


def per_channel(factor: Tensor) -> Tensor | None:
    """The factor of each channel, where all places of one have the same."""
    flat = factor.reshape(len(factor), -1)
    return flat[:, 0] if factor.dim() in (1, 3) and bool((flat == flat[:, :1]).all()) else None


def full(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A parameter of a neuron for each of its neurons; [C, 1, 1], or with a batch of one."""
    return value.reshape(value.shape[max(value.dim() - len(shape), 0) :]).expand(shape)


def times(factor: Tensor | None, by: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A factor, None being 1, times another."""
    wide = full(by, shape)
    return wide if factor is None else factor * wide


def equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two factors are the same."""
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def array(value: Tensor) -> Any:
    """A tensor for NIR."""
    return np.ascontiguousarray(value.detach().cpu().numpy())
