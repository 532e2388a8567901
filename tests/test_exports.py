"""The command `export`, as the README shows it, on the network that `convert digits` made."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_readme import blocks

LINES = [line.partition("#")[0] for line in "".join(blocks("sh")).splitlines() if " export " in line]


def ann2snn(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "import cli; cli.main()", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where digits.snn is."""
    where = tmp_path_factory.mktemp("exports")
    words = shlex.split(
        "convert digits -o digits.snn --data digits -T 8 --calibrator percentile --samples 50"
    )
    done = ann2snn(where, *words)
    assert done.returncode == 0, done.stderr
    words = [*words, "--weights", "int8", "--spikes", "signed"]
    words[words.index("digits.snn")] = "small.snn"
    done = ann2snn(where, *words)
    assert done.returncode == 0, done.stderr
    return where


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_readme_does_what_it_says(line: str, folder: Path) -> None:
    words = shlex.split(line)
    done = ann2snn(folder, *words[1:])
    assert done.returncode == 0, done.stderr
    if "-o" in words:
        written = folder / words[words.index("-o") + 1]
        files = written.iterdir() if written.is_dir() else [written]
        assert sum(file.stat().st_size for file in files) > 10_000
        assert f"{words[words.index('-o') + 1]}: verified in" in done.stdout
    else:
        assert "32 bits, 8 at most" in done.stdout
    assert ("max-pools became means: accuracy" in done.stdout) is ("--maxpool" in words)


def test_what_cannot_be_said_is_refused_by_name_and_nothing_is_left(folder: Path) -> None:
    done = ann2snn(folder, *shlex.split("export digits.snn --to nir -o no.nir"))
    assert done.returncode == 1
    assert "MaxPool '/MaxPool'" in done.stderr
    assert "IntegrateFire '/Relu'" in done.stderr
    assert not list(folder.glob("*no.nir*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--to onxn -o a", "did you mean 'onnx'"),
        ("--to onnx", "--to and -o go together"),
        ("", "nothing is asked for"),
        ("--target spek", "did you mean 'speck'"),
        ("--to onnx -o a.onnx --opset 12", "opset 12 is not written"),
        ("--to nir -o a --with-page", "--with-page is of --to onnx"),
        ("--to onnx -o a --runtime web.tgz", "--runtime is what a page runs on"),
        ("--to nir -o a.nir --maxpool average", "--data SOURCE says what that costs"),
    ],
)
def test_a_request_that_makes_no_sense_is_a_usage_error(words: str, said: str, folder: Path) -> None:
    done = ann2snn(folder, "export", "digits.snn", *words.split())
    assert done.returncode == 2
    assert said in done.stderr


def test_the_result_is_a_document_where_asked_for(folder: Path) -> None:
    words = shlex.split(
        "export digits.snn --to onnx -o d.onnx -T 4 --target loihi2 --data digits:test --json"
    )
    told = json.loads(ann2snn(folder, *words).stdout)
    assert told["verified"]["timesteps"] == 4
    assert told["verified"]["differing"] <= 1
    assert told["target"]["fits"] is False
    assert (folder / "d.onnx").is_file()
    again = ann2snn(folder, *words)
    assert again.returncode == 1
    assert "--force replaces it" in again.stderr
    unverified = ann2snn(folder, *words[:-1], "--force", "--no-verify")
    assert "d.onnx: not verified" in unverified.stdout
