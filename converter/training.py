"""What `ann2snn train` does: an ONNX file and data in, an ONNX file trained for its conversion out.

The file is a normal one: activations are Clip(0, λ), and its metadata say how it came about. λ is the
threshold that the network was trained for; `convert --calibrator ceiling` takes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape

from calibrators.training import Recipe, recipes
from calibrators.training._loss import Loss
from calibrators.training._samples import Samples, transform_of
from calibrators.training._settings import Settings
from calibrators.training._team import team
from calibrators.training._trainer import Log, Result, fit, prepared
from converter import config, pipeline, terminal
from converter.commands import device, model_path, opened, preprocessing, show, tell
from converter.data import TRAIN, Source
from converter.errors import ArtefactError, ConversionError, UsageError
from converter.exporters import _words as words
from converter.exporters._onnx import graph_to_onnx
from converter.files import atomic_file, refuse_file, sha256
from converter.graph import Graph
from converter.importer import load
from converter.passes import apply
from converter.passes.spike import Spike
from converter.preprocessing import Preprocessing

Options = Mapping[str, Any]
OF_RECIPES = ("levels", "steps", "decay", "window", "tau", "phases", "weights", "spiking_input")
CHECKPOINT = ".checkpoint"
"""What is added to the target's name while the training runs."""
PREFIX = "ann2snn."
"""Of the metadata's keys."""


def train(given: Options) -> None:
    """Train, write the ONNX file, print how it went."""
    target = Path(given["file"])
    refuse_file(target, given["force"])
    checkpoint = target.with_name(target.name + CHECKPOINT)
    refuse_checkpoint(checkpoint, given)
    recipe = recipe_of(given)
    where = torch.device(pipeline.Settings(device=device(given)).torch_device())
    settings = settings_of(given, where)
    path = model_path(given["model"])
    torch.manual_seed(settings.seed)
    graph, _ = apply(
        load(path, shapes=dict(map(config.shape_of, given["input_shape"])), outputs=given["cut"]).verify()
    )
    if graph.batch is not None:
        raise UsageError(f"{path} runs at batch {graph.batch} alone", hint="export it with a free batch")
    spiking = Spike(keep_analog=given["keep_analog"])(graph)
    recipe.refuse(spiking)
    prepare = preprocessing(given, Preprocessing())
    data = opened(given, graph, prepare)
    settings.loss.refuse_unlabelled(data.name, data.labelled)
    pool = next((data.parts[p] for p in TRAIN if p in data.parts), range(len(data)))[: given["samples"]]
    samples = Samples.of(data, pool, given["validation"], settings.seed)
    transform = transform_of(given["augment"], graph.inputs[0].shape, prepare.layout)
    identity = {
        "model": sha256(path),
        "data": data.sha256,
        "samples": len(pool),
        "augment": list(given["augment"]),
        "preprocessing": prepare.to_dict(),
    }
    with ExitStack() as stack:
        group, where = stack.enter_context(team(where))
        quiet = given["quiet"] or not group.leads
        bars = stack.enter_context(terminal.Bars(quiet=quiet, stages=given["verbose"]))
        log = stack.enter_context(board(given["log"])) if given["log"] and group.leads else silent
        spiking, graph = spiking.to(where), graph.to(where)
        network = prepared(spiking, samples, settings, where)
        try:
            result = fit(
                recipe,
                network,
                graph,
                samples,
                settings,
                where,
                checkpoint=checkpoint,
                identity=identity,
                resume=given["resume"],
                transform=transform,
                team=group,
                progress=bars,
                log=log,
            )
        except KeyboardInterrupt:
            if group.leads:
                tell(given, f"what was trained is in {checkpoint}: the same command with --resume goes on")
            raise
        if not group.leads:
            return
    notes = notes_of(given["recipe"], recipe, settings, result, data, identity)
    write(result.graph.to("cpu"), notes, target, force=given["force"])
    checkpoint.unlink(missing_ok=True)
    say(given, recipe, result, samples, target, notes)


def refuse_checkpoint(checkpoint: Path, given: Options) -> None:
    """Raise where a checkpoint is in the way, or one is asked for that is not there."""
    if given["resume"] and not checkpoint.is_file():
        raise UsageError(f"there is no {checkpoint} to resume from", hint="leave --resume out to begin")
    if checkpoint.exists() and not given["resume"] and not given["force"]:
        raise ArtefactError(
            f"{checkpoint} is there, from a training that did not end",
            hint="--resume goes on with it, --force starts afresh",
        )


def recipe_of(given: Options) -> Recipe:
    """The recipe asked for, with its options. Raises `UsageError` for an option that it has not."""
    kind: Any = recipes[given["recipe"]]
    own = {f.name for f in fields(kind)}
    for name in OF_RECIPES:
        if given[name] is not None and name not in own:
            raise UsageError(f"the recipe {given['recipe']} has no option --{name.replace('_', '-')}")
    found: Recipe = kind(**{n: given[n] for n in OF_RECIPES if n in own and given[n] is not None})
    return found


def settings_of(given: Options, where: torch.device) -> Settings:
    """How to train, as the options say."""
    precision = given["precision"]
    if precision == "auto":
        precision = "bfloat16" if where.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return Settings(
        **{
            f.name: given[f.name]
            for f in fields(Settings)
            if f.name in given and f.name not in ("precision",)
        },
        loss=Loss(given["distill"], given["temperature"], given["match"], given["features"]),
        precision=precision,
    )


def notes_of(
    name: str, recipe: Recipe, settings: Settings, result: Result, data: Source, identity: Mapping[str, Any]
) -> dict[str, str]:
    """The file's metadata: what made it, on what, and the thresholds it was trained for."""
    told = {
        "recipe": name,
        "options": asdict(recipe),  # type: ignore[call-overload]
        "settings": asdict(settings),
        "model_sha256": identity["model"],
        "data": data.name,
        "data_sha256": data.sha256,
        "preprocessing": data.preprocessing.to_dict(),
        "thresholds": dict(result.thresholds),
        "input_peak": result.peak,
        "held_out": dict(result.history[-1]),
        "versions": pipeline.versions(),
    }
    return {
        PREFIX + key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()
    }


def write(graph: Graph, notes: Mapping[str, str], target: Path, force: bool) -> None:
    """The ONNX file, whole or not at all."""
    import onnx

    model = graph_to_onnx(graph)
    onnx.helper.set_model_props(model, dict(notes))
    with atomic_file(target, force) as unfinished:
        unfinished.write_bytes(model.SerializeToString())


def say(
    given: Options, recipe: Recipe, result: Result, samples: Samples, target: Path, notes: Mapping[str, str]
) -> None:
    """The epochs, and what to do with the file."""
    if given["as_json"]:
        told = {key.removeprefix(PREFIX): _read(value) for key, value in notes.items()}
        print(terminal.document({**told, "file": str(target), "epochs": result.history, "ann": result.ann}))
        return
    made = terminal.table("epoch", "phase", "lr", "loss", "accuracy", "agreement", left=("phase",))
    for row in result.history:
        shares = words.percent(row.get("accuracy")), words.percent(row["agreement"])
        made.add_row(str(row["epoch"]), row["phase"], f"{row['lr']:.2g}", f"{row['loss']:.4f}", *shares)
    made.add_section()
    made.add_row("ANN", "", "", "", words.percent(result.ann.get("accuracy")), "", style="bold")
    low, high = min(result.thresholds.values()), max(result.thresholds.values())
    show(
        made,
        f"trained on {len(samples.train)} samples, measured on {len(samples.held_out)} held out from them",
        f"thresholds {low:.3g} … {high:.3g} of {len(result.thresholds)} layers",
        escape(f"written: {target}; ann2snn convert {target} --calibrator ceiling takes its thresholds"),
    )


def _read(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def silent(numbers: Mapping[str, float], step: int) -> None:
    """No log."""


class board:
    """A log that TensorBoard reads, in the directory `where`."""

    def __init__(self, where: str) -> None:
        """Raise `ConversionError` without tensorboard."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConversionError("--log needs tensorboard", hint="pip install tensorboard") from error
        self._writer = SummaryWriter(where)

    def __enter__(self) -> Log:
        return self._write

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def _write(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


__all__ = ["train"]
