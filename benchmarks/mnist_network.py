"""A small MNIST network, trained from scratch on all 60,000 images: two convolutions, max-pools, two layers.

    conv 8, 5x5 · relu · max-pool 2 · conv 16, 5x5 · relu · max-pool 2 · linear 64 · relu · linear 10

It is what the benchmark `training` begins from, and written as an ONNX file like any other.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._common import SHARED
from converter.data import open_source

EPOCHS, BATCH_SIZE, RATE = 3, 100, 2e-3


def network(pool: type[nn.Module] = nn.MaxPool2d) -> nn.Sequential:
    """The layers."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), pool(2)),
        *(nn.Conv2d(8, 16, 5, padding=2), nn.ReLU(), pool(2)),
        *(nn.Flatten(), nn.Linear(16 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def train(
    images: Tensor,
    labels: Tensor,
    epochs: int = EPOCHS,
    seed: int = 0,
    pool: type[nn.Module] = nn.MaxPool2d,
) -> nn.Sequential:
    """The network after AdamW under a one-cycle learning rate."""
    torch.manual_seed(seed)
    made, steps = network(pool), epochs * (len(images) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(made.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images))[: steps // epochs * BATCH_SIZE].split(BATCH_SIZE):
            loss = F.cross_entropy(made(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return made.eval()


def make(path: Path, pool: type[nn.Module] = nn.MaxPool2d) -> Path:
    """Train it and write it to `path`."""
    source = open_source(f"{SHARED}/data/mnist.npz:train", expected=(1, 1, 28, 28))
    images, labels = next(source.batches(range(len(source)), len(source)))
    assert labels is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this exporter legacy
        torch.onnx.export(
            train(images, labels, pool=pool),
            (torch.zeros(2, 1, 28, 28),),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )
    return path
