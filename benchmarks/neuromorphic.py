"""`nir`: do NIR files of ours mean in other people's tools what they mean here?

    python -m benchmarks nir --tools PATH/TO/python

Two networks trained with average pools, digits (residual, joined) and MNIST (a chain), converted with either
reset, written as NIR and run in each tool that the interpreter has: as the tool loads them, and adjusted to
the conventions the file states (`nir_tools`). Held against our own answers on the same images.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import mnist_network, nir_tools, train_digits
from benchmarks._common import SHARED, environment, markdown, write_result
from calibrators.percentile import Percentile
from converter.data import open_source
from converter.exporters._check import Order
from converter.exports import export
from converter.graph import Graph
from converter.pipeline import Conversion, Settings, convert

TIMESTEPS, IMAGES = 32, 10
DATA = {"digits": "digits", "mnist": f"{SHARED}/data/mnist.npz"}


def networks(folder: Path) -> Iterator[tuple[str, Path]]:
    """Trained here, each with means where it had maxima."""
    source = open_source("digits")
    images, labels = next(source.batches(source.parts["train"], len(source.parts["train"])))
    assert labels is not None
    trained = train_digits.train(images, labels, pool=F.avg_pool2d)
    train_digits.export(trained, folder / "digits.onnx", {})
    yield "digits", folder / "digits.onnx"
    yield "mnist", mnist_network.make(folder / "mnist.onnx", torch.nn.AvgPool2d)


def converted(name: str, path: Path, reset: str, timesteps: int) -> Conversion:
    """From an empty membrane, as NIR's neurons begin."""
    options = {"reset": reset, "initial": 0.0}
    settings = Settings(neuron_options=options, timesteps=(timesteps,), samples=500, device="cpu")
    chain = [("percentile", Percentile(99.9))]
    return convert(path, lambda graph: source_of(name, graph), chain, settings)


def source_of(name: str, graph: Graph) -> Any:
    """The data of a network."""
    return open_source(DATA[name], expected=graph.inputs[0].shape)


def outside(python: str, tool: str, file: Path, images: Path, timesteps: int) -> dict[str, Any]:
    """What a tool answers, and its versions; or the last line of its error."""
    answers = file.with_suffix(".npy")
    words = [python, nir_tools.__file__, tool, str(file), str(images), str(timesteps), str(answers)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:200]}
    return {"answers": np.load(answers), "versions": json.loads(done.stdout.splitlines()[-1])}


def held(mine: torch.Tensor, found: dict[str, Any]) -> dict[str, Any]:
    """The same classes, and the largest difference as a share of our largest answer."""
    if "error" in found:
        return found
    theirs = torch.from_numpy(found["answers"])
    if theirs.shape != mine.shape:
        return {"error": f"{theirs.shape[1]} outputs instead of {mine.shape[1]}"}
    same = (theirs.argmax(1) == mine.argmax(1)).float().mean()
    apart = (theirs - mine).abs().max() / mine.abs().max()
    return {"same": float(same), "difference": float(apart), "versions": found["versions"]}


def row(python: str, name: str, path: Path, reset: str, images: int, timesteps: int) -> dict[str, Any]:
    """One network with one reset in every tool."""
    made = converted(name, path, reset, timesteps)
    source = source_of(name, made.ann)
    x, _ = next(source.batches(source.parts["test"][:images], images))
    file, given = path.with_name(f"{name}-{reset}.nir"), path.with_name("images.npy")
    check = export(made.model, Order(timesteps), "nir", file, (x,))
    assert check is not None
    np.save(given, x.numpy())
    with torch.inference_mode():
        readout = made.model(x, timesteps)
    assert isinstance(readout, torch.Tensor)
    tools = {
        f"{tool}{way}": held(readout[-1], outside(python, f"{tool}{way}", file, given, timesteps))
        for tool in nir_tools.TOOLS
        for way in ("", ":adjusted")
    }
    point = made.report.curve[-1]
    told = {"network": name, "reset": reset, "ann_accuracy": made.report.ann_accuracy, "samples": 500}
    return {**told, "accuracy": point.accuracy, "differing": check.differing, "tools": tools}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A tool a line, a network and reset a column."""

    def cell(found: dict[str, Any]) -> str:
        if "error" in found:
            return "stops" if "outputs instead" not in found["error"] else "wrong output"
        return f"{100 * found['same']:.0f} % the same, {found['difference']:.0e}"

    head = "|".join(["tool", *(f"{r['network']}, {r['reset']} reset" for r in rows)])
    tools = rows[0]["tools"]
    return markdown(head, [[t.replace(":", ", "), *(cell(r["tools"][t]) for r in rows)] for t in tools])


def main(arguments: Sequence[str]) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks nir", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--tools", default=sys.executable, metavar="PYTHON", help="the interpreter with them")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("-T", "--timesteps", type=int, default=TIMESTEPS)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    with TemporaryDirectory() as folder:
        for name, path in networks(Path(folder)):
            for reset in ("soft", "hard"):
                rows.append(row(asked.tools, name, path, reset, asked.images, asked.timesteps))
                print(rows[-1], file=sys.stderr, flush=True)
    facts = {"timesteps": asked.timesteps, "images": asked.images, "rows": rows}
    write_result("nir", ["nir", "--tools", "PYTHON"], {**facts, **environment(1)})
    print(table(rows))
    return 0
