"""A network in C compiled and run: every spike of every step, and the sums of its answer.

The compiler is `$CC`, or `cc`; the program reads images of 16-bit numbers and writes, for each step, what the
spike of each neuron is worth (32 bits) and the sums (64 bits).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from converter.errors import ArtefactError, UsageError

FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1")
MAIN = """\
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static const int32_t first[] = {%(first)s};
static int32_t seen[%(neurons)d];
#define SPIKE(layer, index, worth) (seen[first[layer] + (index)] = (worth))
#include "%(name)s.c"

int main(int argc, char **argv)
{
    static int16_t pixels[%(inputs)d];
    const int steps = argc > 1 ? atoi(argv[1]) : 1;

    while (fread(pixels, 2, %(inputs)d, stdin) == %(inputs)d) {
        %(name)s_reset();
        %(name)s_input(pixels);
        for (int t = 0; t < steps; t++) {
            %(name)s_step();
            fwrite(seen, sizeof seen[0], %(neurons)d, stdout);
            for (int i = 0; i < %(outputs)d; i++) {
                const int64_t sum = %(name)s_readout()[i];

                fwrite(&sum, sizeof sum, 1, stdout);
            }
        }
    }
    return 0;
}
"""


@dataclass(frozen=True)
class Sizes:
    """What of a network its runner knows: neurons are those of each layer that fires."""

    name: str
    inputs: int
    outputs: int
    neurons: tuple[int, ...]


def compiler() -> list[str]:
    """The C compiler. Raises `UsageError` where there is none."""
    words = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(words[0]) is None:
        raise UsageError(
            f"there is no C compiler {words[0]!r} to verify the export with",
            hint="--no-verify, or CC=gcc in the environment",
        )
    return words


def compiled(folder: Path, sizes: Sizes, into: Path, flags: Sequence[str] = FLAGS) -> Path:
    """The program that runs the network of `folder` and tells every spike."""
    starts = [sum(sizes.neurons[:n]) for n in range(len(sizes.neurons))]
    facts = {
        "first": ", ".join(map(str, starts)),
        "neurons": sum(sizes.neurons),
        "name": sizes.name,
        "inputs": sizes.inputs,
        "outputs": sizes.outputs,
    }
    main, program = into / "main.c", into / "main"
    main.write_text(MAIN % facts, encoding="utf-8")
    # the .c file stands beside its header, whatever the folder is called
    done = subprocess.run(
        [*compiler(), *flags, f"-I{folder}", str(main), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ArtefactError(
            "the C compiler refuses what was written",
            why=done.stderr[:2000],
            hint="this is a bug in ann2snn",
        )
    return program


def run(
    folder: Path,
    sizes: Sizes,
    pixels: Tensor,
    steps: int,
    flags: Sequence[str] = FLAGS,
    under: Sequence[str] = (),
) -> tuple[Tensor, Tensor]:
    """(spikes [image, step, neuron], sums [image, step, output]), int64, for `pixels` [image, …].

    `under` are the words of a program that runs the program. Raises `ArtefactError` if it fails.
    """
    given = pixels.reshape(len(pixels), -1).numpy().astype("<i2").tobytes()
    with TemporaryDirectory() as into:
        program = compiled(folder, sizes, Path(into), flags)
        done = subprocess.run(
            [*under, str(program), str(steps)], input=given, capture_output=True, check=False
        )
    if done.returncode:
        raise ArtefactError("the network in C fails", why=done.stderr.decode(errors="replace")[-2000:])
    row = np.dtype([("spikes", "<i4", (sum(sizes.neurons),)), ("sums", "<i8", (sizes.outputs,))])
    told = np.frombuffer(done.stdout, row).reshape(len(pixels), steps)
    return tuple(torch.from_numpy(told[name].astype(np.int64)) for name in ("spikes", "sums"))  # type: ignore[return-value]
