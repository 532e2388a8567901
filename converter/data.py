"""A SOURCE string becomes batches of (x, labels): what the pipeline knows of data.

    photos/  photos.zip        images; sub-folders are the labels, without them there are none
    photos.zip/test            the folder `test` of the archive
    samples.npz[:train|:test]  x, y; or train_x, train_y, test_x, test_y (x_train … too)
    samples.npy                x alone
    CIFAR10[:train|:test]      a torchvision data set that is on this machine already
    digits[:train|:test]       scikit-learn's 8x8 handwritten digits, always there

A source may have parts (`train`, `test`), from the file, from folders of these names, or from the data set.
A name after the colon takes that part alone. A folder that is called `digits` is `./digits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from converter.errors import DataError
from converter.graph import Shape
from converter.preprocessing import Array, Preprocessing, range_warning
from converter.sizing import Placement
from converter.sources.arrays import read_arrays, read_digits
from converter.sources.images import read_images
from converter.sources.reading import Reading
from converter.sources.tree import is_tree

DATA_ROOT = Path("~/.cache/ann2snn")
"""Where torchvision data sets are looked for."""

TRAIN, TEST = ("train",), ("test", "val", "valid", "validation")
"""What the part to calibrate on, and the part to measure on, may be called."""


@dataclass(frozen=True, eq=False)
class Source:
    """Samples behind one SOURCE string, ready for a model whose input has the shape `expected`."""

    name: str
    preprocessing: Preprocessing
    expected: Shape | None
    reading: Reading

    @property
    def labelled(self) -> bool:
        """Whether every sample has a label."""
        return self.reading.labelled

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels, by label; empty where they have none."""
        return self.reading.classes

    @property
    def parts(self) -> dict[str, range]:
        """The named parts, as indices of this source; empty when it is all one."""
        return self.reading.parts

    @cached_property
    def sha256(self) -> str:
        """Of the file; of names, sizes and contents of a folder; of the values of a data set."""
        return self.reading.digest()

    @property
    def names(self) -> tuple[str, ...]:
        """The files of the samples, by index; empty where they are none."""
        return self.reading.names

    def __len__(self) -> int:
        return self.reading.size

    def picture(self, index: int) -> tuple[Array, Placement]:
        """The image of a sample, 8 bits [height, width, 3 or nothing], and where it stands in the input.

        Raises `DataError` for samples that are no 8-bit images.
        """
        image, _ = self.reading.read(index, self.preprocessing.wanted_channels(self.expected))
        if (
            image.dtype != np.uint8
            or image.ndim not in (2, 3)
            or image.shape[2:] not in ((), (1,), (3,), (4,))
        ):
            raise DataError(f"{self.name} holds no 8-bit images, so nothing in them can be found and drawn")
        return image, self.preprocessing.placement(image)

    def batches(self, indices: Sequence[int], size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """(x, labels) for these samples, `size` at a time: x float32 [n, …] for the model, labels int64 [n].

        Labels are None when the source has none. Raises `DataError` for samples that do not fit the model,
        cannot be read, or hold NaN.
        """
        channels = self.preprocessing.wanted_channels(self.expected)
        for start in range(0, len(indices), size):
            samples = [self.reading.read(int(i), channels) for i in indices[start : start + size]]
            try:
                x = self.preprocessing([raw for raw, _ in samples], self.expected)
            except DataError as error:
                raise DataError(f"{self.name}: {error.problem}", why=error.why, hint=error.hint) from error
            yield x, torch.tensor([label for _, label in samples]) if self.labelled else None


@dataclass(frozen=True)
class Split:
    """Disjoint samples to calibrate and to measure on, as indices of a source, and the same in words."""

    calibration: tuple[int, ...]
    measurement: tuple[int, ...]
    calibration_words: str
    measurement_words: str


def open_source(
    source: str,
    preprocessing: Preprocessing | None = None,
    expected: Shape | None = None,
    *,
    labels: str | None = None,
    root: Path | str = DATA_ROOT,
) -> Source:
    """What `source` names. Nothing is downloaded; one sample is read, so that what does not fit is said now.

    `expected` is the shape of the model's input, batch first. `labels` for images: `folder` (sub-folders),
    `sorted` (every image is a class of its own, in the order of their names: one example a class), `none`, or
    None for sub-folders where there are any. Raises `DataError`.
    """
    name, part = _name_and_part(source)
    path = Path(name).expanduser()
    if name == "digits":
        reading = read_digits(part)
    elif is_tree(path):
        reading = read_images(path, part, labels)
    elif path.suffix.lower() in (".npz", ".npy") and path.is_file():
        reading = read_arrays(path, part)
    elif path.is_file():
        hint = "data are a folder or .zip of images, .npz, .npy, digits, or a torchvision data set"
        raise DataError(f"{name} is not a kind of data that is read", hint=hint)
    elif "/" in name or path.suffix:
        raise DataError(f"there is no file or folder {name}")
    else:
        from converter.sources.datasets import read_torchvision

        reading = read_torchvision(name, part, Path(root).expanduser())
    if not reading.size:
        raise DataError(f"{source} has no samples")
    opened = Source(source, preprocessing or Preprocessing(), expected, reading)
    next(opened.batches(range(1), 1))
    return opened


def split(source: Source, calibration: int, measurement: int | None, seed: int) -> Split:
    """`calibration` samples drawn with `seed`, and `measurement` others (None: all there are).

    From the train part and the test part where the source has both, else disjoint from its one pool.
    Raises `DataError` when there are not enough samples for both.
    """
    train = next((p for p in TRAIN if p in source.parts), None)
    test = next((p for p in TEST if p in source.parts), None)
    # RandomState's stream is frozen: the same seed draws the same samples under every version of numpy.
    random = np.random.RandomState(seed)
    if train and test:
        pool, rest = (random.permutation(np.asarray(source.parts[p])) for p in (train, test))
        names = train, test
    else:
        drawn = random.permutation(len(source))
        pool, rest = drawn, drawn[calibration:]
        names = "all", "the rest"
        if calibration >= len(drawn):
            raise DataError(
                f"{source.name}: {calibration} of {len(drawn)} samples for calibration leave none to measure",
                hint="calibrate on fewer samples, or give data with a train and a test part",
            )
    chosen, measured = pool[:calibration], np.sort(rest[:measurement])
    return Split(
        tuple(chosen.tolist()),
        tuple(measured.tolist()),
        _words(len(chosen), len(pool), names[0], seed),
        _words(len(measured), len(rest), names[1], seed),
    )


def _words(taken: int, available: int, name: str, seed: int) -> str:
    if taken == available:
        return f"all {taken} of {name}" if name not in ("all", "the rest") else f"{name} ({taken})"
    return f"{taken} of {available} in {name}, drawn with seed {seed}"


def _name_and_part(source: str) -> tuple[str, str | None]:
    name, colon, part = source.rpartition(":")
    if Path(source).expanduser().exists() or not (colon and name and part.isidentifier()):
        return source, None
    return name, part


__all__ = ["DATA_ROOT", "Preprocessing", "Source", "Split", "open_source", "range_warning", "split"]
