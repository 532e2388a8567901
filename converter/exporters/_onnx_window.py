"""A neuron's whole window in ONNX: a Loop that charges it once and lets it fire for T steps.

A first spike needs no loop. Its thresholds fall, so the step of the spike is how many of them the membrane
stays below, and what the spike carries stands in a table.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from onnx import TensorProto

from converter.errors import Refusal
from converter.exporters._onnx import Writer, described
from converter.exporters._onnx_forms import form
from converter.exporters._onnx_neurons import PARTS, stepped
from converter.graph import Node
from converter.kernels import kernel_thresholds, kernel_values
from converter.neurons.first_spike import FirstSpike
from converter.window import Window


@form(Window)
def window(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """charge T·z, then nothing; the mean of the spikes."""
    op, (current,) = node.op, inputs
    assert isinstance(op, Window)
    if isinstance(op.neuron, FirstSpike):
        return first_spike(w, op.neuron, current, len(node.shape), op.timesteps)
    if type(op.neuron) not in PARTS:
        raise Refusal("has a neuron that has no form in ONNX")
    shape = w.add("Shape", current)
    steps = w.number(op.timesteps)
    start = [w.add("Expand", w.weight(value), shape) for value in op.neuron.init()]
    nothing = w.add("Expand", w.number(0), shape)
    charge = w.add("Mul", steps, current)
    body = Writer(w.opset, taken=w.taken, scope=w.scope)
    parts = ["charge", "fired", *PARTS[type(op.neuron)]]
    given = [body.name(f"{node.name}/{part}") for part in parts]
    step, going = body.name(f"{node.name}/step"), body.name(f"{node.name}/going")
    after, spikes = stepped(body, op.neuron, given[2:], given[0], "")
    results = [body.add("Identity", going), body.add("Sub", given[0], given[0])]
    results += [body.add("Add", given[1], spikes), *(body.add("Identity", value) for value in after)]
    starts = [described(step, (), TensorProto.INT64), described(going, (), TensorProto.BOOL)]
    starts += [described(name, node.shape) for name in given]
    ends = [described(results[0], (), TensorProto.BOOL)]
    ends += [described(name, node.shape) for name in results[1:]]
    names = [None] * len(parts)
    made = w.several(
        "Loop",
        (w.long(op.timesteps), "", charge, nothing, *start),
        names,
        body=body.graph(f"{node.name}/window", starts, ends),
    )
    return w.add("Div", made[1], steps)


def first_spike(w: Writer, neuron: FirstSpike, current: str, dims: int, window: int) -> str:
    """θ₀·κ(k) of the first step k at which the current, of `dims` dimensions, reaches θ₀·ϑ(k); 0 for none."""
    if neuron.continuous:
        limit = w.weight(neuron.limit())
        time = w.add("Sub", w.number(1), w.add("Div", current, limit))
        return w.add("Mul", limit, w.add("Sub", w.number(1), w.add("Clip", time, w.number(0), w.number(1))))
    if neuron.offset is not None:
        raise Refusal("fires while its input still arrives (--offset), which has no form in ONNX")
    neuron.check(window)
    scale, tau = neuron.calibrated(), neuron.reach(window)
    falling = kernel_thresholds(neuron.form, window, tau, neuron.coder).to(scale)
    rows = torch.stack([scale * threshold for threshold in falling])
    rows = rows.reshape(window, *[1] * (dims - scale.dim()), *scale.shape)
    below = w.add("Less", w.add("Unsqueeze", current, w.integers(0)), w.weight(rows))
    counted = w.cast(below, TensorProto.FLOAT)
    if neuron.grain is not None:  # whole numbers, so the sum of what each later step carries less is exact
        carried = neuron.worth(torch.arange(window + 1).reshape(-1, *[1] * scale.dim()), window)
        less = carried.diff(dim=0).reshape(window, *[1] * (dims - scale.dim()), *scale.shape)
        lost = w.add("ReduceSum", w.add("Mul", counted, w.weight(less)), w.integers(0), keepdims=0)
        return w.add("Add", w.weight(carried[0]), lost)
    count = w.add("ReduceSum", counted, w.integers(0), keepdims=0)
    worth = kernel_values(neuron.form, window, tau).to(scale)
    share = w.add("Gather", w.weight(worth), w.cast(count, TensorProto.INT64))
    return w.add("Mul", w.weight(scale), share)
