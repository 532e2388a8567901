"""The intermediate graph: a value *is* the immutable node that computes it.

`Op` says what is computed (its parameters are typed fields, calling it is its meaning in the ANN),
`Node` says from what, `Graph` names the ends. A rewrite returns a new graph or the same object.

The batch is a symbol. In shapes it stands as the prime `BATCH`, so ordinary integer arithmetic (and
torch's own shape inference on the meta device) carries it: a dimension that is a multiple of `BATCH`
holds the batch, and prints as `N`, `12N`. A graph whose first dimensions are plain numbers runs at
exactly that batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from converter.errors import ModelError, Refusal
from converter.packed import Packed

BATCH = 1_000_003
"""Stands for the batch size in shapes: a prime no real dimension is a multiple of."""

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Op:
    """What a node computes. Traits are asked for by passes and the emitter instead of names.

    `linear`       f(mean of x) = mean of f(x): affine in all inputs jointly, so it may act on every time step
    `stepwise`     it acts on every time step though it is not linear, because the spiking network is meant so
    `homogeneous`  f(a·x) = a·f(x) for a > 0
    `monotone`     f commutes with max, element by element: f(max(x, y)) = max(f(x), f(y))
    """

    linear: ClassVar[bool] = False
    stepwise: ClassVar[bool] = False
    homogeneous: ClassVar[bool] = False
    monotone: ClassVar[bool] = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        raise NotImplementedError(type(self).__name__)

    @property
    def kind(self) -> str:
        return type(self).__name__

    def tensors(self) -> dict[str, Tensor]:
        """The tensor-valued parameters, by field name."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in values if isinstance(value, Tensor)}

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Op:
        """The same op with every tensor parameter passed through `function`."""
        return replace(self, **{name: function(t) for name, t in self.tensors().items()})

    def settings(self) -> dict[str, object]:
        """The parameters that are neither tensors nor codes, and not at their default."""
        return {
            f.name: value
            for f in fields(self)
            if not isinstance(value := getattr(self, f.name), Tensor | Packed) and value != f.default
        }

    def module(self) -> str:
        """The constructor of the torch.nn module that holds these tensors under these names, or ""."""
        return ""

    def code(self, name: str, *inputs: str) -> str:
        """The Python expression that does in an emitted `model.py` what `__call__` does here, bit for bit.

        `inputs` are expressions; a tensor field stands as `{name}.{field}`; torch is `torch` and `F`.
        """
        raise NotImplementedError(f"{self.kind} has no emitted form")


@dataclass(frozen=True, eq=False)
class Input(Op):
    """A leaf: the value is given when the graph is run."""


@dataclass(frozen=True, eq=False)
class Constant(Op):
    """A leaf that is always `value`. Its batch dimension, if it has one, is 1 and broadcasts."""

    value: Tensor
    linear: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.value

    def code(self, name: str, *inputs: str) -> str:
        return f"{name}.value"


@dataclass(frozen=True, eq=False)
class Node:
    """One value: `op` applied to `inputs`. `shape` has `BATCH` where the batch is."""

    op: Op
    inputs: tuple[Node, ...]
    name: str
    shape: Shape

    @staticmethod
    def of(op: Op, *inputs: Node, name: str) -> Node:
        """A node whose shape is inferred; raises `Refusal` when the op does not fit its inputs."""
        return Node(op, inputs, name, infer_shape(op, *(i.shape for i in inputs)))

    @property
    def where(self) -> str:
        """How errors name this node: kind, name and input shapes."""
        shapes = ", ".join(show_shape(i.shape) for i in self.inputs)
        return f"{self.op.kind} '{self.name}' (input {shapes})" if shapes else f"{self.op.kind} '{self.name}'"

    def __repr__(self) -> str:
        return f"<{self.where} -> {show_shape(self.shape)}>"


Rule = Callable[[Node], Node | None]
Listener = Callable[[Node, Tensor], None]


@dataclass(frozen=True, eq=False)
class Graph:
    """A network: the nodes between `inputs` and `outputs`. Iterating gives them in topological order."""

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    name: str = "network"
    order: tuple[Node, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", _topological(self.inputs, self.outputs))

    def __iter__(self) -> Iterator[Node]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, name: str) -> Node:
        for node in self.order:
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def batch(self) -> int | None:
        """The only batch size this graph runs at, or None when it runs at any."""
        first = self.inputs[0].shape
        return None if first and first[0] == BATCH else (first[0] if first else 1)

    def with_unique_names(self) -> Graph:
        """This graph if every name is, else the same one with repeated names made unique by a number."""
        if len({node.name for node in self.order}) == len(self.order):
            return self
        taken: dict[str, int] = {}

        def unique(name: str) -> str:
            taken[name] = taken.get(name, 0) + 1
            return name if taken[name] == 1 else unique(f"{name}.{taken[name]}")

        return self.map(lambda node: replace(node, name=unique(node.name)))

    def map(self, function: Callable[[Node], Node]) -> Graph:
        """The graph of `function(node)` for every node, once, sources first (their inputs already mapped)."""
        new: dict[Node, Node] = {}
        for node in self.order:
            new[node] = function(replace(node, inputs=tuple(new[i] for i in node.inputs)))
        return replace(
            self, inputs=tuple(new[i] for i in self.inputs), outputs=tuple(new[o] for o in self.outputs)
        )

    def users(self) -> dict[Node, list[Node]]:
        """For every node, the nodes that read it."""
        users: dict[Node, list[Node]] = {node: [] for node in self.order}
        for node in self.order:
            for source in node.inputs:
                users[source].append(node)
        return users

    def rewrite(self, rule: Rule) -> Graph:
        """Apply `rule` everywhere until nothing changes; `rule` returns a replacement node or None.

        Returns `self` when no rule applied. Raises RuntimeError if the rule never comes to rest.
        """
        graph = self
        for _ in range(1000):
            swept = graph._sweep(rule)
            if swept is graph:
                return graph
            graph = swept
        raise RuntimeError(f"rewriting {self.name} with {rule} does not come to rest")

    def _sweep(self, rule: Rule) -> Graph:
        new: dict[Node, Node] = {}
        for node in self.order:
            inputs = tuple(new[i] for i in node.inputs)
            same = all(a is b for a, b in zip(inputs, node.inputs, strict=True))
            rebuilt = node if same else replace(node, inputs=inputs)
            new[node] = rule(rebuilt) or rebuilt
        if all(a is b for a, b in new.items()):
            return self
        return replace(
            self, inputs=tuple(new[i] for i in self.inputs), outputs=tuple(new[o] for o in self.outputs)
        )

    def run(self, *values: Tensor, listen: Listener | None = None) -> tuple[Tensor, ...]:
        """The outputs for these inputs, each [batch, …]; `listen(node, value)` sees every value in turn.

        A value is freed after its last reader. Raises `ModelError` when `values` do not fit the inputs.
        """
        self.check(values)
        left = {node: len(users) for node, users in self.users().items()}
        for output in self.outputs:
            left[output] += 1
        have = dict(zip(self.inputs, values, strict=True))
        for node in self.order:
            if not isinstance(node.op, Input):
                have[node] = node.op(*(have[i] for i in node.inputs))
            if listen is not None:
                listen(node, have[node])
            for source in node.inputs:
                left[source] -= 1
                if not left[source]:
                    have.pop(source, None)
        return tuple(have[o] for o in self.outputs)

    def check(self, values: Sequence[Tensor]) -> None:
        """`ModelError` when `values` are not what the inputs take."""
        if len(values) != len(self.inputs):
            raise ModelError(f"{self.name} takes {len(self.inputs)} inputs, {len(values)} were given")
        for node, value in zip(self.inputs, values, strict=True):
            want, have = node.shape, tuple(value.shape)
            if len(want) != len(have) or any(w not in (h, BATCH) for w, h in zip(want, have, strict=True)):
                only_batch = len(want) > 1 and want[1:] == have[1:]
                raise ModelError(
                    f"input '{node.name}' of {self.name} is {show_shape(want)}, {show_shape(have)} was given",
                    hint="it was exported for this batch alone; a new export can leave the batch free"
                    if only_batch
                    else "check --layout, --resize and --channels",
                )

    def to(self, device: torch.device | str) -> Graph:
        """The same graph with every parameter on `device`."""
        return self.map(lambda node: replace(node, op=node.op.map_tensors(lambda t: t.to(device))))

    def verify(self) -> Graph:
        """This graph, if names are unique, shapes as inferred anew and weights finite; else `ModelError`."""
        names: set[str] = set()
        for node in self.order:
            if node.name in names:
                raise ModelError(f"two nodes are called '{node.name}'")
            names.add(node.name)
            for name, tensor in node.op.tensors().items():
                if tensor.is_floating_point() and (bad := non_finite(tensor)):
                    raise ModelError(
                        f"{node.where} has {bad} non-finite values (NaN or infinite) in its {name}",
                        hint="the checkpoint is damaged, or its training diverged",
                    )
            if isinstance(node.op, Input):
                continue
            try:
                shape = infer_shape(node.op, *(i.shape for i in node.inputs))
            except Refusal as refusal:
                raise ModelError(f"{node.where} does not fit its inputs", why=refusal.why) from refusal
            if shape != node.shape:
                raise ModelError(
                    f"{node.where} is said to be {show_shape(node.shape)}, but computes {show_shape(shape)}"
                )
        return self

    def __str__(self) -> str:
        """One line a node: `name = Kind(inputs, settings) : shape`."""
        lines = []
        for node in self.order:
            told = [i.name for i in node.inputs]
            told += [f"{k}={v}" for k, v in node.op.settings().items()]
            told += [f"{k}:{show_shape(tuple(t.shape))}" for k, t in node.op.tensors().items()]
            lines.append(f"{node.name} = {node.op.kind}({', '.join(told)}) : {show_shape(node.shape)}")
        lines.append(f"return {', '.join(o.name for o in self.outputs)}")
        return "\n".join(lines)


def _topological(inputs: Sequence[Node], outputs: Sequence[Node]) -> tuple[Node, ...]:
    """Every node the outputs need, sources first, each input included; `ModelError` on a cycle."""
    done: dict[Node, None] = dict.fromkeys(inputs)
    open_: dict[Node, None] = {}
    for output in outputs:
        stack = [output]
        while stack:
            node = stack[-1]
            if node in done:
                stack.pop()
                continue
            open_[node] = None
            waiting = [i for i in node.inputs if i not in done]
            for source in waiting:
                if source in open_:
                    raise ModelError(f"{node.where} is part of a cycle through '{source.name}'")
            if waiting:
                stack.extend(reversed(waiting))
                continue
            if isinstance(node.op, Input):
                raise ModelError(f"input '{node.name}' is read but is not among the graph's inputs")
            stack.pop()
            open_.pop(node)
            done[node] = None
    return tuple(done)


def non_finite(tensor: Tensor) -> int:
    """How many values are NaN or infinite. A sum is finite only if every term is: the cheap look first."""
    return 0 if bool(torch.isfinite(tensor.sum())) else int((~torch.isfinite(tensor)).sum())


def infer_shape(op: Op, *shapes: Shape) -> Shape:
    """The shape `op` gives on inputs of these shapes, by running it on the meta device (no memory, no work).

    Raises `Refusal` with torch's own reason when the op does not fit.
    """
    values = [torch.empty(shape, device="meta") for shape in shapes]
    try:
        return tuple(op.map_tensors(lambda t: t.to("meta"))(*values).shape)
    except (RuntimeError, IndexError, ValueError) as error:
        given = ", ".join(show_shape(s) for s in shapes)
        why = str(error).splitlines()[0].replace(str(BATCH), "N")
        raise Refusal(f"does not fit its input {given}: {why}") from error


def batch_axes(shape: Shape) -> tuple[int, ...]:
    """The positions of the dimensions that hold the batch."""
    return tuple(i for i, d in enumerate(shape) if d >= BATCH and d % BATCH == 0)


def show_dim(d: int) -> str:
    """`32`, or `N` and `12N` where the batch is."""
    if d >= BATCH and d % BATCH == 0:
        return "N" if d == BATCH else f"{d // BATCH}N"
    return str(d)


def show_shape(shape: Shape) -> str:
    """`Nx3x32x32`; a scalar is `()`."""
    return "x".join(map(show_dim, shape)) or "()"


def size_of(shape: Shape) -> int:
    """How many values one sample has."""
    size = 1
    for d in shape:
        size *= d // BATCH if batch_axes((d,)) else d
    return size
