"""Exporting: a converted network in a form that other programs run, verified before it has its name.

Each form is a module of `converter.exporters` with `write(model, order, path)` and
`check(path, model, x, timesteps)`. One that writes a folder has a `MARK`, the file by which it is known, and
one with more to say of what it wrote a `note(path)`. The file is written beside its target, run there on a
few samples against the model in memory, and renamed only if it is the same network.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from converter.errors import UsageError
from converter.exporters._check import Check, Order
from converter.files import atomic_directory, atomic_file, refuse_directory, refuse_file
from converter.graph import BATCH, Graph, Node
from converter.ops import AvgPool, MaxPool, ReduceMax, ReduceMean
from converter.registry import did_you_mean
from converter.schedules import Model, model_of

FORMS = {
    "onnx": "onnx",
    "onnx-page": "onnx_page",
    "onnx-loop": "onnx_loop",
    "nir": "nir",
    "pt2": "pt2",
    "c": "c",
    "compact": "compact",
}
"""What `--to` names -> the module of `converter.exporters`."""
SAMPLES = 4
"""How many samples an export is verified on."""


class Exporter(Protocol):
    """A module of `converter.exporters` that writes a file to be run elsewhere."""

    def write(self, model: Model, order: Order, path: Path) -> None:
        """Write the file, refusing first what cannot be said."""

    def check(self, path: Path, model: Model, x: tuple[Tensor, ...], timesteps: int) -> Check:
        """Run the file and `model` on `x`."""


def exporter(form: str) -> Exporter:
    """The exporter of a form. Raises `UsageError` when there is none."""
    if form not in FORMS:
        raise UsageError(f"nothing is exported to {form!r}", hint=did_you_mean(form, tuple(FORMS)))
    try:
        return cast(Exporter, import_module(f"converter.exporters.{FORMS[form]}"))
    except ModuleNotFoundError as error:
        raise UsageError(
            f"exporting to {form} needs the package {error.name}, which is not installed",
            hint=f"pip install 'ann2snn[{form}]'",
        ) from error


def export(
    model: Model,
    order: Order,
    form: str,
    target: str | os.PathLike[str],
    x: tuple[Tensor, ...] | None,
    *,
    force: bool = False,
) -> Check | None:
    """Write `model` to the file `target`; with samples `x`, verified on them, and what they said.

    Raises `ConversionError`, leaving nothing behind: for what the form cannot say, before anything is
    written; for a file that does not compute what the model does.
    """
    chosen, order = exporter(form), replace(order, name=Path(target).stem)
    mark = getattr(chosen, "MARK", "")
    opened = atomic_directory(target, force, mark) if mark else atomic_file(target, force=force)
    with opened as unfinished:
        chosen.write(model, order, unfinished)
        return None if x is None else chosen.check(unfinished, model, x, order.timesteps).passed()


def refuse(form: str, target: str | os.PathLike[str], force: bool) -> None:
    """Raise `ArtefactError` if the form cannot go to `target`, `UsageError` if there is none: asked early."""
    mark = getattr(exporter(form), "MARK", "")
    if mark:
        refuse_directory(Path(target), force, mark)
    else:
        refuse_file(Path(target), force)


def noted(form: str, target: str | os.PathLike[str]) -> str:
    """What there is to say of what was written, such as its size in a chip's memory; may be empty."""
    told: str = getattr(exporter(form), "note", lambda path: "")(Path(target))
    return told


def averaged(model: Model) -> Model:
    """`model` with the mean of each window in the place of its largest value: another network."""

    def mean(node: Node) -> Node:
        match node.op:
            case MaxPool(kernel, stride, padding, dilation, ceil, pad):
                if set(dilation) != {1} or pad or any(padding) or ceil:
                    raise UsageError(f"{node.where} has holes or padding, so a mean does not take its place")
                return replace(node, op=AvgPool(kernel, stride, padding))
            case ReduceMax(dims, keep):
                return replace(node, op=ReduceMean(dims, keep))
        return node

    time = {"schedule": model.schedule, "delay": model.delay, "seed": model.seed}
    return model_of(model.graph.map(mean), model.encoding, **time)  # type: ignore[arg-type]


def random_samples(graph: Graph, low: float, high: float, seed: int = 0) -> tuple[Tensor, ...]:
    """As many samples as are verified, uniform between `low` and `high`, for every input of `graph`."""
    draw = torch.Generator().manual_seed(seed)
    shapes = ([SAMPLES if d == BATCH else d for d in node.shape] for node in graph.inputs)
    return tuple(low + (high - low) * torch.rand(shape, generator=draw) for shape in shapes)
