"""How to train, whatever the recipe; the length of each step; and the optimizer that takes it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from calibrators.training._loss import Loss
from calibrators.training._network import Network
from converter.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """How to train, whatever the recipe. `batch_size` is that of all processes together."""

    epochs: int = 10
    batch_size: int = 64
    lr: float = 1e-3
    optimizer: str = "adamw"
    weight_decay: float = 1e-4
    momentum: float = 0.9
    warmup: float = 0.05
    """The share of all steps over which the step length rises."""
    clip: float = 1.0
    """The largest norm of a step's gradient; longer ones are shortened."""
    loss: Loss = field(default_factory=Loss)
    percentile: float = 99.9
    """Where λ begins: this percentile of the ANN's activations."""
    calibration: int = 512
    """On so many samples."""
    precision: str = "float32"
    seed: int = 0
    checkpoint_every: int | None = None
    """Steps between checkpoints; None is an epoch."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for what cannot be."""
        for name in ("epochs", "batch_size", "calibration", "checkpoint_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name} is {value}; it is at least 1")
        if not self.lr > 0 or not self.clip > 0:
            raise UsageError("the length of a step and of a gradient lie above 0")


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    """The length of this step of `steps`: up a line to lr, then down a cosine towards 0."""
    warm = max(1, round(settings.warmup * steps))
    if step < warm:
        return settings.lr * (step + 1) / warm
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def optimizer_of(network: Network, settings: Settings) -> torch.optim.Optimizer:
    """Weights decay; biases and thresholds do not (a recipe has its own penalty on these)."""
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in network.parameters.items() if n.endswith(".weight")]},
        {
            "params": [p for n, p in network.parameters.items() if not n.endswith(".weight")],
            "weight_decay": 0.0,
        },
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, settings.lr, settings.momentum, weight_decay=settings.weight_decay)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, settings.lr, weight_decay=settings.weight_decay)
    raise UsageError(f"there is no optimizer {settings.optimizer!r}", hint="adamw or sgd")
