"""Which samples a step of training sees, and what is done to them: functions of (seed, epoch, sample) alone.

So a run that was interrupted sees what it would have seen, and several processes see together what one would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from converter.errors import DataError, UsageError

KEPT = 2**31
"""Bytes of prepared samples that are kept in memory; more are read anew each time."""
READ = 100
"""How many samples are read at a time."""
AUGMENTATIONS = ("crop", "flip", "zoom", "erase")
Transform = Callable[[Tensor], Tensor]


class Source(Protocol):
    """Samples by index, as `converter.data.Source` has them."""

    @property
    def labelled(self) -> bool:
        """Whether every sample has a label."""

    def batches(self, indices: Sequence[int], size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """(x, labels) of these samples, `size` at a time."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of `source` to train on, and those held out to see how it goes."""

    source: Source
    train: tuple[int, ...]
    held_out: tuple[int, ...]
    _kept: dict[int, tuple[Tensor, Tensor | None]] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(source: Source, pool: Sequence[int], validation: float, seed: int) -> Samples:
        """A `validation` share of `pool` is held out, drawn with `seed`.

        Raises `DataError` when that leaves nothing on either side.
        """
        drawn = np.random.RandomState(seed).permutation(np.asarray(pool))
        count = round(validation * len(drawn))
        if not 0 < count < len(drawn):
            raise DataError(
                f"{len(drawn)} samples, {validation:g} of them held out, are not enough to train on",
                hint="--validation is the share that is held out, above 0 and below 1",
            )
        return Samples(source, tuple(sorted(drawn[count:].tolist())), tuple(sorted(drawn[:count].tolist())))

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """(x, labels) of these samples, in this order."""
        missing = [i for i in dict.fromkeys(indices) if i not in self._kept]
        if missing:
            self._read(missing)
        xs, ys = zip(*(self._kept[i] for i in indices), strict=True)
        found = torch.stack(xs), None if ys[0] is None else torch.stack(ys)
        size = found[0][0].nbytes
        if len(self._kept) * size > KEPT:
            self._kept.clear()
        return found

    def _read(self, indices: Sequence[int]) -> None:
        for start in range(0, len(indices), READ):
            some = indices[start : start + READ]
            for x, y in self.source.batches(some, len(some)):
                labels = [None] * len(x) if y is None else list(y)
                self._kept.update(zip(some, zip(x, labels, strict=True), strict=True))


def order(samples: Sequence[int], seed: int, epoch: int) -> list[int]:
    """The samples in the order of this epoch."""
    # RandomState's stream is frozen: the same seed draws the same order under every version of numpy.
    drawn: list[int] = np.random.RandomState([seed, epoch]).permutation(np.asarray(samples)).tolist()
    return drawn


def augmented(
    x: Tensor, indices: Sequence[int], transform: Transform | None, seed: int, epoch: int
) -> Tensor:
    """Each sample of `x` transformed by a draw of its own, which (seed, epoch, its index) decides."""
    if transform is None or not len(x):
        return x
    changed = []
    with torch.random.fork_rng(devices=[]):
        for image, index in zip(x, indices, strict=True):
            torch.manual_seed(int(np.random.RandomState([seed, epoch, index]).randint(2**31)))
            changed.append(transform(image))
    return torch.stack(changed)


def transform_of(names: Sequence[str], shape: Sequence[int], layout: str) -> Transform | None:
    """What is done to one sample, in this order.

    `crop`: padded by an eighth with zeros, cut out anywhere; `flip`: left and right, or not; `zoom`: a part
    of it, from two fifths of its area, as large as the whole (Szegedy et al., CVPR 2015); `erase`: a
    rectangle set to zero, or not (Zhong et al., AAAI 2020).

    `shape` is the model's input, batch first. Raises `UsageError` for what is no image.
    """
    if not names:
        return None
    for name in names:
        if name not in AUGMENTATIONS:
            raise UsageError(f"there is no augmentation {name!r}", hint=f"{', '.join(AUGMENTATIONS)} or none")
    if len(shape) != 4:
        raise UsageError(f"--augment {','.join(names)} is for images, the input has {len(shape) - 1} axes")
    from converter.vision import torchvision

    torchvision()
    from torchvision.transforms import v2

    last = layout == "nhwc"
    height, width = (shape[1], shape[2]) if last else (shape[2], shape[3])
    known: dict[str, Any] = {
        "crop": v2.RandomCrop((height, width), padding=max(1, max(height, width) // 8)),
        "flip": v2.RandomHorizontalFlip(),
        "zoom": v2.RandomResizedCrop((height, width), scale=(0.4, 1.0), antialias=True),
        "erase": v2.RandomErasing(),
    }
    chain = [known[name] for name in names]

    def transform(image: Tensor) -> Tensor:
        image = image.movedim(-1, 0) if last else image
        for one in chain:
            image = one(image)
        return image.movedim(0, -1) if last else image

    return transform
