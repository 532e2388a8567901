"""An exported ONNX model run by onnxruntime, beside the model in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converter.exporters._check import SAME, Check, apart
from converter.exporters._onnx_step import Step
from converter.graph import BATCH, Graph, Node
from converter.rate import RateModel, State
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
    """Every spike of every layer, and every answer, each step from the states that `model` is in.

    So one spike that rounding has moved is counted once, and not also all that follows from it: in this step
    the layers behind it, and the answer, are not compared.
    """
    spikes = differing = 0
    ahead = layers_ahead(model.graph, model.neurons)
    worst, step, state = 0.0, Step.of(model), State()
    runner, batch = session(path), len(x[0])
    shapes = {h.name: [batch * (d // BATCH) if d >= BATCH else d for d in h.shape] for h in step.all}
    heard: dict[str, Tensor] = {}
    outputs = [output.name for output in runner.get_outputs()]
    names = [node.name for node in model.graph.inputs]
    with torch.inference_mode():
        for frame, currents, _ in zip(model.encoded(x), model.each_step(x), range(timesteps), strict=False):
            feed = dict(zip(names, frame, strict=True)) | step.values(state, shapes)
            told = runner.run(None, {name: value.numpy() for name, value in feed.items()})
            made = {name: torch.from_numpy(np.asarray(v)) for name, v in zip(outputs, told, strict=True)}
            readout, state = model.advance(currents, state, _keep(heard))
            moved: set[Node] = set()
            for node in model.neurons:
                if moved & ahead[node]:
                    continue
                spikes += heard[node.name].numel()
                if differ := int((made[node.name] != heard[node.name]).sum()):
                    differing += differ
                    moved.add(node)
            if not moved:
                worst = max(worst, *(apart(mine, made[n]) for n, mine in zip(outputs, readout, strict=False)))
    return Check("onnxruntime", batch, timesteps, worst, spikes, differing, SAME)


def layers_ahead(graph: Graph, layers: Sequence[Node]) -> dict[Node, frozenset[Node]]:
    """For each of `layers` those of them that it hears of within a step."""
    found: dict[Node, frozenset[Node]] = {}
    for node in graph.order:
        mine = (found[source] | {source} & {*layers} for source in node.inputs)
        found[node] = frozenset().union(*mine)
    return {layer: found[layer] for layer in layers}


def _keep(heard: dict[str, Tensor]) -> Callable[[Node, Tensor], None]:
    def listen(node: Node, value: Tensor) -> None:
        heard[node.name] = value

    return listen


def check_loop(path: Path, model: Model, x: tuple[Tensor, ...], timesteps: int) -> Check:
    """The answers of a whole run beside those of `model`."""
    names = [node.name for node in model.graph.inputs]
    outputs = session(path).run(None, {n: v.numpy() for n, v in zip(names, x, strict=True)})
    with torch.inference_mode():
        readout = model(x if len(x) > 1 else x[0], timesteps)
    mine = readout if isinstance(readout, tuple) else (readout,)
    worst = max(apart(a, torch.from_numpy(b)) for a, b in zip(mine, outputs, strict=True))
    return Check("onnxruntime", len(x[0]), timesteps, worst)
