"""What the README shows is what happens: commands run, Python runs, figures are those measured."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.M | re.S)


def commands() -> list[str]:
    """The lines after `$ ` that call ann2snn."""
    lines = "".join(blocks("console")).splitlines()
    return [line[2:] for line in lines if line.startswith("$ ann2snn")]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_runs(command: str, tmp_path: Path) -> None:
    program = [sys.executable, "-c", "import cli; cli.main()", *shlex.split(command)[1:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "99." in done.stdout


def test_the_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    examples = doctest.DocTestParser().get_doctest("".join(blocks("python")), {}, "README.md", None, 0)
    assert len(examples.examples) >= 8
    told: list[str] = []
    result = doctest.DocTestRunner().run(examples, out=told.append)
    assert result.failed == 0, "".join(told)


def test_every_command_shown_exists_with_the_options_shown() -> None:
    import cli

    for line in "".join(blocks("sh") + blocks("console")).splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:1] != ["ann2snn"]:
            continue
        command = cli.main.commands[words[1]]
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words[2:] if word.startswith("-")} <= known, line


def rows() -> list[list[str]]:
    """The table under *Measured*, without its head."""
    table = README.partition("## Measured")[2].partition("\n## ")[0]
    lines = [line.strip("| \n") for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"\s*\|\s*", line)] for line in lines[2:]]


def test_the_figures_of_the_readme_are_those_measured() -> None:
    head = next(line for line in README.partition("## Measured")[2].splitlines() if line.startswith("|"))
    steps = [int(number) for number in re.findall(r"T = (\d+)", head)]
    assert len(rows()) >= 5
    for name, images, ann, *figures in rows():
        result = json.loads((ROOT / "benchmarks" / "results" / f"accuracy-{name}.json").read_text())
        measured = {row["timesteps"]: row["accuracy"] for row in result["rows"]}
        assert images == f"{result['data']['samples']:,}"
        assert ann == f"{100 * result['ann_accuracy']:.2f}"
        assert figures == [f"{100 * measured[t]:.2f}" for t in steps], name
