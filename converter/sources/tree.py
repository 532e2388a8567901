"""Files below a folder, in a zip archive, or in a folder of one: `images/`, `set.zip`, `set.zip/test`."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from converter.errors import DataError

DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    Image.DecompressionBombError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
)
"""What Pillow raises for bad pictures, and zipfile for bad archives (RuntimeError: an encrypted one)."""


@dataclass(frozen=True, eq=False)
class Tree:
    """The names of all files, sorted, with `/` between folders; `read(name)` gives the bytes of one."""

    path: str
    names: tuple[str, ...]
    read: Callable[[str], bytes]

    def visible(self, endings: frozenset[str]) -> list[str]:
        """The files with one of these endings, but hidden ones."""
        return [name for name in self.names if _visible(PurePosixPath(name), endings)]


def _visible(path: PurePosixPath, endings: frozenset[str]) -> bool:
    return path.suffix.lower() in endings and not any(p.startswith((".", "__MACOSX")) for p in path.parts)


def is_tree(path: Path) -> bool:
    """Whether `open_tree` would find something there."""
    return path.is_dir() or archive_of(path) is not None


def archive_of(path: Path) -> tuple[Path, str] | None:
    """`a/set.zip/test` -> (a/set.zip, "test/"), if that archive is there; the archive alone -> (it, "")."""
    for above in (path, *path.parents):
        if above.suffix.lower() == ".zip" and above.is_file():
            inside = path.relative_to(above).as_posix()
            return above, "" if inside == "." else f"{inside}/"
    return None


def open_tree(path: Path) -> Tree:
    """What is below `path`. Raises `DataError`."""
    if path.is_dir():
        found = (Path(top, file) for top, _, files in os.walk(path, followlinks=True) for file in files)
        names = tuple(sorted(f.relative_to(path).as_posix() for f in found))
        return Tree(str(path), names, lambda name: (path / name).read_bytes())
    if (inside := archive_of(path)) is None:
        raise DataError(f"there is no folder or zip archive {path}")
    file, folder = inside
    archive = _archive(file)
    names = tuple(sorted(n.removeprefix(folder) for n in archive.namelist() if n.startswith(folder)))
    if not any(names):
        raise DataError(f"{file} holds no folder {folder.rstrip('/')}", hint=f"it has {_tops(archive)}")
    return Tree(str(path), names, lambda name: archive.read(folder + name))


def read_one(path: Path) -> bytes:
    """The content of a file, which may be in a zip archive. Raises `DataError`."""
    try:
        if (inside := archive_of(path)) is not None and inside[1]:
            return _archive(inside[0]).read(inside[1].rstrip("/"))
        return path.read_bytes()
    except (*DAMAGE, KeyError) as error:
        raise DataError(f"{path} cannot be read", why=str(error)) from error


def _archive(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} cannot be read as a zip archive", why=str(error)) from error


def _tops(archive: zipfile.ZipFile) -> str:
    folders = sorted({str(PurePosixPath(name).parent) for name in archive.namelist()})
    return ", ".join(folders[:8]) + (" …" if len(folders) > 8 else "")
