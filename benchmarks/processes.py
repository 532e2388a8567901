"""How much faster do two processes evaluate than one, one thread each, and do they count the same?

`python -m benchmarks scaling --processes resnet20` converts a network, then runs `ann2snn evaluate` alone and
under torchrun with two processes, on a few samples and on all of the test part. Seconds are by the clock;
what starting takes is in both, so the speed-up is that of the seconds between few samples and all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._common import ROOT, markdown
from benchmarks.presets import PRESETS

NORMALIZED = {"resnet20": "imagenet", "resnet44": "imagenet", "resnet4b": "cifar10"}
BATCH, FEW = 50, 100
PORT = "29543"


def ran(*command: str) -> tuple[str, float]:
    """What it says, and its seconds; one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout, time.perf_counter() - start


def compare(name: str, timesteps: int, rounds: int) -> dict[str, Any]:
    """One process and two in turns; whether every number of what they report is the same."""
    preset = PRESETS[name]
    data = ["--data", preset.data]
    if name in NORMALIZED:
        data += ["--normalize", NORMALIZED[name]]
    two = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", PORT, "-m", "cli")
    seconds: dict[str, list[list[float]]] = {"one": [], "two": []}
    said: dict[str, set[str]] = {"one": set(), "two": set()}
    samples = 0
    with tempfile.TemporaryDirectory() as room:
        folder = str(Path(room) / "network.snn")
        quickly = ("--percentile", "99.9", "-T", str(timesteps), "--samples", "10", "-q")
        ran("-m", "cli", "convert", str(preset.model), "-o", folder, *data, *quickly)
        asked = ("evaluate", folder, *data, "-T", str(timesteps), "--batch-size", str(BATCH), "--json", "-q")
        for _ in range(rounds):
            for who, how in (("one", ("-m", "cli", *asked)), ("two", (*two, *asked, "--distributed"))):
                _, few = ran(*how, "--samples", str(FEW))
                told, all_ = ran(*how)
                facts = json.loads(told)
                samples = facts["samples"]
                said[who].add(json.dumps(facts, sort_keys=True))
                seconds[who].append([few, all_])
    speed = [
        (one[1] - one[0]) / (two_[1] - two_[0])
        for one, two_ in zip(seconds["one"], seconds["two"], strict=True)
    ]
    return {
        **{"network": name, "timesteps": timesteps, "samples": samples, "few": FEW, "batch": BATCH},
        "seconds": seconds,
        "times_faster": sorted(speed)[len(speed) // 2],
        "same": said["one"] == said["two"] and len(said["one"]) == 1,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each network."""
    return markdown(
        "network|T|samples|one process, s|two, s|times faster|every count the same",
        [
            [
                *(r["network"], r["timesteps"], r["samples"]),
                *(f"{min(each[1] for each in r['seconds'][who]):.1f}" for who in ("one", "two")),
                *(f"{r['times_faster']:.2f}", "yes" if r["same"] else "no"),
            ]
            for r in rows
        ],
    )
