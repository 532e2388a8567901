"""How each op is said in ONNX's standard operators; families of ops have files of their own."""

from __future__ import annotations

from collections.abc import Sequence

import converter.exporters._onnx_norms
import converter.exporters._onnx_pools
import converter.exporters._onnx_weights  # noqa: F401  (their forms)
from converter import ops
from converter.errors import Refusal
from converter.exporters._onnx import Writer
from converter.exporters._onnx_forms import FORMS, ends, form, needs, of, plain
from converter.graph import BATCH, Node, batch_axes


def lower(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """The name of what `node` computes. Raises `Refusal` where the opset has no way to say it."""
    for kind in type(node.op).__mro__:
        if kind in FORMS:
            return FORMS[kind](w, node, inputs)
    raise Refusal("has no form in ONNX")


FORMS |= {
    ops.Relu: plain("Relu"),
    ops.LeakyRelu: plain("LeakyRelu", "alpha"),
    ops.ThresholdedRelu: plain("ThresholdedRelu", "alpha"),
    ops.MatMul: plain("MatMul"),
    ops.Mul: plain("Mul"),
    ops.Div: plain("Div"),
    ops.Pow: plain("Pow"),
    ops.Max: plain("Max"),
    ops.Min: plain("Min"),
    ops.Transpose: plain("Transpose", perm="order"),
    ops.Concat: plain("Concat", axis="dim"),
    ops.Softmax: plain("Softmax", axis="dim"),
    ops.LogSoftmax: plain("LogSoftmax", axis="dim"),
    ops.Lrn: plain("LRN", "size", "alpha", "beta", "bias"),
}


@form(ops.Affine)
def affine(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Mul, then Add."""
    (value,), op = inputs, of(node, ops.Affine)
    if op.scale is not None:
        value = w.add("Mul", value, w.weight(op.scale, f"{w.scope}.scale"))
    if op.shift is not None:
        value = w.add("Add", value, w.weight(op.shift, f"{w.scope}.shift"))
    return value


@form(ops.Add)
def add(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """From left to right, so that it is rounded as ours is."""
    total = inputs[0]
    for value in inputs[1:]:
        total = w.add("Add", total, value)
    return total


@form(ops.Clip)
def clip(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """A bound that is None is left out."""
    op = of(node, ops.Clip)
    bounds = ["" if bound is None else w.number(bound) for bound in (op.low, op.high)]
    return w.add("Clip", *inputs, *bounds[: 2 if bounds[1] else 1 if bounds[0] else 0])


@form(ops.Grid)
def grid(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """⌊x / 2^e + ½⌋ · 2^e."""
    op = of(node, ops.Grid)
    units = w.add("Mul", inputs[0], w.number(2.0**-op.exponent))
    return w.add("Mul", w.add("Floor", w.add("Add", units, w.number(0.5))), w.number(2.0**op.exponent))


@form(ops.AlongAxis)
def along_axis(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """MatMul on the last dimension, or from the left on the one before it; others are turned there."""
    op, rank = of(node, ops.AlongAxis), len(node.shape)
    if op.dim == rank - 2:
        return w.add("MatMul", w.weight(op.matrix, f"{w.scope}.matrix"), *inputs)
    matrix = w.weight(op.matrix.T, f"{w.scope}.matrix")
    if op.dim == rank - 1:
        return w.add("MatMul", *inputs, matrix)
    order = [*(i for i in range(rank) if i != op.dim), op.dim]
    turned = w.add("MatMul", w.add("Transpose", *inputs, perm=order), matrix)
    return w.add("Transpose", turned, perm=[order.index(i) for i in range(rank)])


@form(ops.Reshape)
def reshape(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """−1 stands for a batch in front; elsewhere its size is computed, for −1 would not say where it is."""
    op, source = of(node, ops.Reshape), node.inputs[0].shape
    free = bool(batch_axes(source))
    front = free and source[0] == node.shape[0] == BATCH
    target = op.shape if front or not free else node.shape
    shape = w.integers(*target) if target is op.shape else w.shape(target, inputs[0], source)
    return w.add("Reshape", *inputs, shape)


@form(ops.Slice)
def slice_(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Along one axis."""
    op = of(node, ops.Slice)
    return w.add("Slice", *inputs, *(w.integers(n) for n in (op.start, op.stop, op.dim, op.step)))


@form(ops.Gather)
def gather(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """At constant places."""
    op = of(node, ops.Gather)
    return w.add("Gather", *inputs, w.weight(op.index, f"{w.scope}.index"), axis=op.dim)


MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@form(ops.Pad)
def pad(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """All beginnings, then all ends."""
    op = of(node, ops.Pad)
    needs(w, "a Pad that goes round", 19 if op.mode == "circular" else 1)
    before, after = ends(op.amounts, len(node.shape))
    return w.add("Pad", *inputs, w.integers(*before, *after), mode=MODES[op.mode])


@form(ops.PRelu)
def prelu(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """One slope has a dimension, for ONNX."""
    slope = of(node, ops.PRelu).slope
    return w.add("PRelu", *inputs, w.weight(slope if slope.dim() else slope.reshape(1), f"{w.scope}.slope"))


@form(ops.Smooth)
def smooth(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """The operator of the same name, or what it is made of."""
    op, (x,) = of(node, ops.Smooth), inputs
    match op.function:
        case "LogSigmoid":
            return w.add("Neg", w.add("Softplus", w.add("Neg", x)))
        case "Celu" | "Elu":
            return w.add(op.function, x, alpha=op.argument)
        case "Gelu":
            needs(w, "Gelu", 20)
            return w.add("Gelu", x, approximate=op.argument)
        case "Mish" if w.opset < 18:
            return w.add("Mul", x, w.add("Tanh", w.add("Softplus", x)))
        case "HardSwish":
            needs(w, "HardSwish", 14)
    return w.add(op.function, x)


@form(ops.Swish)
def swish(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """x · sigmoid(alpha · x)."""
    alpha, (x,) = of(node, ops.Swish).alpha, inputs
    inner = x if alpha == 1 else w.add("Mul", x, w.number(alpha))
    return w.add("Mul", x, w.add("Sigmoid", inner))


@form(ops.Pointwise)
def pointwise(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """The operator of the same name."""
    return w.add(of(node, ops.Pointwise).function, *inputs)


@form(ops.Expand)
def expand(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """A 1 keeps what is there."""
    return w.add("Expand", *inputs, w.integers(*(max(d, 1) for d in of(node, ops.Expand).shape)))


@form(ops.ExpandBatch)
def expand_batch(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Once for each sample of the second input."""
    first, second = inputs
    shape = [1] * len(node.shape)
    shape[of(node, ops.ExpandBatch).dim] = node.shape[of(node, ops.ExpandBatch).dim]
    return w.add("Expand", first, w.shape(tuple(shape), second, node.inputs[1].shape))


@form(ops.Tile)
def tile(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Repeats along each dimension."""
    return w.add("Tile", *inputs, w.integers(*of(node, ops.Tile).repeats))
