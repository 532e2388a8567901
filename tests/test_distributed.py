"""Several processes: the same numbers as one, to the last digit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from converter.distributed import Share, dealt_back, join, own_gpu
from converter.errors import UsageError
from tests.conftest import ROOT


@given(st.lists(st.integers(), max_size=30), st.integers(1, 7))
def test_what_is_dealt_out_comes_back_in_order(items: list[int], count: int) -> None:
    hands = [list(Share(rank, count).mine(items)) for rank in range(count)]
    assert max(map(len, hands)) - min(map(len, hands)) <= 1
    assert dealt_back(hands) == items


def test_alone_there_is_nothing_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="this one was started alone"):
        join("cpu")


@pytest.mark.parametrize(("processes", "alone"), [(2, True), (3, False)])
def test_each_process_takes_a_gpu_and_some_share_one_where_there_are_too_few(
    processes: int, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with two: NCCL, which wants one each, or gloo."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    for rank in range(processes):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert own_gpu() is alone
    assert chosen == [0, 1, 0][:processes]


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    """Every number of the report, layers and energy too; of five batches one process has three."""
    folder = str(tmp_path / "digits.snn")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    make = ["-m", "cli", "convert", "digits", "-o", folder, "--data", "digits", "--percentile", "99.9"]
    run(*make, "-T", "1,4", "--samples", "10", "-q")
    asked = [
        *("evaluate", folder, "--data", "digits", "--samples", "90", "-T", "1,4,8"),
        *("--batch-size", "20", "--json", "-q"),
    ]
    two = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517", "-m", "cli"]
    one, both = json.loads(run("-m", "cli", *asked)), json.loads(run(*two, *asked, "--distributed"))
    assert both == one
    assert one["samples"] == 90
