"""torchvision's data sets by name, from where they already are. Nothing is ever downloaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from converter.errors import DataError
from converter.preprocessing import Array
from converter.registry import did_you_mean
from converter.sources.reading import Reading, digest_arrays, no_part, parts_of, pixels
from converter.vision import torchvision

BOTH = ("train", "test")


def read_torchvision(name: str, part: str | None, root: Path) -> Reading:
    """The data set `name` below `root`: `part`, or train and test. Raises `DataError`."""
    datasets = torchvision().datasets
    if name not in datasets.__all__:
        raise DataError(
            f"there is no file or folder {name}, and no torchvision data set of that name",
            hint=did_you_mean(name, tuple(sorted(datasets.__all__))).partition(" (of:")[0],
        )
    kind = getattr(datasets, name)
    takes = inspect.signature(kind).parameters
    if "train" in takes and part not in (None, *BOTH):
        raise no_part(name, str(part), BOTH)
    in_parts = "train" in takes or "split" in takes
    if part is not None and not in_parts:
        raise no_part(name, part, ())
    wanted = ((part,) if part else BOTH) if in_parts else ("",)
    opened = {p: _open(kind, takes, p, root) for p in wanted}
    parts = parts_of({p: len(dataset) for p, dataset in opened.items()})

    def read(index: int, channels: int | None) -> tuple[Array, int | None]:
        here = next(p for p, samples in parts.items() if index in samples)
        sample, label = opened[here][index - parts[here].start]
        if not isinstance(sample, Image.Image) or not isinstance(label, int | np.integer):
            what = f"{type(sample).__name__} and {type(label).__name__}"
            raise DataError(f"{name} does not give images with one label each, but {what}")
        return pixels(sample, channels), int(label)

    def values() -> Iterator[Array]:
        for index in range(sum(map(len, opened.values()))):
            image, label = read(index, None)
            yield image
            yield np.asarray(label)

    classes = tuple(map(str, getattr(next(iter(opened.values())), "classes", ())))
    named = {p: samples for p, samples in parts.items() if p}
    size = sum(map(len, opened.values()))
    return Reading(size, read, True, lambda: digest_arrays(values()), classes, named)


def _open(kind: Callable[..., Any], takes: Any, part: str, root: Path) -> Any:
    options: dict[str, Any] = {"download": False} if "download" in takes else {}
    if "train" in takes:
        options["train"] = part == "train"
    elif part:
        options["split"] = part
    try:
        return kind(root, **options)
    except (RuntimeError, OSError, ValueError, TypeError, ImportError) as error:
        name = getattr(kind, "__name__", "")
        raise DataError(
            f"torchvision's {name} cannot be opened below {root}",
            why=str(error).splitlines()[0] if str(error) else type(error).__name__,
            hint=f"nothing is downloaded unasked: get it with torchvision.datasets.{name}('{root}', "
            "download=True), or say where it is with --data-root",
        ) from error
