"""One time step as an ONNX model: image and states in; answer, spikes of every layer and next states out.

Inputs: the network's own (the image, or with another encoding than `current` what it makes of the image for
this step), and every state, `time` (the number of steps done) among them. Outputs: the answer so far
(`readout`, or `readout.NAME` of several), each layer's spikes under its name, each state as `NAME.next`. The
metadata say what the states are before the first step, and the rest (`_onnx_notes`). The batch is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx import ModelProto
from torch import Tensor

from converter.errors import UsageError
from converter.exporters._check import Check, Order
from converter.exporters._onnx import OPSET, Writer, checked_opset, described, model_proto
from converter.exporters._onnx_notes import notes, states
from converter.exporters._onnx_run import check_step
from converter.exporters._onnx_step import Step, write_step
from converter.rate import RateModel
from converter.schedules import Model


def export(model: Model, report: Mapping[str, Any], timesteps: int, *, opset: int = OPSET) -> ModelProto:
    """The step of `model`; `timesteps` is how many it was calibrated for.

    Raises `UsageError` for the schedule pipelined, `Unsupported` naming every node that cannot be written.
    """
    if not isinstance(model, RateModel):
        raise UsageError(
            "under the schedule pipelined a network has no step of its own: it runs window by window",
            hint="--to onnx-loop writes the whole run",
        )
    graph, step = model.graph, Step.of(model)
    reserved = {node.name for node in graph} | {name for h in step.all for name in (h.name, h.next)}
    w = Writer(checked_opset(opset), taken=reserved)
    have = w.values(model.plan.static, {node: node.name for node in graph.inputs})
    made = write_step(w, model, step, have)
    inputs = [described(node.name, node.shape) for node in graph.inputs]
    inputs += [described(h.name, h.shape) for h in step.all]
    outputs = []
    for node, value in zip(graph.outputs, made.answers, strict=True):
        wanted = "readout" if len(graph.outputs) == 1 else f"readout.{node.name}"
        outputs.append(described(w.end(value, wanted), node.shape))
    outputs += [described(node.name, node.shape) for node in model.neurons]
    for held in step.all:
        outputs.append(described(w.add("Identity", made.states[held.name], to=held.next), held.shape))
    told = notes(model, report, timesteps, "step") | {"states": states(step.all)}
    return model_proto(w.graph(graph.name, inputs, outputs), w.opset, told)


def write(model: Model, order: Order, path: Path) -> None:
    """The file of `export`."""
    made = export(model, order.report, order.timesteps, opset=order.opset or OPSET)
    path.write_bytes(made.SerializeToString())


def check(path: Path, model: Model, x: tuple[Tensor, ...], timesteps: int) -> Check:
    """In onnxruntime."""
    assert isinstance(model, RateModel)
    return check_step(path, model, x, timesteps)
