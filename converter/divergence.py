"""How far the spiking network's answer is from the ANN's: the KL divergence of their class probabilities.

    KL(p ‖ q) = Σ_c p_c · (ln p_c − ln q_c)      p: the ANN's answer, q: the spiking network's; in nats

It sees what top-1 agreement does not: how sure both are, and of what else. Zero when they are the same. Where
the answer is not classes but values (boxes beside scores, a map), all outputs count, each by

    Σ (SNN − ANN)² / Σ ANN²
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST = 1e-12
"""What a probability counts at least: an answer of exactly zero stays finite, at 27.6 nats."""


def divergence(readout: Tensor, target: Tensor) -> Tensor:
    """KL(target ‖ readout) in nats for each sample, over the classes on axis 1: [batch], double precision.

    Both are scores [batch, classes, …] and go through softmax, or the target's are distributions already (a
    network that ends in Softmax: none negative, their sum 1), then both are taken as they are. Dense answers
    are averaged over their positions.
    """
    logarithm = _of_shares if is_distribution(target) else _of_scores
    ann, snn = logarithm(target.double()), logarithm(readout.double())
    return (ann.exp() * (ann - snn)).sum(1).reshape(len(target), -1).mean(1).clamp_min(0)


def is_distribution(values: Tensor) -> bool:
    """Whether all `values` [batch, classes, …] are shares of one along axis 1."""
    sums = values.double().sum(1)
    return bool((values >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), rtol=0, atol=1e-4)


def names_classes(target: Sequence[Tensor]) -> bool:
    """Whether they say which class: a single output, [batch, classes] or shares of one along axis 1."""
    return len(target) == 1 and (target[0].dim() == 2 or is_distribution(target[0]))


def squared_error(readouts: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Σ (readout − target)² / Σ target² of each sample, the mean over outputs: [batch], double precision."""
    each = []
    for said, ann in zip(readouts, target, strict=True):
        a, b = said.double().flatten(1), ann.double().flatten(1)
        each.append((a - b).square().sum(1) / b.square().sum(1).clamp_min(SMALLEST))
    return torch.stack(each).mean(0)


def _of_shares(values: Tensor) -> Tensor:
    return values.clamp_min(SMALLEST).log()


def _of_scores(values: Tensor) -> Tensor:
    return values.log_softmax(1)
