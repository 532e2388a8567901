"""The sections of the page on where time goes, events, early exit and processes, of whatever was kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import crossover, early_exit, processes, profile
from benchmarks._common import read_result

Record = dict[str, Any]

PROFILE = """### Where it goes

Processor time of a step by kinds of instruction, in inferences of the ANN. *Convolutions alone* are the
same convolutions with the same shapes in oneDNN with nothing between, as if no value was zero: what synapses
take less is what goes spike by spike. Where spikes are weighed in the pass over the neurons, the two are one
kind.
"""
CROSSOVER = """### Event by event

The weights of each spike are added up one by one instead of densely as soon as a chunk of steps has few
enough spikes in a layer, in whole numbers (`converter.engine.bytes.share_for_events`) and in floats (bits 32,
`converter.engine.sparse.share_for_spikes`); the sums have the same bits. Spikes are those of test images,
thresholds the 99.9th percentile. *Events win up to* is on spikes at random, the largest of the layers.
*Wrong* choices are those where the other way was faster in this run. The last columns say how often a layer
has nothing at all to compute, which is why nothing looks for it.
"""
EARLY = """## Early exit

A sample is answered once the lead of its class, times the steps that count, reaches a margin. The delay, of
which steps are run and not read out, and the margin are chosen on training images that no calibrator has seen
(`--margin-samples`, `--delays`): the delay after which the cap is best, and the smallest margin with which
all, but for a share of `--may-lose`, are answered as at the cap; of several what is soonest in the mean.
Accuracy is on test images, also that at the cap, after the same delay. *Steps run* are those that were
computed for a sample until its batch was cleared of it, *time* is the processor's against running all samples
to the cap.
"""
PROCESSES = """## Two processes

`ann2snn evaluate --distributed` in two processes of one thread each, against one. Seconds are of whole
commands; what starting takes is left out of *times faster*.
"""


def sections(folder: Path, origins: Callable[[Sequence[Record]], str]) -> Iterator[str]:
    """Each with where it comes from."""
    tables: dict[str, tuple[str, Callable[[Sequence[Record]], str]]] = {
        "profile": (PROFILE, profile.table),
        "crossover": (CROSSOVER, crossover.table),
        "early-exit": (EARLY, early_exit.table),
        "processes": (PROCESSES, processes.table),
    }
    for name, (words, table) in tables.items():
        if kept := sorted(path.stem for path in folder.glob(f"{name}*.json")):
            records = [read_result(each, folder) for each in kept]
            yield from (words, origins(records), table([row for record in records for row in record["rows"]]))
