"""Random ONNX networks: each gene, a number, adds an operator to what the genes before it made.

Shapes come from ONNX's own inference at batch 1; an operator that does not fit there adds nothing. Weights
keep values near 1, sums do not cancel and nothing is divided by small numbers, so float32 decides nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

LARGEST = 800
"""Values of one sample that a tensor may have."""
INPUTS = ((3, 6, 6), (4, 5, 7), (2, 8, 8), (4, 9), (12,), (2, 4, 4, 3))
OPSET = 20

Shape = tuple[int, ...]


@dataclass
class Builder:
    """A network under construction: its values (with their shapes at batch 1), nodes and weights."""

    dynamic: bool
    rng: random.Random
    shapes: dict[str, Shape] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)

    def recent(self, fits: Callable[[Shape], bool] = lambda shape: True) -> str | None:
        """A value whose shape fits, the latest ones more often."""
        found = [name for name, shape in self.shapes.items() if fits(shape)]
        return found[-1 - min(int(self.rng.expovariate(0.7)), len(found) - 1)] if found else None

    def constant(self, values: np.ndarray | Sequence[int]) -> str:
        """A new initializer."""
        array = np.asarray(values)
        name = f"k{len(self.weights)}"
        self.weights[name] = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        return name

    def normal(self, *shape: int, scale: float) -> str:
        """Normal random numbers."""
        return self.constant(np.random.default_rng(self.rng.getrandbits(32)).normal(0, scale, shape))

    def between(self, low: float, high: float, *shape: int, signed: bool = False) -> str:
        """Uniform random numbers, of either sign where `signed`."""
        draw = np.random.default_rng(self.rng.getrandbits(32))
        return self.constant(draw.uniform(low, high, shape) * (draw.choice([-1.0, 1.0], shape) if signed else 1.0))

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """A node, if it fits its inputs: the names of its outputs, else none."""
        names = [f"v{len(self.nodes)}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        node = helper.make_node(kind, list(inputs), names, **attributes)
        shapes = self._inferred(node)
        if not shapes or any(not s or min(s) < 1 or math.prod(s) > LARGEST for s in shapes):
            return []
        self.nodes.append(node)
        self.shapes.update(zip(names, shapes, strict=True))
        return names

    def leave(self, *names: str) -> None:
        """These values are read by nothing that follows."""
        for name in names:
            self.shapes.pop(name, None)

    def _inferred(self, node: NodeProto) -> list[Shape]:
        given = [i for i in node.input if i in self.shapes]
        known = [numpy_helper.from_array(self.weights[i], i) for i in node.input if i in self.weights]
        ends = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in node.output]
        starts = [helper.make_tensor_value_info(i, TensorProto.FLOAT, self.shapes[i]) for i in dict.fromkeys(given)]
        model = helper.make_model(
            helper.make_graph([node], "one", starts, ends, known), opset_imports=[helper.make_opsetid("", OPSET)]
        )
        try:
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError:
            return []
        return [tuple(d.dim_value for d in o.type.tensor_type.shape.dim) for o in inferred.graph.output]

    def model(self, outputs: Sequence[str]) -> ModelProto:
        """The network with these outputs and the constants it reads."""
        batch = "N" if self.dynamic else 1
        start = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *self.shapes["x"][1:]])
        ends = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        read = {i for node in self.nodes for i in node.input}
        kept = [numpy_helper.from_array(w, name) for name, w in self.weights.items() if name in read]
        graph = helper.make_graph(self.nodes, "random", [start], ends, kept)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def network(genes: Sequence[int], *, dynamic: bool) -> tuple[ModelProto, Shape]:
    """The network these genes make, with one to three outputs, and the shape of one sample of its input."""
    rng = random.Random(genes[0])
    shape = rng.choice(INPUTS)
    made = Builder(dynamic, rng, {"x": (1, *shape)})
    for gene in genes:
        made.rng.seed(gene)
        made.rng.choice(STEPS)(made)
    read = {i for node in made.nodes for i in node.input}
    unread = [v for v in (*made.ends, *made.shapes) if v not in {*read, "x"}] or made.add("Relu", "x")
    return made.model(unread[-3:]), shape


# Every step below adds one operator (or a few) to a value of the network, where there is one that fits.


def is_image(shape: Shape) -> bool:
    return 2 < len(shape) < 6


def conv(b: Builder) -> None:
    if x := b.recent(is_image):
        (_, channels, *size), r = b.shapes[x], b.rng
        groups = r.choice([g for g in range(1, channels + 1) if channels % g == 0])
        kernel = [r.randint(1, min(3, d)) for d in size]
        out = groups * r.randint(1, 3)
        w = b.normal(out, channels // groups, *kernel, scale=(channels // groups * math.prod(kernel)) ** -0.5)
        bias = [b.normal(out, scale=0.3)] if r.random() < 0.5 else []
        b.add("Conv", x, w, *bias, group=groups, **_window(r, size, kernel, 2))


def conv_transpose(b: Builder) -> None:
    if x := b.recent(is_image):
        (_, channels, *size), r = b.shapes[x], b.rng
        groups = r.choice([g for g in range(1, channels + 1) if channels % g == 0])
        kernel = [r.randint(1, 3) for _ in size]
        per_group = r.randint(1, 2)
        w = b.normal(channels, per_group, *kernel, scale=(channels // groups * math.prod(kernel)) ** -0.5)
        bias = [b.normal(groups * per_group, scale=0.3)] if r.random() < 0.5 else []
        strides = [r.randint(1, 2) for _ in size]
        extra = [r.randint(0, s - 1) for s in strides]
        pads = [r.randint(0, 1) for _ in range(2 * len(size))]
        b.add("ConvTranspose", x, w, *bias, group=groups, strides=strides, output_padding=extra, pads=pads)


def _window(r: random.Random, size: Sequence[int], kernel: Sequence[int], most: int) -> dict[str, Any]:
    """Strides, dilations and a padding, told in one of the ways there are."""
    told: dict[str, Any] = {"strides": [r.randint(1, 2) for _ in size]}
    if r.random() < 0.3:
        return told | {"auto_pad": r.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])}
    return told | {
        "dilations": [r.randint(1, 2 if 2 * k - 1 <= d else 1) for k, d in zip(kernel, size, strict=True)],
        "pads": [r.randint(0, most) for _ in range(2 * len(size))],
    }


def pool(b: Builder) -> None:
    if x := b.recent(lambda s: is_image(s) and min(s[2:]) > 2):
        r, size = b.rng, b.shapes[x][2:]
        kernel = [r.randint(2, 3) for _ in size]
        told = _window(r, size, kernel, 1) | {"kernel_shape": kernel}
        if "auto_pad" not in told:
            told["ceil_mode"] = r.randint(0, 1)
        if r.random() < 0.5:
            y = b.add("MaxPool", x, **told)
        else:
            y = b.add("AveragePool", x, count_include_pad=r.randint(0, 1), **told)
        if told.get("ceil_mode"):  # ONNX's shape inference counts a window too many where one starts in the padding
            b.ends += y
            b.leave(*y)


def global_pool(b: Builder) -> None:
    if x := b.recent(is_image):
        b.add(b.rng.choice(["GlobalAveragePool", "GlobalMaxPool"]), x)


def reduce(b: Builder) -> None:
    if x := b.recent(lambda s: len(s) > 2):
        axes = b.constant(b.rng.sample(range(1, len(b.shapes[x])), b.rng.randint(1, len(b.shapes[x]) - 2)))
        b.add(b.rng.choice(["ReduceMean", "ReduceMax"]), x, axes, keepdims=b.rng.randint(0, 1))


def batch_norm(b: Builder) -> None:
    if x := b.recent(lambda s: len(s) > 1):
        c = b.shapes[x][1]
        parameters = (b.between(0.5, 1.5, c, signed=True), b.normal(c, scale=0.3), b.normal(c, scale=0.3))
        b.add("BatchNormalization", x, *parameters, b.between(0.5, 2.0, c), epsilon=b.rng.choice([1e-5, 1e-3]))


def activation(b: Builder) -> None:
    r, x = b.rng, b.recent()
    assert x is not None
    shape = b.shapes[x]
    match r.randrange(8):
        case 0 | 1 | 2:
            b.add("Relu", x)
        case 3:
            b.add("LeakyRelu", x, alpha=r.choice([0.01, 0.1, 0.5]))
        case 4 if len(shape) > 1:
            slope = r.choice([(1,), (shape[1], *(1,) * (len(shape) - 2)), shape[1:]])
            b.add("PRelu", x, b.between(0.05, 0.5, *slope))
        case 5:
            b.add("HardSigmoid", x, alpha=0.25)
        case _:
            low, high = (b.constant(np.float32(v)) for v in (r.choice([0.0, 0.0, -0.5]), r.choice([0.75, 2.0])))
            b.add("Clip", x, *r.choice([(low, high), (low, high), (low,), ("", high)]))


def with_constant(b: Builder) -> None:
    r, x = b.rng, b.recent()
    assert x is not None
    full = b.shapes[x]
    shape = r.choice([(), (1,), full[-1:], full[1:], full, (*full[1:2], *(1,) * (len(full) - 2)), (1, 1, *full)])
    if shape[:1] == full[:1] == (1,) and len(shape) == len(full):
        shape = (1, *(r.choice([1, d]) for d in shape[1:]))  # some dimensions broadcast
    kind = r.choice(["Add", "Sub", "Mul", "Div"])
    value = b.between(0.5, 1.5, *shape, signed=kind in ("Mul", "Div"))
    inputs = (value, x) if kind != "Div" and r.random() < 0.4 else (x, value)
    y = b.add(kind, *inputs)
    if y and len(shape) > len(full):
        b.add("Squeeze", y[0], b.constant([0, 1]))
        b.leave(*y)


def with_tensor(b: Builder) -> None:
    r, x = b.rng, b.recent()
    assert x is not None
    shape = b.shapes[x]
    y = b.recent(lambda s: len(s) == len(shape) and all(p in (1, q) for p, q in zip(s, shape, strict=True)))
    if y is None:
        return
    match r.randrange(5):
        case 0:
            b.add("Add", *r.choice([(x, y), (y, x)]))
        case 1 if b.add("Mul", y, b.between(0.3, 0.7)):
            b.add("Sub", x, b.nodes[-1].output[0])
        case 2 if b.add("HardSigmoid", y):  # a gate, as of squeeze-and-excitation
            b.add("Mul", x, b.nodes[-1].output[0])
        case 3 if b.add("Clip", y, b.constant(np.float32(0.5)), b.constant(np.float32(2.0))):
            b.add("Div", x, b.nodes[-1].output[0])
        case _:
            b.add(r.choice(["Max", "Min", "Sum"]), x, y, *r.choice([(), (x,)]))


def concat(b: Builder) -> None:
    r, x = b.rng, b.recent(lambda s: len(s) > 1)
    if x is None:
        return
    axis = r.randrange(1, len(b.shapes[x]))
    rest = lambda s: (*s[:axis], *s[axis + 1 :])  # noqa: E731
    y = b.recent(lambda s: len(s) > axis and rest(s) == rest(b.shapes[x]))
    assert y is not None
    b.add("Concat", x, y, *r.choice([(), (x,)]), axis=r.choice([axis, axis - len(b.shapes[x])]))


def pieces(b: Builder) -> None:
    """Split, Slice, Gather: parts of a value, along any dimension but the batch."""
    r, x = b.rng, b.recent(lambda s: max(s[1:], default=0) > 1)
    if x is None:
        return
    axis = r.choice([i for i, d in enumerate(b.shapes[x]) if i and d > 1])
    size = b.shapes[x][axis]
    match r.randrange(4):
        case 0:
            b.add("Split", x, b.constant([1, size - 1]), outputs=2, axis=axis)
        case 1:
            places = [r.randrange(-size, size) for _ in range(r.randint(1, size))]
            b.add("Gather", x, b.constant(places), axis=axis)
        case 2:
            start, end, step = r.choice([(1, 999, 1), (0, -1, 2), (-1, -999, -1), (0, size, 2), (-2, 999, 1)])
            b.add("Slice", x, *(b.constant([n]) for n in (start, end, axis, step)))
        case _:
            b.add("Gather", x, b.constant(np.int64(r.randrange(size))), axis=axis)


def pad(b: Builder) -> None:
    r, x = b.rng, b.recent(lambda s: 2 < len(s) < 5 and min(s[2:]) > 1)
    if x is None:
        return
    rank = len(b.shapes[x])
    mode = r.choice(["constant", "constant", "reflect", "edge"])
    first = 1 if mode == "constant" else 2
    amounts = [r.randint(0, 1) if i >= first else 0 for i in (*range(rank), *range(rank))]
    value = [b.constant(np.float32(r.choice([0.0, 0.5])))] if mode == "constant" else []
    b.add("Pad", x, b.constant(amounts), *value, mode=mode)


def there_and_back(b: Builder) -> None:
    """Another layout, where something happens, and back: also with the batch elsewhere than in front."""
    r, x = b.rng, b.recent(lambda s: len(s) > 1)
    if x is None:
        return
    order = list(range(len(b.shapes[x])))
    r.shuffle(order)
    made = b.add("Transpose", x, perm=order)
    shape = b.shapes[made[-1]]
    if r.random() < 0.5:
        made += b.add("Add", made[-1], b.normal(*shape, scale=0.5))
    if r.random() < 0.5 and order[-1] != 0:
        made += b.add("MatMul", made[-1], b.normal(shape[-1], 3, scale=shape[-1] ** -0.5))
    if r.random() < 0.5:
        made += b.add("Relu", made[-1])
    b.add("Transpose", made[-1], perm=[order.index(i) for i in range(len(order))])
    b.leave(*made)  # their batch is elsewhere


def reshape(b: Builder) -> None:
    r, x = b.rng, b.recent()
    assert x is not None
    _, *size = b.shapes[x]
    count = math.prod(size)
    split = r.choice([d for d in range(1, count + 1) if count % d == 0])
    target = r.choice([[count], [split, count // split], [*size[:1], -1], [split, 1, count // split], [*size, 1]])
    batch = r.choice([-1, 0] if b.dynamic else [-1, 0, 1, 1])
    if batch == -1 or target.count(-1):
        target = [count // math.prod(d for d in target if d != -1) if d == -1 else d for d in target]
    match r.randrange(4):
        case 0:
            b.add("Flatten", x)
        case 1 if 1 in size:
            b.add("Squeeze", x, b.constant([size.index(1) + 1]))
        case 2:
            b.add("Unsqueeze", x, b.constant([r.randint(1, len(size) + 1)]))
        case _:
            b.add("Reshape", x, b.constant([batch, *target]))


def resize(b: Builder) -> None:
    if x := b.recent(lambda s: len(s) == 4):
        r, (_, _, h, w) = b.rng, b.shapes[x]
        mode, where = r.choice([("nearest", "asymmetric"), ("linear", "half_pixel"), ("linear", "align_corners")])
        told = {"mode": mode, "coordinate_transformation_mode": where, "nearest_mode": "floor"}
        if r.random() < 0.5:
            b.add("Resize", x, "", b.constant([1.0, 1.0, 2.0, r.choice([1.0, 2.0])]), **told)
        else:
            sizes = b.constant([1, b.shapes[x][1], max(h + r.randint(-2, 3), 2), max(w + r.randint(-2, 3), 2)])
            if not b.dynamic:
                b.add("Resize", x, "", "", sizes, **told)


def matrix(b: Builder) -> None:
    r, x = b.rng, b.recent(lambda s: len(s) > 1)
    if x is None:
        return
    *_, rows, inner = shape = b.shapes[x]
    out = r.randint(2, 5)
    match r.randrange(3):
        case 0 if len(shape) == 2:
            turned = r.randint(0, 1)
            w = b.normal(*((out, inner) if turned else (inner, out)), scale=inner**-0.5)
            addend = b.normal(*r.choice([(out,), (1, out), (1,), (1, 1)]), scale=0.5)
            b.add("Gemm", x, w, addend, transB=turned, alpha=r.choice([1.0, 0.5]), beta=r.choice([1.0, 2.0]))
        case 1 if len(shape) > 2:
            b.add("MatMul", b.normal(out, rows, scale=rows**-0.5), x)
        case _:
            b.add("MatMul", x, b.normal(inner, out, scale=inner**-0.5))


STEPS: tuple[Callable[[Builder], None], ...] = (
    *(conv, conv, conv, conv_transpose, pool, pool, global_pool, reduce, batch_norm, batch_norm),
    *(activation, activation, activation, activation, with_constant, with_constant, with_constant),
    *(with_tensor, with_tensor, concat, pieces, pad, there_and_back, reshape, reshape, resize, matrix, matrix),
)
