"""Files that appear whole or not at all: what is in the way, a full disk, Ctrl-C, a failed replacement."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from converter.errors import ArtefactError
from converter.files import atomic_directory, atomic_file, sha256


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def artefact(folder: Path, content: str = "old") -> Path:
    folder.mkdir()
    (folder / "report.json").write_text(content)
    return folder


# What ends well


def test_a_directory_appears_with_everything_in_it_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "net.snn"
    with atomic_directory(target) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(".net.snn.")
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("a")
        assert not target.exists()
    assert names(tmp_path) == ["net.snn"]
    assert (target / "sub" / "a.txt").read_text() == "a"


def test_a_file_appears_complete_and_keeps_its_suffix_while_hidden(tmp_path: Path) -> None:
    target = tmp_path / "net.onnx"
    with atomic_file(target) as path:
        assert path.name.startswith(".net.onnx.")
        assert path.suffix == ".onnx"
        path.write_text("new")
        assert not target.exists()
    assert names(tmp_path) == ["net.onnx"]
    assert target.read_text() == "new"


def test_relative_targets_stay_where_they_were_meant_when_the_body_changes_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with atomic_directory("net.snn") as folder:
        (folder / "a").write_text("a")
        os.chdir("elsewhere")
    assert (tmp_path / "net.snn" / "a").exists()


def test_permissions_are_those_of_any_new_directory_and_file(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "net.snn"):
        pass
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "net.snn").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_everything_reaches_the_disk_before_the_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def fsynced(handle: int) -> None:
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def renamed(source: Path, target: Path) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsynced)
    monkeypatch.setattr(os, "rename", renamed)
    with atomic_directory(tmp_path / "net.snn") as folder:
        (folder / "weights").write_text("w")
    assert done == ["weights", folder.name, "rename", tmp_path.name]


# What is in the way


def test_an_existing_directory_is_refused_before_the_body_runs(tmp_path: Path) -> None:
    target = artefact(tmp_path / "net.snn")
    with pytest.raises(ArtefactError, match="exists") as caught, atomic_directory(target):
        pytest.fail("the body ran")
    assert "--force" in caught.value.hint
    assert names(target) == ["report.json"]


def test_force_replaces_a_directory_of_ours_altogether(tmp_path: Path) -> None:
    target = artefact(tmp_path / "net.snn")
    (target / "stale").write_text("from the last run")
    with atomic_directory(target, force=True) as folder:
        (folder / "report.json").write_text("new")
        assert (target / "report.json").read_text() == "old"
    assert names(target) == ["report.json"]
    assert (target / "report.json").read_text() == "new"
    assert names(tmp_path) == ["net.snn"]


def test_force_does_not_replace_what_no_conversion_wrote(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtefactError, match=r"report\.json"), atomic_directory(home, force=True):
        pytest.fail("the body ran")
    assert names(home) == ["thesis.tex"]


def test_force_may_fill_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "net.snn").mkdir()
    with atomic_directory(tmp_path / "net.snn", force=True) as folder:
        (folder / "report.json").write_text("new")
    assert names(tmp_path / "net.snn") == ["report.json"]


@pytest.mark.parametrize("make", ["file", "link", "dangling link"])
def test_a_directory_does_not_replace_a_file_or_a_link(tmp_path: Path, make: str) -> None:
    target = tmp_path / "net.snn"
    if make == "file":
        target.write_text("mine")
    else:
        target.symlink_to(artefact(tmp_path / "real") if make == "link" else tmp_path / "nowhere")
    before = names(tmp_path)
    with pytest.raises(ArtefactError, match="not a directory"), atomic_directory(target, force=True):
        pytest.fail("the body ran")
    assert names(tmp_path) == before


def test_a_file_is_replaced_only_with_force_and_never_a_directory(tmp_path: Path) -> None:
    target = tmp_path / "net.onnx"
    target.write_text("old")
    with pytest.raises(ArtefactError, match="exists"), atomic_file(target):
        pytest.fail("the body ran")
    with atomic_file(target, force=True) as path:
        path.write_text("new")
    assert target.read_text() == "new"
    with pytest.raises(ArtefactError, match="is a directory"), atomic_file(tmp_path, force=True):
        pytest.fail("the body ran")


@pytest.mark.parametrize("atomic", [atomic_directory, atomic_file])
def test_a_missing_parent_is_named(tmp_path: Path, atomic: type) -> None:
    with (
        pytest.raises(ArtefactError, match=r"no directory .*nowhere"),
        atomic(tmp_path / "nowhere" / "net.snn"),
    ):
        pytest.fail("the body ran")


def test_a_target_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="exists"), atomic_directory(tmp_path / "net.snn") as folder:
        (folder / "a").write_text("mine")
        artefact(tmp_path / "net.snn", "a faster one")
    assert names(tmp_path) == ["net.snn"]
    assert (tmp_path / "net.snn" / "report.json").read_text() == "a faster one"


# What goes wrong


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, ValueError, SystemExit])
def test_whatever_stops_the_body_nothing_is_left(tmp_path: Path, trouble: type[BaseException]) -> None:
    with pytest.raises(trouble), atomic_directory(tmp_path / "net.snn") as folder:
        (folder / "half").write_text("half")
        raise trouble
    with pytest.raises(trouble), atomic_file(tmp_path / "net.onnx") as path:
        path.write_text("half")
        raise trouble
    assert names(tmp_path) == []


def test_a_full_disk_while_writing_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """/dev/full answers every write with ENOSPC, as a full disk does."""
    for atomic, name in ((atomic_directory, "net.snn"), (atomic_file, "net.onnx")):
        with (
            pytest.raises(ArtefactError, match=f"{name} cannot be written: the disk is full"),
            atomic(tmp_path / name) as path,
        ):
            (path / "half" if path.is_dir() else path).write_text("half")
            with open("/dev/full", "wb", buffering=0) as full:
                full.write(b"weights")
    assert names(tmp_path) == []


def test_a_disk_that_turns_out_full_when_flushed_is_said_and_the_old_artefact_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = artefact(tmp_path / "net.snn")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtefactError, match="disk is full"), atomic_directory(target, force=True) as folder:
        (folder / "report.json").write_text("new")
    assert names(tmp_path) == ["net.snn"]
    assert (target / "report.json").read_text() == "old"


@pytest.mark.parametrize("trouble", [OSError(errno.EIO, "input/output error"), KeyboardInterrupt()])
def test_when_the_new_one_cannot_take_the_name_the_old_one_gets_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: BaseException
) -> None:
    target, rename, calls = artefact(tmp_path / "net.snn"), os.rename, []

    def second_fails(source: Path, goal: Path) -> None:
        calls.append(goal)
        if len(calls) == 2:
            raise trouble
        rename(source, goal)

    monkeypatch.setattr(os, "rename", second_fails)
    expected = ArtefactError if isinstance(trouble, OSError) else KeyboardInterrupt
    with pytest.raises(expected), atomic_directory(target, force=True) as folder:
        (folder / "report.json").write_text("new")
    assert len(calls) == 3
    assert names(tmp_path) == ["net.snn"]
    assert (target / "report.json").read_text() == "old"


def test_an_old_directory_that_cannot_be_removed_is_reported_with_the_new_one_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rmtree = artefact(tmp_path / "net.snn"), shutil.rmtree

    def stuck(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(errno.EACCES, "permission denied", str(path))
        rmtree(path, ignore_errors=True)

    monkeypatch.setattr(shutil, "rmtree", stuck)
    with (
        pytest.raises(ArtefactError, match="could not be removed"),
        atomic_directory(target, force=True) as folder,
    ):
        (folder / "report.json").write_text("new")
    assert (target / "report.json").read_text() == "new"


def test_trouble_with_another_file_keeps_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data"), atomic_directory(tmp_path / "net.snn"):
        (tmp_path / "data.npz").read_bytes()
    assert names(tmp_path) == []


def test_a_directory_that_may_not_be_written_to_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(ArtefactError, match="permission denied"), atomic_directory(tmp_path / "net.snn"):
        pytest.fail("the body ran")


# Fingerprints


def test_sha256_of_three_letters_is_the_one_in_the_standard(tmp_path: Path) -> None:
    """FIPS 180-2, appendix B.1."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
