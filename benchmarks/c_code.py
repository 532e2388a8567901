"""`c`: what does a network in C take, in flash, RAM and instructions, and does it answer as it should?

    python -m benchmarks c digits mnist_cntk

    python -m benchmarks c digits --first-spike

Weights are quantised, thresholds `least-squares` for T, then `bias-correction`; nothing is trained. With
`--first-spike` T is the window of first spikes (base 2), and the program's one step is that of all layers.
The C program answers the test part; callgrind counts its instructions for one image and for three, and half
the difference is one inference (gcc -O2 for this machine, not for a microcontroller).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks._common import environment, markdown, write_result
from benchmarks.presets import PRESETS
from calibrators.bias_correction import BiasCorrection
from calibrators.least_squares import LeastSquares
from converter.config import neuron_for
from converter.data import split
from converter.errors import ConversionError
from converter.exporters import _c_run, c
from converter.exporters._check import Order
from converter.pipeline import Calibrate, Settings, convert

MAIN = """\
#include <stdio.h>
#include "%(name)s.c"

int main(void)
{
    static int16_t pixels[%(inputs)d];

    while (fread(pixels, 2, %(inputs)d, stdin) == %(inputs)d) {
        %(name)s_reset();
        %(name)s_input(pixels);
        for (int t = 0; t < %(steps)d; t++)
            %(name)s_step();
        printf("%%d\\n", %(name)s_decide());
    }
    return 0;
}
"""


def answers(program: Path, pixels: Tensor, under: Sequence[str] = ()) -> tuple[list[int], str]:
    """What the program says of images, and what is told beside it."""
    given = pixels.reshape(len(pixels), -1).numpy().astype("<i2").tobytes()
    done = subprocess.run([*under, str(program)], input=given, capture_output=True, check=True)
    return list(map(int, done.stdout.split())), done.stderr.decode()


def instructions(program: Path, pixels: Tensor, folder: Path) -> int | None:
    """Of one inference, the mean over two images; None without valgrind."""
    if shutil.which("valgrind") is None:
        return None
    words = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / 'out'}"]
    counted = []
    for images in (1, 3):
        _, told = answers(program, pixels[:images], words)
        found = re.search(r"Collected : (\d+)", told)
        assert found is not None, told
        counted.append(int(found[1]))
    return (counted[1] - counted[0]) // 2


def row(network: str, name: str, timesteps: int, seed: int, first: bool = False) -> dict[str, Any]:
    """One network with weights of one format, of rates or of `first` spikes."""
    preset = PRESETS[network]
    neuron, schedule = ("first-spike", "pipelined") if first else (neuron_for("signed")[0], "stream")
    settings = Settings(neuron=neuron, weights=name, timesteps=(timesteps,), schedule=schedule, seed=seed)
    settings = replace(settings, samples=preset.samples, device="cpu")
    chain: list[tuple[str, Calibrate]] = [
        ("least-squares", LeastSquares(timesteps)),
        ("bias-correction", BiasCorrection(timesteps, schedule=schedule)),
    ]
    done = convert(preset.model, preset.source, chain, settings)
    order = Order(timesteps, name="network")
    n = c.made(done.model, order)
    source = preset.source(done.model.graph)
    part = split(source, settings.calibration_samples, settings.samples, seed).measurement
    right = seen = 0
    with TemporaryDirectory() as where:
        folder = Path(where)
        c.write(done.model, order, folder)
        facts = {"name": n.name, "inputs": n.input.size, "steps": 1 if first else timesteps}
        (folder / "main.c").write_text(MAIN % facts, encoding="utf-8")
        program = folder / "main"
        flags = [*_c_run.FLAGS, "-O2"]
        subprocess.run([*_c_run.compiler(), *flags, "main.c", "-o", "main"], cwd=folder, check=True)
        batches = list(source.batches(part, 500))
        for x, labels in batches:
            assert labels is not None
            told, _ = answers(program, c.pixels_of(n, x))
            right += int((torch.tensor(told) == labels).sum())
            seen += len(x)
        cost = instructions(program, c.pixels_of(n, batches[0][0]), folder)
    point = done.report.curve[-1]
    return {
        "network": network,
        "weights": name,
        "timesteps": timesteps,
        "spikes": "first" if first else "signed",
        "samples": seen,
        "accuracy": right / seen,
        "accuracy_in_torch": point.accuracy,
        "spikes_per_neuron": point.spikes_per_neuron,
        "flash": n.flash,
        "ram": n.ram,
        "instructions": cost,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A network and a format a line."""
    head = "network|spikes|weights|T|correct, %|spikes per neuron|flash, kB|RAM, kB|instructions, millions"

    def line(r: dict[str, Any]) -> list[object]:
        cost = "" if r["instructions"] is None else f"{r['instructions'] / 1e6:.1f}"
        facts = [r["network"], r["spikes"], r["weights"], r["timesteps"], f"{100 * r['accuracy']:.2f}"]
        sizes = [f"{r['flash'] / 1000:.1f}", f"{r['ram'] / 1000:.1f}"]
        return [*facts, f"{r['spikes_per_neuron']:.2f}", *sizes, cost]

    return markdown(head, map(line, rows))


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit code is 1 when a network cannot be converted."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks c", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("networks", nargs="+", choices=PRESETS)
    parser.add_argument("--formats", nargs="+", default=["int8", "log2:5"], metavar="FORMAT")
    parser.add_argument("-T", "--timesteps", type=int, help="[default: 16, of first spikes 24]")
    parser.add_argument("--first-spike", action="store_true", help="one spike a neuron")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    steps = asked.timesteps or (24 if asked.first_spike else 16)
    rows = []
    try:
        for network in asked.networks:
            for name in asked.formats:
                rows.append(row(network, name, steps, asked.seed, asked.first_spike))
                print(rows[-1], file=sys.stderr)
    except ConversionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(table(rows))
    kept = write_result(
        "-".join(["c", *asked.networks, *["first"] * asked.first_spike]),
        ["c", *arguments],
        {"rows": rows, **environment(torch.get_num_threads())},
    )
    print(f"written to {kept}", file=sys.stderr)
    return 0
