"""`training`: what does a network gain that was trained for its conversion?

    python -m benchmarks training resnet20-qcfs4
    python -m benchmarks training mnist-cat

Each run is an `ann2snn train` command, kept with its result. The trained network is measured on the test
part: as the recipe leaves it (what it learnt to say), as the ONNX file says it (activations Clip(0, λ)), and
spiking.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cli
from benchmarks._common import RESULTS, SHARED, environment, markdown, read_result, write_result
from benchmarks.mnist_network import make
from benchmarks.presets import PRESETS, Preset
from calibrators import calibrators
from calibrators.training import Recipe
from calibrators.training._network import Network
from converter import training
from converter.data import Source
from converter.graph import Graph
from converter.importer import load
from converter.neurons import Neuron
from converter.passes import apply
from converter.passes.spike import Spike
from converter.pipeline import Calibrate, Settings, convert

MNIST = str(SHARED / "data" / "mnist.npz")
NETWORKS = {**PRESETS, "mnist": Preset(Path("mnist.onnx"), MNIST)}
"""Those that are trained; `mnist` is made first, by `mnist_network`."""
CIFAR = ("--normalize", "imagenet", "--augment", "crop,flip", "--validation", "0.05")
DISTILLED = ("--distill", "0.9", "--features", "1")

Chain = tuple[str, ...]
CEILING: Chain = ("ceiling",)
CORRECTED: Chain = ("ceiling", "coordinate")
AUTO: Chain = ("least-squares", "coordinate", "reconstruction", "coordinate")
"""What `auto` takes for binary spikes in a stream, given time."""
TWICE: Chain = (*AUTO, *AUTO[2:])
"""The same, its last two steps once more."""


@dataclass(frozen=True)
class Run:
    """A network, how it is trained, and as what it then spikes: schedule, calibrators, after what times."""

    network: str
    recipe: str
    options: tuple[str, ...]
    spiking: tuple[tuple[str, Chain, tuple[int, ...]], ...] = ()


TIMES = (2, 4, 8)
RATES = (
    ("pipelined", CEILING, TIMES),
    ("stream", CEILING, TIMES),
    ("stream", CORRECTED, TIMES),
    ("stream", AUTO, (4,)),
    ("stream", TWICE, (4,)),
)
TIMED = (("stream", CEILING, TIMES),)
IN_TIME = ("--steps", "4", "--batch-size", "32", *DISTILLED)
FIRST = (("first-spike", CEILING, (24,)),)
"""First spikes with the base-2 kernel and weights of 5 bits; the schedule is pipelined, T the window."""
RUNS = {
    "digits-qcfs2": Run("digits", "qcfs", ("--levels", "2", "--epochs", "6"), RATES[:2]),
    "digits-qcfs2-stream2": Run(
        "digits",
        "qcfs",
        ("--levels", "2", "--steps", "2", "--phases", "0.2", "--epochs", "8"),
        (("stream", CEILING, TIMES),),
    ),
    "resnet20-qcfs4": Run(
        "resnet20", "qcfs", ("--levels", "4", "--epochs", "20", "--distill", "0.9", *CIFAR), RATES
    ),
    "resnet20-qcfs8": Run("resnet20", "qcfs", ("--levels", "8", "--epochs", "6", *DISTILLED, *CIFAR), RATES),
    "resnet20-tcl": Run("resnet20", "tcl", ("--epochs", "6", "--decay", "0.01", *DISTILLED, *CIFAR), RATES),
    "resnet20-qcfs4-stream4": Run(
        "resnet20",
        "qcfs",
        ("--levels", "4", *IN_TIME, "--phases", "0.3", "--epochs", "20", *CIFAR),
        TIMED,
    ),
    "resnet20-tcl-stream4": Run(
        "resnet20", "tcl", (*IN_TIME, "--phases", "0.2", "--epochs", "40", *CIFAR), TIMED
    ),
    "digits-cat": Run("digits", "cat", ("--weights", "log2:5", "--epochs", "10"), FIRST),
    "mnist-cat": Run("mnist", "cat", ("--weights", "log2:5", "--epochs", "2", "--lr", "5e-4"), FIRST),
    "resnet20-cat": Run(
        "resnet20",
        "cat",
        ("--weights", "log2:5", "--phases", "0,0,0.3", "--epochs", "8", "--lr", "3e-4", *DISTILLED, *CIFAR),
        FIRST,
    ),
}


def measured(run: Run, folder: Path) -> dict[str, Any]:
    """Train and measure; what is kept of it."""
    preset = NETWORKS[run.network]
    model = make(folder / preset.model) if run.network == "mnist" else preset.model
    target = folder / "trained.onnx"
    known = "digits" if run.network == "digits" else str(model)
    arguments = [known, "--recipe", run.recipe, "--data", preset.data, *run.options]
    begun = time.perf_counter()
    trained(arguments, target)
    seconds = time.perf_counter() - begun
    recipe = recipe_of(run)
    ann, _ = apply(load(model))
    source = preset.source(ann)
    spoken = as_trained(target, recipe)
    facts: dict[str, Any] = {
        "network": run.network,
        "recipe": run.recipe,
        "train": " ".join(["ann2snn train", *arguments]).replace(str(folder), "."),
        "phase": recipe.phase(1.0).name,
        "seconds": seconds,
        "samples": len(source.parts["test"]),
        "ann_accuracy": accuracy(ann.run, source),
        "clipped_accuracy": accuracy(load(target).run, source),
        "trained_accuracy": accuracy(spoken, source),
    }
    rows = []
    for schedule, chain, times in run.spiking:
        for steps in times:
            rows.append(spiking(target, preset.source, schedule, chain, steps))
            print(rows[-1], file=sys.stderr, flush=True)
    return {**facts, "rows": rows}


def trained(arguments: Sequence[str], target: Path) -> None:
    """`ann2snn train` with these arguments, writing `target`."""
    context = cli.main.commands["train"].make_context("train", [*arguments, "-o", str(target), "-q"])
    with redirect_stdout(sys.stderr):
        training.train(context.params)


def recipe_of(run: Run) -> Recipe:
    """The recipe with the options of its command."""
    command = cli.main.commands["train"]
    context = command.make_context(
        "train", ["x", "--recipe", run.recipe, "--data", "x", "-o", "x", *run.options]
    )
    return training.recipe_of(context.params)


def as_trained(path: Path, recipe: Recipe) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The network in the file at `path` with the activations of the last phase it was trained in."""
    spiking = Spike()(apply(load(path))[0])
    ceilings = {
        node.name: torch.tensor(node.op.ceiling)
        for node in spiking
        if isinstance(node.op, Neuron) and node.op.ceiling is not None
    }
    network, phase = Network.of(spiking, ceilings, torch.tensor(1.0)), recipe.phase(1.0)
    graph: Graph = network.at(phase)
    return lambda x: network.run(graph, phase, x)


def accuracy(run: Callable[[Tensor], tuple[Tensor, ...]], source: Source, size: int = 100) -> float:
    """The share of the test part that is answered rightly."""
    right, test = 0, source.parts["test"]
    with torch.inference_mode():
        for x, labels in source.batches(test, size):
            assert labels is not None
            right += int((run(x)[0].reshape(len(x), -1).argmax(1) == labels).sum())
    return right / len(test)


def spiking(
    path: Path, source: Callable[[Graph], Source], schedule: str, chain: Chain, steps: int
) -> dict[str, Any]:
    """The trained network converted for so many steps of binary spikes, and measured on the test part."""
    aimed: list[tuple[str, Calibrate]] = [(name, calibrator(name, schedule, steps)) for name in chain]
    first: dict[str, Any] = {
        "neuron": "first-spike",
        "neuron_options": {"form": "base-2"},
        "weights": "log2:5",
        "schedule": "pipelined",
    }
    how = first if schedule == "first-spike" else {"schedule": schedule}
    settings = Settings(timesteps=(steps,), **how)
    report = convert(path, source, aimed, settings).report
    (point,) = report.curve
    return {
        "schedule": schedule,
        "calibrators": list(chain),
        "timesteps": steps,
        "latency": point.latency,
        "accuracy": point.accuracy,
        "spikes_per_neuron": point.spikes_per_neuron,
    }


def calibrator(name: str, schedule: str, steps: int) -> Calibrate:
    """The calibrator, told of the run it is for where it asks."""
    kind: Any = calibrators[name]
    told = {"timesteps": steps, "schedule": schedule}
    made: Calibrate = kind(**{key: v for key, v in told.items() if key in kind.__dataclass_fields__})
    return made


HEAD = """\
## Trained for its conversion

`ann2snn train`, then the test part: *ANN* is the network before, *trained* the network with the activations
it learnt (for CAT with weights in their format; the first-spike network says the same), *clipped* the file.
"""
SPIKING = """\
Spiking, in percent, by the latency and the spikes of a neuron at each T: binary spikes, or first spikes with
the base-2 kernel, weights of 5 bits (log2:5) and windows of T steps. *ceiling* takes the trained thresholds
as they are; the others correct what is left.
"""


def results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The runs of which there is a result, by name."""
    found = (name for name in RUNS if (folder / f"training-{name}.json").is_file())
    return {name: read_result(f"training-{name}", folder) for name in found}


def section(records: dict[str, dict[str, Any]]) -> str:
    """Their part of the page."""
    lines, rows = [], []
    for name, record in records.items():
        shares = (f"{100 * record[f'{key}_accuracy']:.2f}" for key in ("ann", "trained", "clipped"))
        lines.append([name, record["samples"], *shares, f"{record['seconds']:.0f}"])
        for row in record["rows"]:
            how = row["schedule"], " + ".join(row["calibrators"]), row["timesteps"], row["latency"]
            rows.append([name, *how, f"{100 * row['accuracy']:.2f}", f"{row['spikes_per_neuron']:.2f}"])
    commands = "".join(f"- {name}: `{record['train']}`\n" for name, record in records.items())
    parts = [HEAD, markdown("run|samples|ANN|trained|clipped|s", lines), commands]
    if rows:
        parts += [SPIKING, markdown("run|schedule|calibrators|T|latency|accuracy|spikes per neuron", rows)]
    return "\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Run those named; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks training", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("runs", nargs="+", choices=RUNS, metavar="RUN", help=", ".join(RUNS))
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="leave the trained networks there")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    for name in asked.runs:
        with tempfile.TemporaryDirectory() as scratch:
            facts = measured(RUNS[name], Path(scratch))
            if asked.keep:
                asked.keep.mkdir(exist_ok=True)
                (asked.keep / f"{name}.onnx").write_bytes((Path(scratch) / "trained.onnx").read_bytes())
        path = write_result(f"training-{name}", ["training", name], facts | environment(asked.threads))
        print(f"written to {path}", file=sys.stderr)
    print(section({name: read_result(f"training-{name}") for name in asked.runs}))
    return 0
