"""What `ann2snn show` does, and how options become the question that a dense network is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from converter import artefact, pipeline, terminal
from converter.data import Source
from converter.errors import UsageError
from converter.files import atomic_file
from converter.metrics import measure
from converter.sources.images import read_files
from converter.tasks import labels as labelling
from converter.tasks import pictures
from converter.tasks.decoders import decoders
from converter.tasks.judge import Judge, Question

OF_DECODERS = ("score", "threshold")
"""The options of decoders."""
AT_ONCE = 16
"""How many images are shown at most."""


def question(given: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> Question | None:
    """What the options ask, and where they say nothing, what was asked `before`; None for `classify`."""
    before = before or {}
    task = given["task"] or before.get("task") or "classify"
    told = [
        f"--{n.replace('_', '-')}"
        for n in ("decoder", "min_size", "foreground", *OF_DECODERS)
        if given[n] is not None
    ]
    if task == "classify":
        if told:
            raise UsageError(f"{told[0]} is for --task detect or segment")
        return None
    same = before.get("task") == task
    name = given["decoder"] or (before.get("decoder") if same else None)
    if name is None and task == "detect":
        raise UsageError("--task detect needs --decoder", hint=f"one of {', '.join(decoders.names())}")
    name = name or "argmax"
    kind = decoders[name]
    known = {f.name for f in fields(kind)} if hasattr(kind, "__dataclass_fields__") else set()
    options = dict(before.get("options", {})) if same and name == before.get("decoder") else {}
    size, foreground = options.pop("min_size", 0.0), options.pop("foreground", None)
    for option in OF_DECODERS:
        if given[option] is not None:
            if option not in known:
                raise UsageError(f"the decoder {name} has no option --{option}")
            options[option] = given[option]
    spec = given.get("labels")
    if spec in ("folder", "sorted"):
        raise UsageError(f"--labels {spec} is for --task classify", hint="boxes or masks: a .json, a folder")
    foreground = foreground if given["foreground"] is None else given["foreground"]
    return Question(
        task=task,
        name=name,
        decoder=kind(**options),
        labels=None if spec is None else labelling.read_labels(spec, foreground),
        min_size=size if given["min_size"] is None else given["min_size"],
        foreground=foreground,
    )


def show(given: Mapping[str, Any]) -> None:
    """Run the artefact on the images and write the picture."""
    target = Path(given["output"])
    if target.suffix.lower() not in (".png", ".gif"):
        raise UsageError(f"'{target}' is neither a .png nor a .gif")
    stored = artefact.read(given["artefact"])
    asked = question({**given, "labels": None}, stored.report.get("task"))
    if asked is None:
        raise UsageError(
            f"{given['artefact']} was not converted for a task that can be drawn",
            hint="--task detect or segment",
        )
    if len(given["images"]) > AT_ONCE:
        raise UsageError(f"{len(given['images'])} images are too many for one picture, {AT_ONCE} fit")
    steps = sorted(set(given["timesteps"] or stored.report["settings"]["timesteps"]))
    device = torch.device(pipeline.Settings(device=given["device"]).torch_device())
    model = stored.model.to(device)
    paths = [Path(image) for image in given["images"]]
    expected = model.graph.inputs[0].shape
    source = Source("the images", stored.preprocessing, expected, read_files(paths))
    judge = Judge(asked, keep=len(paths))
    judge.measurable(source, range(len(paths)))
    pairs = ((x.to(device), None) for x, _ in source.batches(range(len(paths)), 1))
    with terminal.Bars(quiet=given["quiet"], stages=given["verbose"]) as progress:
        done, total = 0, len(paths) * max(steps)

        def told(more: int) -> None:
            nonlocal done
            done += more
            progress("running", done, total)

        measured = measure(model, stored.ann.to(device), pairs, steps, told, witness=judge)
    write(target, judge, steps, given)
    if given["as_json"]:
        facts = {"artefact": str(given["artefact"]), "file": str(target), "images": list(given["images"])}
        print(
            terminal.document({**facts, "timesteps": steps, "outputs": [asdict(o) for o in measured.outputs]})
        )
        return
    out = terminal.console()
    out.print(terminal.outputs(measured.outputs))
    out.print(
        f"{len(paths)} images, ANN and SNN at T = {', '.join(map(str, steps))}: {target}",
        markup=False,
    )


def write(target: Path, judge: Judge, steps: list[int], given: Mapping[str, Any]) -> None:
    """The picture, whole or not at all."""
    width, certain = given["width"], given["certain"]
    with atomic_file(target, force=given["force"]) as unfinished:
        if target.suffix.lower() == ".gif":
            unfinished.write_bytes(pictures.gif(pictures.animation(judge.pictures, steps, width, certain)))
        else:
            unfinished.write_bytes(pictures.png(pictures.sheet(judge.pictures, steps, width, certain)))
