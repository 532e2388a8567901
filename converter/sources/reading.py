"""Raw samples by index: the one shape every kind of source takes before any preprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps

from converter.errors import DataError
from converter.preprocessing import Array

Read = Callable[[int, int | None], tuple[Array, int | None]]
"""(index, the number of channels the model wants or None) -> (raw sample, label or None)."""

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
EIGHT_BIT = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"))


@dataclass(frozen=True, eq=False)
class Reading:
    """`size` raw samples; `parts` names ranges of them, `digest()` is the sha256 that identifies them.

    `names` are the paths of image files, one a sample; nothing for data that are no files.
    """

    size: int
    read: Read
    labelled: bool
    digest: Callable[[], str]
    classes: tuple[str, ...] = ()
    parts: dict[str, range] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def parts_of(sizes: dict[str, int]) -> dict[str, range]:
    """The ranges of parts that follow one another."""
    parts, start = {}, 0
    for name, size in sizes.items():
        parts[name] = range(start, start + size)
        start += size
    return parts


def no_part(where: str, part: str, known: Iterable[str]) -> DataError:
    """The error for a part that is asked for and not there."""
    told = ", ".join(known)
    return DataError(f"{where} has no part {part!r}", hint=f"its parts: {told}" if told else "it is all one")


def pixels(image: Image.Image, channels: int | None) -> Array:
    """Upright, 8 bits: [height, width] for 1 channel, [height, width, 3 or 4] for 3 (or None) and 4.

    Raises ValueError for images of more than 8 bits.
    """
    if image.mode not in EIGHT_BIT:
        raise ValueError(f"its pixels are of mode {image.mode}, not 8 bits a channel")
    upright = ImageOps.exif_transpose(image)
    return np.asarray(upright.convert(MODES.get(channels or 3, "RGB")))


def digest_arrays(arrays: Iterable[Array]) -> str:
    """sha256 over type, shape and values of arrays, in their order."""
    return digest_bytes((f"{a.dtype.str}{a.shape}", np.ascontiguousarray(a).tobytes()) for a in arrays)


def digest_bytes(named: Iterable[tuple[str, bytes]]) -> str:
    """sha256 over names, lengths and contents, in their order."""
    return _sha(chunk for name, content in named for chunk in (f"{name}\0{len(content)}\0".encode(), content))


def _sha(chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
