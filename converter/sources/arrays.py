"""Arrays: `.npz` and `.npy` files, and the digits that scikit-learn carries."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from converter.errors import DataError
from converter.files import sha256
from converter.preprocessing import Array
from converter.sources.reading import Reading, digest_arrays, no_part, parts_of

NAMES = "name the arrays x and y, or train_x, train_y, test_x, test_y"


def read_arrays(path: Path, part: str | None) -> Reading:
    """`.npy` (x), or `.npz` (x and y, or a pair for each part). Nothing is unpickled. Raises `DataError`."""
    try:
        if path.suffix.lower() == ".npy":
            if part is not None:
                raise no_part(str(path), part, ())
            arrays = {"x": np.load(path, mmap_mode="r", allow_pickle=False)}
        else:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                names = {_canonical(name): name for name in file.files}
                wanted = [n for n in sorted(names) if n.rpartition("_")[2] in ("x", "y")]
                if part is not None:
                    _require(str(path), part, wanted)
                arrays = {n: file[names[n]] for n in wanted if part is None or n.startswith(f"{part}_")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as arrays", why=str(error).splitlines()[0]) from error
    return _of_arrays(str(path), arrays, lambda: sha256(path))


def read_digits(part: str | None) -> Reading:
    """scikit-learn's digits: 1797 images [1, 8, 8], pixels 0…16 divided by 16, labels 0…9.

    A third, 599 images, is held out as `test`: the first of `RandomState(0).permutation(1797)` (a stream that
    numpy has frozen), in ascending order; the other 1198 are `train`.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = (bunch.images / 16).astype(np.float32)[:, None], bunch.target.astype(np.int64)
    order = np.random.RandomState(0).permutation(len(labels))
    third = len(labels) // 3
    chosen = {"test": np.sort(order[:third]), "train": np.sort(order[third:])}
    arrays: dict[str, Array] = {}
    if part is not None and part not in chosen:
        raise no_part("digits", part, chosen)
    for name, indices in chosen.items():
        if part in (None, name):
            arrays |= {f"{name}_x": images[indices], f"{name}_y": labels[indices]}
    return _of_arrays("digits", arrays, lambda: digest_arrays(arrays.values()))


def _of_arrays(where: str, arrays: Mapping[str, Array], digest: Callable[[], str]) -> Reading:
    """One pool, `x` and perhaps `y`, or one for each part: `test_x`, `train_x`, …, one after the other."""
    pools = [name[:-1] for name in arrays if name.endswith("x")]
    if not pools:
        raise DataError(f"{where} has no array x", hint=NAMES)
    xs = [arrays[f"{pool}x"] for pool in pools]
    for pool, x in zip(pools, xs, strict=True):
        if x.ndim < 2:
            raise DataError(f"{pool}x in {where} is of shape {x.shape}; the first axis counts samples")
    ys = [
        _labels(where, arrays[f"{pool}y"], len(x))
        for pool, x in zip(pools, xs, strict=True)
        if f"{pool}y" in arrays
    ]
    if ys and len(ys) < len(xs):
        raise DataError(f"{where} has labels for one part and none for another", hint=NAMES)
    parts = parts_of({pool.rstrip("_"): len(x) for pool, x in zip(pools, xs, strict=True)})
    ranges = list(parts.values())

    def read(index: int, channels: int | None) -> tuple[Array, int | None]:
        pool = next(i for i, samples in enumerate(ranges) if index in samples)
        at = index - ranges[pool].start
        return xs[pool][at], int(ys[pool][at]) if ys else None

    named = {name: samples for name, samples in parts.items() if name}
    return Reading(sum(map(len, xs)), read, bool(ys), digest, parts=named)


def _require(where: str, part: str, names: Sequence[str]) -> None:
    if f"{part}_x" not in names:
        raise no_part(where, part, [name[:-2] for name in names if name.endswith("_x")])


def _labels(where: str, labels: Array, samples: int) -> Array:
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.shape != (samples,) or flat.dtype.kind not in "ui":
        told = f"{labels.dtype} {'x'.join(map(str, labels.shape)) or 'number'}"
        raise DataError(
            f"the labels in {where} are {told}, its samples are {samples}",
            hint="labels are one integer for each sample",
        )
    return flat


def _canonical(name: str) -> str:
    """`X_test`, `test_X` -> `test_x`; `X` -> `x`."""
    left, _, right = name.lower().partition("_")
    return f"{right}_{left}" if left in ("x", "y") and right else name.lower()
