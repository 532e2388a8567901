"""What networks cost where they are deployed, for the page: steps in onnxruntime, inferences in C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import c_code, exported
from benchmarks._common import RESULTS, read_result

ONNX = """\
## Exported to ONNX

One time step as a standard ONNX model, run by onnxruntime on one thread, a batch of so many images for
32 steps; beside it the network in memory. Times are those of the processor. What is compared is
every value of every layer of neurons at every step. *From the same states*: each step from those of the
network in memory. *Along a run*: onnxruntime keeps its own, so a spike that comes a step earlier because a
sum was rounded differently counts with all that follows from it. *Loop*: the answers of the model with the
time loop inside, after each step of a run of its own, relative to the largest. Weights `exact15` are so
coarse that float32 rounds no sum of a step, whatever the order of its terms.
"""
IN_C = """\
## In C

Networks in whole numbers, compiled by `gcc -O2` for this machine; weights quantised after training, nothing
is trained. Instructions are those of one inference of T steps, of *first* spikes of all windows, counted by
callgrind. Flash is that of constants, RAM of arrays.
"""


def section(folder: Path = RESULTS) -> tuple[list[str], list[dict[str, Any]]]:
    """(the parts of the page that there are results for, the records they are of)."""
    parts: list[str] = []
    records: list[dict[str, Any]] = []
    for name, words, table in (("export", ONNX, exported.table), ("c", IN_C, c_code.table)):
        kept = sorted(folder.glob(f"{name}-*.json"), key=lambda path: path.stem)
        if found := [read_result(path.stem, folder) for path in kept]:
            parts += [words, table([row for record in found for row in record["rows"]])]
            records += found
    return parts, records
