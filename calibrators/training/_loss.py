"""What training makes small: distance from the labels, from the ANN's own answers, from its activations.

    (1 − d) · cross-entropy(labels)  +  d · τ² · KL(ANN/τ ‖ network/τ)   (Hinton et al., 2015)
                                     or d · Σ |network − ANN|² / Σ |ANN|², over all outputs
    + f · mean over layers of Σ |a − a_ANN|² / Σ a_ANN²
    + decay · Σ over layers of (λ / λ₀)²

All are means over the global batch: a process that holds a part of it divides by the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.divergence import SMALLEST, is_distribution
from converter.errors import DataError, UsageError

MATCHES = ("kl", "mse")
Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Loss:
    """`distill` d, the share of the ANN's answers; `match` how they are compared; `features` is f."""

    distill: float = 0.0
    temperature: float = 2.0
    match: str = "kl"
    features: float = 0.0

    def __post_init__(self) -> None:
        """Raise `UsageError` for weights that mean nothing."""
        if not 0 <= self.distill <= 1:
            raise UsageError(f"--distill is {self.distill:g}; it is a share, 0 to 1")
        if not self.temperature > 0 or not self.features >= 0:
            raise UsageError("--temperature lies above 0, --features is at least 0")

    @property
    def asks_the_ann(self) -> bool:
        """Whether the ANN has to run beside the network that is trained."""
        return self.distill > 0 or self.features > 0

    def refuse_unlabelled(self, where: str, labelled: bool) -> None:
        """Raise `DataError` when labels are asked for that are not there."""
        if self.distill < 1 and not labelled:
            raise DataError(
                f"{where} has no labels, and the loss is by labels",
                hint="--distill 1 learns from the ANN's own answers instead",
            )

    def __call__(
        self,
        outputs: tuple[Tensor, ...],
        activations: Values,
        labels: Tensor | None,
        ann: tuple[Tensor, ...],
        ann_activations: Values,
    ) -> Tensor:
        """The mean over the samples at hand; `ann` and `ann_activations` are empty where nobody asks."""
        total = outputs[0].new_zeros((), dtype=torch.float32)
        if self.distill < 1:
            assert labels is not None
            total = total + (1 - self.distill) * by_labels(outputs[0].float(), labels)
        if self.distill > 0:
            if self.match == "kl":
                distance = by_answers(outputs[0].float(), ann[0], self.temperature)
            else:
                distance = sum(map(relative, outputs, ann), total * 0)
            total = total + self.distill * distance
        if self.features > 0:
            each = [relative(activations[name], ann_activations[name]) for name in activations]
            total = total + self.features * torch.stack(each).mean()
        return total


def logarithm(answer: Tensor) -> Tensor:
    """The logarithm of the class probabilities on axis 1, also where the network ends in a Softmax."""
    if is_distribution(answer.detach()):
        return answer.clamp_min(SMALLEST).log()
    return answer.log_softmax(1)


def by_labels(answer: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of [batch, classes, …] against labels [batch]; dense answers share the label."""
    told = logarithm(answer).flatten(2).mean(2) if answer.dim() > 2 else logarithm(answer)
    return F.nll_loss(told, labels)


def by_answers(answer: Tensor, ann: Tensor, temperature: float) -> Tensor:
    """τ² · KL(ann/τ ‖ answer/τ) over axis 1, the mean over samples and places."""
    theirs = (logarithm(ann.float()) / temperature).log_softmax(1)
    ours = (logarithm(answer) / temperature).log_softmax(1)
    return temperature**2 * (theirs.exp() * (theirs - ours)).sum(1).mean()


def relative(value: Tensor, ann: Tensor) -> Tensor:
    """Σ |value − ann|² / Σ |ann|² for each sample, and their mean."""
    difference = (value.float() - ann.float()).flatten(1).square().sum(1)
    return (difference / ann.float().flatten(1).square().sum(1).clamp_min(SMALLEST)).mean()
