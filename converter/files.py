"""Whole or not at all: files and directories that appear under their name only once they are complete.

The work goes to a hidden neighbour of the target (same file system), is flushed to the disk and renamed.
Whatever stops it (a full disk, Ctrl-C, a bug), the neighbour is removed and the target is as it was. Only a
process killed between the two renames of a replacement leaves the old directory under its `.old` name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from converter.errors import ArtefactError

MARK = "report.json"
"""The file by which a directory is known to be one of ours, and may be replaced."""

_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space, or write to another disk"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or write to another disk"),
    errno.EACCES: ("permission denied", "write to a directory that is yours"),
    errno.EROFS: ("the file system is read-only", "write to another directory"),
}


def refuse_directory(target: Path, force: bool, mark: str = MARK) -> None:
    """Raise `ArtefactError` if an artefact cannot go to `target`: asked early, before any long work."""
    _refuse_parent(target)
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise ArtefactError(f"{target} exists and is not a directory", hint="write to another name")
    if not force:
        raise ArtefactError(f"{target} exists", hint="--force replaces it, or write to another name")
    if any(target.iterdir()) and not (target / mark).is_file():
        raise ArtefactError(
            f"{target} exists and holds no {mark}, so it is not replaced even with --force",
            why="only a directory that ann2snn wrote is replaced",
            hint="write to another name, or remove it yourself",
        )


def refuse_file(target: Path, force: bool) -> None:
    """Raise `ArtefactError` if a file cannot go to `target`: asked early, before any long work."""
    _refuse_parent(target)
    if target.is_dir():
        raise ArtefactError(f"{target} is a directory", hint="name the file to write")
    if os.path.lexists(target) and not force:
        raise ArtefactError(f"{target} exists", hint="--force replaces it, or write to another name")


@contextmanager
def atomic_directory(target: str | os.PathLike[str], force: bool = False, mark: str = MARK) -> Iterator[Path]:
    """Yield an empty directory to fill; it becomes `target` when the body ends without an exception.

    An existing target is refused; with `force` one of ours (it holds a file `mark`) is replaced, and put
    back if that fails. An `OSError` of the writing becomes `ArtefactError`; other exceptions pass.
    """
    target = Path(target).absolute()
    refuse_directory(target, force, mark)
    hidden = _neighbour(target)
    try:
        with _explained(target, hidden):
            hidden.mkdir()
            yield hidden
            refuse_directory(target, force, mark)
            _flush_tree(hidden)
            _replace_directory(hidden, target)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


@contextmanager
def atomic_file(target: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """Yield a path to write; the file becomes `target` when the body ends without an exception.

    An existing target is refused unless `force`. Errors as in `atomic_directory`.
    """
    target = Path(target).absolute()
    refuse_file(target, force)
    hidden = _neighbour(target, target.suffix)
    try:
        with _explained(target, hidden):
            yield hidden
            refuse_file(target, force)
            _flush(hidden)
            os.replace(hidden, target)
            _flush(target.parent)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_parent(target: Path) -> None:
    parent = target.absolute().parent
    if not parent.is_dir():
        raise ArtefactError(
            f"{target} cannot be written: there is no directory {parent}", hint="create it first"
        )


def _neighbour(target: Path, suffix: str = "") -> Path:
    """A name beside the target that nobody uses; writers that look at a file's suffix find it there."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}{suffix}")


@contextmanager
def _explained(target: Path, hidden: Path) -> Iterator[None]:
    """Turn an `OSError` of the writing into an `ArtefactError`; one about another file passes as it is."""
    try:
        yield
    except OSError as error:
        named = [
            Path(os.fsdecode(n)) for n in (error.filename, error.filename2) if isinstance(n, str | bytes)
        ]
        ours = [p == target.parent or p.is_relative_to(hidden) or p.is_relative_to(target) for p in named]
        if named and not any(ours):
            raise
        reason = error.strerror or str(error) or type(error).__name__
        why, hint = _REASONS.get(error.errno or 0, (reason, ""))
        raise ArtefactError(
            f"{target} cannot be written: {why}", why="nothing was left behind", hint=hint
        ) from error


def _replace_directory(hidden: Path, target: Path) -> None:
    """Rename `hidden` to `target`; what is there goes aside first, and comes back if the renaming fails."""
    if not target.exists():
        os.rename(hidden, target)
        _flush(target.parent)
        return
    aside = hidden.with_name(hidden.name + ".old")
    try:
        os.rename(target, aside)
        os.rename(hidden, target)
    except BaseException:
        if aside.exists() and not target.exists():
            os.rename(aside, target)
        raise
    _flush(target.parent)
    try:
        shutil.rmtree(aside)
    except OSError as error:
        raise ArtefactError(
            f"{target} was written, but the one it replaces could not be removed",
            why=str(error),
            hint=f"remove {aside} yourself",
        ) from error


def _flush(path: Path) -> None:
    """Force a file's or directory's contents to the disk: here a full disk shows itself at the latest."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_tree(root: Path) -> None:
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            _flush(Path(folder, name))
        _flush(Path(folder))
