"""Images in a folder or a zip archive: `[part/]class/name.png`, or flat.

Sub-folders are the classes, numbered in the order of their names. Where they are called `train` and `test`
(or `val`), they are the parts, and their sub-folders are the classes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from converter.errors import DataError
from converter.preprocessing import Array
from converter.sources.reading import Reading, digest_bytes, no_part, parts_of, pixels
from converter.sources.tree import DAMAGE, open_tree

ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".tif", ".tiff"))
PARTS = frozenset(("train", "test", "val", "valid", "validation"))
LABELS = ("folder", "sorted", "none")

Below = tuple[str, ...]
"""The path of an image below the folder that all images share."""


def read_images(path: Path, part: str | None, labels: str | None) -> Reading:
    """Every image below `path`, in the order of their names. Raises `DataError`.

    `labels`: `folder`, `sorted` (every image is its own class), `none`, or None for `folder` where there
    are any.
    """
    if labels not in (None, *LABELS):
        raise DataError(f"there is no kind of labels {labels!r}", hint=f"one of {', '.join(LABELS)}")
    tree = open_tree(path)
    names, read_file = tree.visible(ENDINGS), tree.read
    if not names:
        raise DataError(f"{path} holds no images", hint=f"their names end in {', '.join(sorted(ENDINGS))}")
    below = _below_shared(names)
    parts: dict[str, range] = {}
    tops = sorted({b[0] for b in below})
    in_parts = len(tops) > 1 and PARTS.issuperset(tops)
    if in_parts:
        chosen = [i for i, b in enumerate(below) if part in (None, b[0])]
        parts = parts_of({top: sum(b[0] == top for b in below) for top in tops if part in (None, top)})
        names, below = [names[i] for i in chosen], [below[i][1:] for i in chosen]
    if part is not None and part not in parts:
        raise no_part(str(path), part, tops if in_parts else ())
    numbers, classes = _labelled(str(path), below, labels)

    def read(index: int, channels: int | None) -> tuple[Array, int | None]:
        image = _decode(path, names[index], read_file, channels)
        return image, numbers[index] if numbers else None

    def digest() -> str:
        return digest_bytes((name, read_file(name)) for name in names)

    return Reading(len(names), read, bool(numbers), digest, classes, parts, tuple(names))


def read_files(paths: Sequence[Path]) -> Reading:
    """These images, without labels. Raises `DataError` when one is read that is none."""

    def read(index: int, channels: int | None) -> tuple[Array, int | None]:
        path = paths[index]
        return _decode(path.parent, path.name, lambda name: path.read_bytes(), channels), None

    def digest() -> str:
        return digest_bytes((path.name, path.read_bytes()) for path in paths)

    return Reading(len(paths), read, False, digest, names=tuple(path.name for path in paths))


def _below_shared(names: Sequence[str]) -> list[Below]:
    """Each path without the folders that all of them have in common."""
    paths = [PurePosixPath(name).parts for name in names]
    first, last = min(paths)[:-1], max(paths)[:-1]  # what these two share, all share that stand between
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return [path[shared:] for path in paths]


def _labelled(
    where: str, below: Sequence[Below], labels: str | None
) -> tuple[Sequence[int], tuple[str, ...]]:
    """The label of each image and the names of the classes, or nothing where the images have none."""
    if labels == "none":
        return (), ()
    if labels == "sorted":
        return range(len(below)), tuple(PurePosixPath(b[-1]).stem for b in below)
    flat = sum(len(b) == 1 for b in below)
    if 0 < flat < len(below):
        stray = next(b[-1] for b in below if len(b) == 1)
        raise DataError(
            f"{where} has {flat} images outside the folders that are the classes, such as {stray}",
            hint="move them into a class, or away",
        )
    if flat:
        if labels == "folder":
            raise DataError(f"{where} has no sub-folders, so its images have no labels")
        return (), ()
    classes = sorted({b[0] for b in below})
    number = {name: i for i, name in enumerate(classes)}
    return [number[b[0]] for b in below], tuple(classes)


def _decode(path: Path, name: str, read_file: Callable[[str], bytes], channels: int | None) -> Array:
    try:
        with Image.open(io.BytesIO(read_file(name))) as image:
            return pixels(image, channels)
    except DAMAGE as error:
        why = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"the image {path}/{name} cannot be read", why=why) from error
