"""Random ONNX networks: each gene, a number, adds an operator to what the genes before it made.

Weights keep values near 1, sums do not cancel and nothing is divided by small numbers: rounding decides
nothing, so two right implementations agree.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from onnx import ModelProto

from tests.onnx_builder import Builder, Shape
from tests.random_windows import conv, conv_transpose, global_pool, pad, pool, resize

INPUTS = ((3, 6, 6), (4, 5, 7), (2, 8, 8), (4, 9), (12,), (2, 4, 4, 3))


def network(genes: Sequence[int], *, dynamic: bool) -> tuple[ModelProto, Shape]:
    """The network these genes make, and the shape of one sample.

    Its outputs are the values that nothing reads, and sometimes one that something reads.
    """
    rng = random.Random(genes[0])
    shape = rng.choice(INPUTS)
    made = Builder(dynamic, rng, {"x": (1, *shape)})
    for gene in genes:
        rng.seed(gene)
        rng.choice(STEPS)(made)
    read = {i for node in made.nodes for i in node.input} | {"x"}
    unread = [v for v in (*made.ends, *made.shapes) if v not in read] or made.add("Relu", "x")
    inner = [v for v in made.shapes if v in read and v != "x" and rng.random() < 0.1]
    return made.model([*unread, *inner[-1:]]), shape


# Each step below adds an operator, or a few, to a value of the network, where there is one that fits.


def is_matrix(shape: Shape) -> bool:
    return len(shape) > 1


def reduce(b: Builder) -> None:
    if x := b.recent(lambda s: len(s) > 2):
        axes = b.rng.sample(range(1, len(b.shapes[x])), b.rng.randint(1, len(b.shapes[x]) - 2))
        b.add(b.rng.choice(["ReduceMean", "ReduceMax"]), x, b.constant(axes), keepdims=b.rng.randint(0, 1))


def batch_norm(b: Builder) -> None:
    if x := b.recent(is_matrix):
        c = b.shapes[x][1]
        scale, bias, mean = (
            b.between(0.5, 1.5, c, signed=True),
            b.normal(c, scale=0.3),
            b.normal(c, scale=0.3),
        )
        epsilon = b.rng.choice([1e-5, 1e-3])
        b.add("BatchNormalization", x, scale, bias, mean, b.between(0.5, 2.0, c), epsilon=epsilon)


def activation(b: Builder) -> None:
    r, x = b.rng, b.recent()
    assert x is not None
    _, *size = b.shapes[x]
    match r.randrange(8):
        case 0 | 1 | 2:
            b.add("Relu", x)
        case 3:
            b.add("LeakyRelu", x, alpha=r.choice([0.01, 0.1, 0.5]))
        case 4 if size:
            b.add("PRelu", x, b.between(0.05, 0.5, *r.choice([[1], [size[0], *[1] * (len(size) - 1)], size])))
        case 5:
            b.add("HardSigmoid", x, alpha=0.25)
        case _:
            low, high = b.constant(r.choice([0.0, 0.0, -0.5])), b.constant(r.choice([0.75, 2.0]))
            b.add("Clip", x, *r.choice([(low, high), (low, high), (low,), ("", high)]))


def with_constant(b: Builder) -> None:
    """On either side, of lower, the same or higher rank than the value."""
    r, x = b.rng, b.recent()
    assert x is not None
    full = b.shapes[x]
    partly = tuple(r.choice([1, d]) for d in full)
    channels = (*full[1:2], *[1] * (len(full) - 2))
    shape = r.choice([(), (1,), full[-1:], full[1:], full, partly, channels, (1, 1, *full)])
    kind = r.choice(["Add", "Sub", "Mul", "Div"])
    value = b.between(0.5, 1.5, *shape, signed=kind in ("Mul", "Div"))
    made = b.add(kind, *((value, x) if kind != "Div" and r.random() < 0.4 else (x, value)))
    if made and len(shape) > len(full):
        b.add("Squeeze", *made, b.constant([0, 1]))
        b.leave(*made)


def with_tensor(b: Builder) -> None:
    r, x = b.rng, b.recent()
    assert x is not None
    full = b.shapes[x]
    y = b.recent(lambda s: len(s) == len(full) and all(p in (1, q) for p, q in zip(s, full, strict=True)))
    if y is None:
        return
    match r.randrange(5):
        case 0:
            b.add("Add", *r.choice([(x, y), (y, x)]))
        case 1:
            b.add("Sub", x, *b.add("Mul", y, b.between(0.3, 0.7)))
        case 2:  # a gate, as of squeeze-and-excitation
            b.add("Mul", x, *b.add("HardSigmoid", y))
        case 3:
            b.add("Div", x, *b.add("Clip", y, b.constant(0.5), b.constant(2.0)))
        case _:
            b.add(r.choice(["Max", "Min", "Sum"]), x, y, *r.choice([(), (x,)]))


def concat(b: Builder) -> None:
    if x := b.recent(is_matrix):
        full = b.shapes[x]
        axis = b.rng.randrange(1, len(full))
        y = b.recent(
            lambda s: len(s) == len(full) and all(s[i] == full[i] or i == axis for i in range(len(s)))
        )
        assert y is not None, "x itself fits"
        b.add(
            "Concat", *b.rng.choice([(x, y), (y, x), (x, y, x)]), axis=b.rng.choice([axis, axis - len(full)])
        )


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
            b.add("Gather", x, b.constant(r.randrange(size)), axis=axis)


def there_and_back(b: Builder) -> None:
    """Another layout, where something happens, and back: also with the batch elsewhere than in front."""
    r, x = b.rng, b.recent(is_matrix)
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
    b.leave(*made)


def turn(b: Builder) -> None:
    """Two layouts in a row, the batch in front."""
    x = b.recent(lambda s: len(s) > 3)
    for _ in range(2 if x else 0):
        assert x is not None
        rest = list(range(1, len(b.shapes[x])))
        b.rng.shuffle(rest)
        (x,) = b.add("Transpose", x, perm=[0, *rest])


def reshape(b: Builder) -> None:
    r, x = b.rng, b.recent()
    assert x is not None
    _, *size = b.shapes[x]
    count = math.prod(size)
    part = r.choice([d for d in range(1, count + 1) if count % d == 0])
    target = r.choice([[count], [part, count // part], [part, 1, count // part], [*size, 1]])
    match r.randrange(5):
        case 0:
            b.add("Flatten", x)
        case 1 if 1 in size:
            b.add("Squeeze", x, b.constant([size.index(1) + 1]))
        case 2:
            b.add("Unsqueeze", x, b.constant([r.randint(1, len(size) + 1)]))
        case 3:
            b.add("Reshape", x, b.constant([0 if b.dynamic else r.choice([0, 1]), *target[:-1], -1]))
        case _:
            b.add("Reshape", x, b.constant([r.choice([-1, 0] if b.dynamic else [-1, 0, 1]), *target]))


def matrix(b: Builder) -> None:
    r, x = b.rng, b.recent(is_matrix)
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


def head(b: Builder) -> None:
    """What has no spiking meaning, with nothing after it."""
    if x := b.recent(is_matrix):
        b.ends += (made := b.add(b.rng.choice(["Sigmoid", "Tanh", "Elu", "Softmax", "LogSoftmax"]), x))
        b.leave(*made)


STEPS: tuple[Callable[[Builder], None], ...] = (
    *(conv, conv, conv, conv_transpose, pool, pool, global_pool, reduce, batch_norm, batch_norm),
    *(activation, activation, activation, activation, with_constant, with_constant, with_constant),
    *(with_tensor, with_tensor, concat, pieces, pieces, pad, there_and_back, turn, reshape),
    *(resize, matrix, matrix, head),
)
"""What a gene may do, the common things more often."""
