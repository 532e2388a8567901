"""How each op is said in ONNX's standard operators: one table, `FORMS`.

A form is (writer, node, names of the inputs) -> name of the result. What newer opsets have one operator for
is written with it, so that a reader finds it again; older ones get the same from simpler operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from converter import ops
from converter.errors import Refusal
from converter.exporters._onnx import Writer
from converter.graph import BATCH, Node, Op, batch_axes
from converter.ops.reduce import Reduce

Form = Callable[[Writer, Node, Sequence[str]], str]
FORMS: dict[type[Op], Form] = {}


def lower(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """The name of what `node` computes. Raises `Refusal` where the opset has no way to say it."""
    for kind in type(node.op).__mro__:
        if kind in FORMS:
            return FORMS[kind](w, node, inputs)
    raise Refusal("has no form in ONNX")


def form(*kinds: type[Op]) -> Callable[[Form], Form]:
    """Decorator: this function writes ops of these kinds, and of kinds derived from them."""

    def keep(function: Form) -> Form:
        FORMS.update(dict.fromkeys(kinds, function))
        return function

    return keep


def plain(kind: str, *fields: str, since: int = 1, **named: str) -> Form:
    """The form of an op that is the operator `kind`: attributes are these fields, or `attribute=field`."""
    names = {**{f: f for f in fields}, **named}

    def write(w: Writer, node: Node, inputs: Sequence[str]) -> str:
        needs(w, kind, since)
        return w.add(kind, *inputs, **{a: getattr(node.op, f) for a, f in names.items()})

    return write


def needs(w: Writer, kind: str, since: int) -> None:
    """Raise `Refusal` where the opset is older than the operator."""
    if w.opset < since:
        raise Refusal(f"{kind} is there from opset {since} on")


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
    (value,), op = inputs, _of(node, ops.Affine)
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
    op = _of(node, ops.Clip)
    bounds = ["" if bound is None else w.number(bound) for bound in (op.low, op.high)]
    return w.add("Clip", *inputs, *bounds[: 2 if bounds[1] else 1 if bounds[0] else 0])


@form(ops.Grid)
def grid(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """⌊x / 2^e + ½⌋ · 2^e."""
    op = node.op
    assert isinstance(op, ops.Grid)
    units = w.add("Mul", inputs[0], w.number(2.0**-op.exponent))
    return w.add("Mul", w.add("Floor", w.add("Add", units, w.number(0.5))), w.number(2.0**op.exponent))


@form(ops.Linear)
def linear(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Gemm on a matrix; else MatMul on the last dimension."""
    op = _of(node, ops.Linear)
    bias = [] if op.bias is None else [w.weight(op.bias, f"{w.scope}.bias")]
    if len(node.shape) == 2:
        return w.add("Gemm", *inputs, w.weight(op.weight, f"{w.scope}.weight"), *bias, transB=1)
    product = w.add("MatMul", *inputs, w.weight(op.weight.T, f"{w.scope}.weight"))
    return w.add("Add", product, *bias) if bias else product


@form(ops.AlongAxis)
def along_axis(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """MatMul on the last dimension, or from the left on the one before it; others are turned there."""
    op, rank = _of(node, ops.AlongAxis), len(node.shape)
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
    op, source = _of(node, ops.Reshape), node.inputs[0].shape
    free = bool(batch_axes(source))
    front = free and source[0] == node.shape[0] == BATCH
    target = op.shape if front or not free else node.shape
    shape = w.integers(*target) if target is op.shape else w.shape(target, inputs[0], source)
    return w.add("Reshape", *inputs, shape)


@form(ops.Slice)
def slice_(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Along one axis."""
    op = _of(node, ops.Slice)
    return w.add("Slice", *inputs, *(w.integers(n) for n in (op.start, op.stop, op.dim, op.step)))


@form(ops.Gather)
def gather(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """At constant places."""
    op = _of(node, ops.Gather)
    return w.add("Gather", *inputs, w.weight(op.index, f"{w.scope}.index"), axis=op.dim)


MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@form(ops.Pad)
def pad(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """All beginnings, then all ends."""
    op = _of(node, ops.Pad)
    needs(w, "a Pad that goes round", 19 if op.mode == "circular" else 1)
    before, after = _ends(op.amounts, len(node.shape))
    return w.add("Pad", *inputs, w.integers(*before, *after), mode=MODES[op.mode])


def _ends(amounts: Sequence[int], rank: int) -> tuple[list[int], list[int]]:
    """F.pad's amounts, last dimension first, as (before, after) of each of the last `rank` dimensions."""
    before, after = [0] * rank, [0] * rank
    for place, (first, last) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        before[rank - 1 - place], after[rank - 1 - place] = first, last
    return before, after


@form(ops.PRelu)
def prelu(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """One slope has a dimension, for ONNX."""
    slope = _of(node, ops.PRelu).slope
    return w.add("PRelu", *inputs, w.weight(slope if slope.dim() else slope.reshape(1), f"{w.scope}.slope"))


@form(ops.Smooth)
def smooth(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """The operator of the same name, or what it is made of."""
    op, (x,) = _of(node, ops.Smooth), inputs
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
    alpha, (x,) = _of(node, ops.Swish).alpha, inputs
    inner = x if alpha == 1 else w.add("Mul", x, w.number(alpha))
    return w.add("Mul", x, w.add("Sigmoid", inner))


@form(ops.Pointwise)
def pointwise(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """The operator of the same name."""
    return w.add(_of(node, ops.Pointwise).function, *inputs)


@form(ops.Conv)
def conv(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """The same padding at both ends."""
    op = _of(node, ops.Conv)
    return w.add("Conv", *inputs, *_synapses(w, op), **_windows(op, op.weight.shape[2:]), group=op.groups)


@form(ops.ConvTranspose)
def conv_transpose(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """The same padding at both ends, and what the result has more at the end."""
    op = _of(node, ops.ConvTranspose)
    told = _windows(op, op.weight.shape[2:])
    extra = list(op.output_padding or [0] * (op.weight.dim() - 2))
    return w.add("ConvTranspose", *inputs, *_synapses(w, op), **told, output_padding=extra, group=op.groups)


def _synapses(w: Writer, op: ops.Conv | ops.ConvTranspose) -> list[str]:
    bias = [] if op.bias is None else [w.weight(op.bias, f"{w.scope}.bias")]
    return [w.weight(op.weight, f"{w.scope}.weight"), *bias]


def _windows(op: ops.Conv | ops.ConvTranspose, kernel: Sequence[int]) -> dict[str, Any]:
    rank = len(kernel)
    return {
        "kernel_shape": list(kernel),
        "strides": list(op.stride or [1] * rank),
        "dilations": list(op.dilation or [1] * rank),
        "pads": [*(op.padding or [0] * rank), *(op.padding or [0] * rank)],
    }


@form(ops.BatchNorm)
def batch_norm(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """With the statistics of training."""
    op = _of(node, ops.BatchNorm)
    fields = {"scale": op.scale, "bias": op.bias, "mean": op.mean, "var": op.var}
    given = [w.weight(value, f"{w.scope}.{name}") for name, value in fields.items()]
    return w.add("BatchNormalization", *inputs, *given, epsilon=op.epsilon)


@form(ops.LayerNorm)
def layer_norm(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Over the last dimensions."""
    needs(w, "LayerNormalization", 17)
    op = _of(node, ops.LayerNorm)
    bias = [] if op.bias is None else [w.weight(op.bias, f"{w.scope}.bias")]
    given = [w.weight(op.weight, f"{w.scope}.weight"), *bias]
    return w.add("LayerNormalization", *inputs, *given, axis=-op.weight.dim(), epsilon=op.epsilon)


@form(ops.GroupNorm)
def group_norm(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Before opset 21, where its scale is that of a group, the normalisation of instances of blocks."""
    op, (x,) = _of(node, ops.GroupNorm), inputs
    given = [w.weight(op.weight, f"{w.scope}.weight"), w.weight(op.bias, f"{w.scope}.bias")]
    if op.groups == len(op.weight):
        return w.add("InstanceNormalization", x, *given, epsilon=op.epsilon)
    if w.opset >= 21:
        return w.add("GroupNormalization", x, *given, num_groups=op.groups, epsilon=op.epsilon)
    one, zero = (w.weight(np.full(op.groups, n, dtype=np.float32)) for n in (1, 0))
    size = prod(node.shape[1:]) // op.groups
    blocks = w.add("Reshape", x, w.integers(_front(node), op.groups, size))
    normal = w.add("InstanceNormalization", blocks, one, zero, epsilon=op.epsilon)
    back = w.add("Reshape", normal, w.integers(_front(node), *node.shape[1:]))
    each = (-1, *[1] * (len(node.shape) - 2))
    scaled = w.add("Mul", back, w.weight(op.weight.reshape(each)))
    return w.add("Add", scaled, w.weight(op.bias.reshape(each)))


def _front(node: Node) -> int:
    return -1 if node.shape[0] == BATCH else node.shape[0]


@form(ops.RmsNorm)
def rms_norm(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Before opset 23, where it became an operator, by its equation."""
    op, (x,) = _of(node, ops.RmsNorm), inputs
    weight = w.weight(op.weight, f"{w.scope}.weight")
    if w.opset >= 23:
        return w.add("RMSNormalization", x, weight, axis=-op.weight.dim(), epsilon=op.epsilon)
    dims = tuple(range(len(node.shape) - op.weight.dim(), len(node.shape)))
    mean = reduced(w, "ReduceMean", w.add("Mul", x, x), dims, keep=True)
    root = w.add("Sqrt", w.add("Add", mean, w.number(op.epsilon)))
    return w.add("Mul", w.add("Div", x, root), weight)


@form(ops.LpNorm)
def lp_norm(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Of order 1 or 2."""
    op = _of(node, ops.LpNorm)
    return w.add("LpNormalization", *inputs, p=int(op.p), axis=op.dim)


def _reach(
    size: Sequence[int],
    op: ops.MaxPool | ops.AvgPool,
    dilation: Sequence[int],
    outputs: Sequence[int],
    before: Sequence[int],
) -> list[int]:
    """The padding at the end that the last windows reach: with it, windows are counted alike by everyone."""
    axes = zip(size, op.kernel, op.stride, dilation, outputs, before, strict=True)
    return [max((o - 1) * s + (k - 1) * d + 1 - n - b, 0) for n, k, s, d, o, b in axes]


@form(ops.MaxPool)
def max_pool(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Padding is −∞, told explicitly, also where torch rounds the number of windows up.

    onnxruntime takes no padding as wide as the kernel, holes left out: the least number stands there instead.
    """
    op, rank, (x,) = _of(node, ops.MaxPool), len(node.shape) - 2, inputs
    first, _ = _ends(op.pad, rank)
    before = [a + b for a, b in zip(first, op.padding, strict=True)]
    after = _reach(node.inputs[0].shape[2:], op, op.dilation, node.shape[2:], before)
    if any(max(b, a) >= k for b, a, k in zip(before, after, op.kernel, strict=True)):
        least = w.number(float(np.finfo(np.float32).min))
        x = w.add("Pad", x, w.integers(0, 0, *before, 0, 0, *after), least)
        before, after = [0] * rank, [0] * rank
    told = {"kernel_shape": op.kernel, "strides": op.stride, "dilations": op.dilation}
    return w.add("MaxPool", x, **told, pads=[*before, *after])


@form(ops.AvgPool)
def avg_pool(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Zeros that are counted are put there first; padding itself is not counted."""
    op, rank, (x,) = _of(node, ops.AvgPool), len(node.shape) - 2, inputs
    size, before = list(node.inputs[0].shape[2:]), list(op.padding)
    if op.include_pad and any(before):
        x = w.add("Pad", x, w.integers(*(2 * [0, 0, *before])))
        size, before = [n + 2 * b for n, b in zip(size, before, strict=True)], [0] * rank
    after = _reach(size, op, [1] * rank, node.shape[2:], before)
    told = {"kernel_shape": op.kernel, "strides": op.stride, "pads": [*before, *after]}
    return w.add("AveragePool", x, **told, count_include_pad=0)


@form(Reduce)
def reduce(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """The operator of the same name."""
    op = _of(node, Reduce)
    return reduced(w, type(op).__name__, inputs[0], op.dims, keep=op.keep)


@form(ops.ReduceNorm)
def reduce_norm(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Of order 1 or 2."""
    op = _of(node, ops.ReduceNorm)
    return reduced(w, f"ReduceL{int(op.order)}", inputs[0], op.dims, keep=op.keep)


def reduced(w: Writer, kind: str, x: str, dims: tuple[int, ...], *, keep: bool) -> str:
    """`kind` over `dims`, which became an input in opset 18, and in 13 for the sum."""
    if w.opset >= 18 or kind == "ReduceSum":
        return w.add(kind, x, w.integers(*dims), keepdims=int(keep))
    return w.add(kind, x, axes=list(dims), keepdims=int(keep))


@form(ops.Expand)
def expand(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """A 1 keeps what is there."""
    return w.add("Expand", *inputs, w.integers(*(max(d, 1) for d in _of(node, ops.Expand).shape)))


@form(ops.ExpandBatch)
def expand_batch(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Once for each sample of the second input."""
    first, second = inputs
    shape = [1] * len(node.shape)
    shape[_of(node, ops.ExpandBatch).dim] = node.shape[_of(node, ops.ExpandBatch).dim]
    return w.add("Expand", first, w.shape(tuple(shape), second, node.inputs[1].shape))


@form(ops.Tile)
def tile(w: Writer, node: Node, inputs: Sequence[str]) -> str:
    """Repeats along each dimension."""
    return w.add("Tile", *inputs, w.integers(*_of(node, ops.Tile).repeats))


def _of(node: Node, kind: type[Any]) -> Any:
    assert isinstance(node.op, kind)
    return node.op
