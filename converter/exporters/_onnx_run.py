"""An exported ONNX model run by onnxruntime, beside the model in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converter.exporters._check import Check, apart
from converter.exporters._compare import compare_steps
from converter.rate import RateModel
from converter.schedules import Model

Arrays = dict[str, Any]


def session(path: Path) -> Any:
    """An inference session on the CPU, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def steps(runner: Any, frames: Iterator[Arrays], batch: int, timesteps: int) -> Iterator[Arrays]:
    """The outputs of each step of a model written by `onnx`, from the inputs of each step."""
    states = json.loads(runner.get_modelmeta().custom_metadata_map["states"])
    names = [output.name for output in runner.get_outputs()]
    held = {s["name"]: _initial(s, batch) for s in states}
    for frame, _ in zip(frames, range(timesteps), strict=False):
        made = dict(zip(names, runner.run(None, {**frame, **held}), strict=True))
        held = {s["name"]: made[s["next"]] for s in states}
        yield made


def _initial(state: dict[str, Any], batch: int) -> Any:
    """The value before the first step, for this batch: `12N` is twelve times as many."""
    shape = [d if isinstance(d, int) else int(d[:-1] or 1) * batch for d in state["shape"]]
    return np.array(np.broadcast_to(np.array(state["initial"], dtype=np.float32), shape))


def check_step(path: Path, model: RateModel, x: tuple[Tensor, ...], timesteps: int) -> Check:
    """Every spike of every layer, and every answer, each step from the states that `model` is in."""
    runner = session(path)
    names = [node.name for node in model.graph.inputs]
    outputs = [output.name for output in runner.get_outputs()]
    answers = len(model.graph.outputs)

    def told(frame: tuple[Tensor, ...], states: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        feed = dict(zip(names, frame, strict=True)) | states
        values = runner.run(None, {name: value.numpy() for name, value in feed.items()})
        made = {name: torch.from_numpy(np.asarray(v)) for name, v in zip(outputs, values, strict=True)}
        return [made[n] for n in outputs[:answers]], [made[node.name] for node in model.neurons]

    return compare_steps("onnxruntime", told, model, x, timesteps)


def check_run(path: Path, step: Path, model: RateModel, x: tuple[Tensor, ...], timesteps: int) -> Check:
    """The answers of the loop in `path` beside those of `step` run as often, and `step` beside `model`."""
    found = check_step(step, model, x, timesteps)
    frame = {node.name: value.numpy() for node, value in zip(model.graph.inputs, x, strict=True)}
    whole = [torch.from_numpy(value) for value in session(path).run(None, frame)]
    runner = session(step)
    names = [output.name for output in runner.get_outputs()][: len(whole)]
    worst = found.difference
    for time, made in enumerate(steps(runner, repeat(frame), len(x[0]), timesteps)):
        worst = max(
            worst, *(apart(torch.from_numpy(made[n]), w[time]) for n, w in zip(names, whole, strict=True))
        )
    return replace(found, difference=worst)


def check_loop(path: Path, model: Model, x: tuple[Tensor, ...], timesteps: int) -> Check:
    """The answers of a whole run beside those of `model`."""
    names = [node.name for node in model.graph.inputs]
    outputs = session(path).run(None, {n: v.numpy() for n, v in zip(names, x, strict=True)})
    with torch.inference_mode():
        readout = model(x if len(x) > 1 else x[0], timesteps)
    mine = readout if isinstance(readout, tuple) else (readout,)
    worst = max(apart(a, torch.from_numpy(b)) for a, b in zip(mine, outputs, strict=True))
    return Check("onnxruntime", len(x[0]), timesteps, worst)
