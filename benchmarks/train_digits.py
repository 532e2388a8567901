"""Train the embedded default, `converter/models/digits.onnx`: a small residual network on handwritten digits.

    python -m benchmarks.train_digits [-o converter/models/digits.onnx]

The data are scikit-learn's 1797 digits, 8x8 pixels divided by 16, split as the source `digits` splits them:
1198 to train on, 599 held out and looked at once, after the last epoch. Every epoch sees each image shifted
by at most one pixel (zeros come in). Everything is seeded, and one thread adds in one order: the same
versions on the same processor give the same file. The file keeps its BatchNormalization nodes, so that the
demo has some to fold, and says in its metadata how it came to be.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.data import open_source

EPOCHS, BATCH_SIZE, PEAK_RATE, WEIGHT_DECAY, SMOOTHING = 60, 64, 1e-2, 5e-3, 0.1
TARGET = Path(__file__).parents[1] / "converter" / "models" / "digits.onnx"


class Layer(nn.Sequential):
    """Conv 3x3 without bias, then BatchNorm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))


class Digits(nn.Module):
    """[N, 1, 8, 8] -> [N, 10]: two residual stages that meet in a concatenation, and a linear head.

    stem 16@8x8 -> residual block -> pool (maximum) -> 32@4x4 residual block; both stages, pooled to 2x2, are
    concatenated (48 channels) and read by one linear layer.
    """

    def __init__(self, pool: Callable[[Tensor, int], Tensor] = F.max_pool2d) -> None:
        super().__init__()
        self.pool = pool
        self.stem = Layer(1, 16)
        self.first, self.second = Layer(16, 16), Layer(16, 16)
        self.widen = Layer(16, 32)
        self.third, self.fourth = Layer(32, 32), Layer(32, 32)
        self.head = nn.Linear(48 * 4, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(self.stem(image))
        early = F.relu(x + self.second(F.relu(self.first(x))))
        y = F.relu(self.widen(self.pool(early, 2)))
        late = F.relu(y + self.fourth(F.relu(self.third(y))))
        both = torch.cat((self.pool(early, 4), self.pool(late, 2)), dim=1)
        logits: Tensor = self.head(both.flatten(1))
        return logits


def shifted(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image moved by -1, 0 or 1 pixel along each axis."""
    n, _, height, width = images.shape
    padded = F.pad(images, (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, n, 1), generator=random)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def train(
    images: Tensor, labels: Tensor, seed: int = 0, pool: Callable[[Tensor, int], Tensor] = F.max_pool2d
) -> Digits:
    """The network after `EPOCHS` of AdamW under a one-cycle learning rate, in evaluation mode."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    network = Digits(pool)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * (len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK_RATE, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(images), generator=random)
        for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            chosen = order[start : start + BATCH_SIZE]
            logits = network(shifted(images[chosen], random))
            loss = F.cross_entropy(logits, labels[chosen], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def export(network: Digits, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX file with a free batch dimension, its BatchNormalization kept."""
    with warnings.catch_warnings():
        # The exporter that keeps BatchNormalization is the one torch calls legacy, and says so.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(2, 1, 8, 8),),
            path,
            dynamo=False,
            opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )
    model = onnx.load(path)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def main() -> None:
    """Train, measure on the held-out third, write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=TARGET)
    path: Path = parser.parse_args().output
    torch.set_num_threads(1)
    source = open_source("digits")
    parts = {name: next(source.batches(indices, len(indices))) for name, indices in source.parts.items()}
    (images, labels), (unseen, truth) = parts["train"], parts["test"]
    assert labels is not None
    assert truth is not None
    network = train(images, labels)
    with torch.no_grad():
        right = int((network(unseen).argmax(1) == truth).sum())
    metadata = {
        "accuracy": f"{right / len(truth):.4f} ({right} of {len(truth)} held-out images)",
        "data": "scikit-learn digits (UCI Optical Recognition of Handwritten Digits), 8x8",
        "split": "held out: the first 599 of numpy.random.RandomState(0).permutation(1797)",
        "preprocessing": "pixels 0..16 divided by 16, one channel",
        "trained_by": "benchmarks/train_digits.py, seed 0",
    }
    export(network, path, metadata)
    print(f"{path}: {path.stat().st_size} bytes, accuracy {metadata['accuracy']}")


if __name__ == "__main__":
    main()
