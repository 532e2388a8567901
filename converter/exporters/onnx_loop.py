"""The whole run as one ONNX model: image in, the answer after every step out, the time loop inside.

The output, `readout`, is [T, batch, …]. What the image alone determines is computed once. Under the schedule
pipelined a layer's window is a loop of its own, and the output is the one answer, [batch, …]. States and
spikes stay inside; `onnx` shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from onnx import ModelProto, TensorProto, load
from torch import Tensor

import converter.exporters._onnx_window  # noqa: F401  (the form of a window)
from converter.errors import UsageError
from converter.exporters import onnx
from converter.exporters._check import Check, Order
from converter.exporters._onnx import OPSET, Writer, checked_opset, described, model_proto
from converter.exporters._onnx_notes import notes
from converter.exporters._onnx_run import check_loop, check_run
from converter.exporters._onnx_step import Held, Step, write_step
from converter.graph import Node
from converter.rate import RateModel
from converter.schedules import Model
from converter.window import windowed


def export(model: Model, report: Mapping[str, Any], timesteps: int, *, opset: int = OPSET) -> ModelProto:
    """The run of `model`, of `timesteps` steps.

    Raises `UsageError` for an input that is drawn at random, `Unsupported` naming what cannot be written.
    """
    if not model.encoding.constant:
        raise UsageError(
            f"the input is encoded by {type(model.encoding).__name__.lower()}, at random in every step",
            why="ONNX has no random numbers that are the same everywhere",
            hint="--to onnx writes one step, which is given what was drawn",
        )
    told = notes(model, report, timesteps, "loop")
    if isinstance(model, RateModel):
        return _stream(model, timesteps, checked_opset(opset), told)
    graph = windowed(model.graph, timesteps)
    w = Writer(checked_opset(opset), taken={node.name for node in graph})
    have = w.values(graph, {node: node.name for node in graph.inputs})
    names = _answers(graph.outputs)
    ends = [described(w.end(have[o], name), o.shape) for o, name in zip(graph.outputs, names, strict=True)]
    starts = [described(node.name, node.shape) for node in graph.inputs]
    return model_proto(w.graph(graph.name, starts, ends), opset, told)


def _answers(outputs: tuple[Node, ...]) -> list[str]:
    return ["readout"] if len(outputs) == 1 else [f"readout.{node.name}" for node in outputs]


def _stream(model: RateModel, timesteps: int, opset: int, told: dict[str, str]) -> ModelProto:
    graph, step = model.graph, Step.of(model)
    w = Writer(opset, taken={n.name for n in graph} | {s for h in step.all for s in (h.name, h.next)})
    have = w.values(model.plan.static, {node: node.name for node in graph.inputs})
    start = [_initial(w, held, graph.inputs[0]) for held in step.all]

    body = Writer(opset, taken=w.taken)
    number, going = body.name("step"), body.name("going")
    made = write_step(body, model, step, dict(have))
    results = [body.add("Identity", going)]
    results += [body.add("Identity", made.states[held.name], to=held.next) for held in step.all]
    answers = [
        body.end(value, f"{node.name}.answer")
        for node, value in zip(graph.outputs, made.answers, strict=True)
    ]
    starts = [described(number, (), TensorProto.INT64), described(going, (), TensorProto.BOOL)]
    starts += [described(held.name, held.shape) for held in step.all]
    ends = [described(results[0], (), TensorProto.BOOL)]
    ends += [described(held.next, held.shape) for held in step.all]
    ends += [described(a, node.shape) for a, node in zip(answers, graph.outputs, strict=True)]
    names = [w.name(name) for name in _answers(graph.outputs)]
    last: list[str | None] = [None] * len(step.all)
    w.several("Loop", (w.long(timesteps), "", *start), [*last, *names], body=body.graph("step", starts, ends))

    inputs = [described(node.name, node.shape) for node in graph.inputs]
    outputs = [described(n, (timesteps, *o.shape)) for n, o in zip(names, graph.outputs, strict=True)]
    return model_proto(w.graph(graph.name, inputs, outputs), opset, told)


def _initial(w: Writer, held: Held, image: Node) -> str:
    """The state before the first step, of the batch of the image."""
    with w.inside(held.name):
        value = w.weight(held.initial)
        if not held.shape:
            return value
        return w.add("Expand", value, w.shape(held.shape, image.name, image.shape))


def write(model: Model, order: Order, path: Path) -> None:
    """The file of `export`."""
    made = export(model, order.report, order.timesteps, opset=order.opset or OPSET)
    path.write_bytes(made.SerializeToString())


def check(path: Path, model: Model, x: tuple[Tensor, ...], timesteps: int) -> Check:
    """In onnxruntime; of a stream against the model of one step, each step of which is held to ours.

    Along a run of its own any program drifts that rounds sums otherwise, so ours is none to compare with.
    """
    if not isinstance(model, RateModel):
        return check_loop(path, model, x, timesteps)
    imports = {entry.domain: entry.version for entry in load(path, load_external_data=False).opset_import}
    with TemporaryDirectory() as folder:
        step = Path(folder) / "step.onnx"
        onnx.write(model, Order(timesteps, imports[""]), step)
        return check_run(path, step, model, x, timesteps)
