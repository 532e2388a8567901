"""ONNX file -> Graph: the dialects of all exporters meet here and become one.

The file is executed once, symbolically. Every ONNX value is either known (a tensor: weights, and the
shape arithmetic exporters write around Reshape and Pad) or a `Node`. What is known is folded with ONNX's
own reference implementation; the rest is lowered by the operators in `converter/ops`. The batch is the
symbol `BATCH`, so `Shape -> Gather -> Concat -> Reshape` folds to what it means. Where the network
contradicts a free batch, it is read again at the one batch size it was exported with.

Nothing is skipped in silence: an attribute or input that an operator did not read, at anything but its
default, refuses the node, and all refusals of a file are reported together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import onnx
import onnx.inliner
import torch
from onnx import ModelProto, NodeProto, TensorProto
from torch import Tensor

import converter.ops  # noqa: F401  (registers the operators)
from converter.constants import fold
from converter.errors import ModelError, Refusal, Unsupported, UsageError
from converter.graph import BATCH, Graph, Input, Node, batch_axes, show_shape
from converter.onnx_file import (
    STANDARD,
    attributes_of,
    default_of,
    name_of,
    opset_of,
    ordered,
    read,
    reads,
    weights_of,
    where,
    without_weights,
)
from converter.view import NodeView, Value, lowerings

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
DROPPED = {"Identity", "Dropout"}
UNKNOWN = "is not among the operators that can be read"


@dataclass(frozen=True)
class Source:
    """Facts about the file a graph came from, for the report."""

    name: str
    producer: str
    opset: int
    nodes: int


def load(
    model: str | os.PathLike[str] | ModelProto,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    outputs: Sequence[str] | None = None,
) -> Graph:
    """Read a trained network.

    `shapes` fixes input dimensions the file leaves open, without the batch: `{"image": (3, 224, 224)}`.
    `outputs` cuts the network at these values (ONNX value or node names) instead of its own outputs.
    Raises `ModelError` for a file that is missing, damaged or contradictory, `Unsupported` naming every
    node that has no lowering.
    """
    return load_with_source(model, shapes=shapes, outputs=outputs)[0]


def load_with_source(
    model: str | os.PathLike[str] | ModelProto,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    outputs: Sequence[str] | None = None,
) -> tuple[Graph, Source]:
    """As `load`, with what the file says of itself."""
    proto, folder, name = read(model)
    source = Source(
        name,
        f"{proto.producer_name} {proto.producer_version}".strip(),
        opset_of(proto),
        len(proto.graph.node),
    )
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    weights = weights_of(proto, folder)
    if not isinstance(model, ModelProto):
        proto = without_weights(proto)  # one copy in memory, not two
    reader = Reader(proto, weights, name, ordered(proto), dict(shapes or {}), tuple(outputs or ()))
    return reader.read(), source


def _is_known(node: NodeProto, opset: int) -> bool:
    own = {*DROPPED, "Shape", "Size", "Cast", "Constant", "ConstantOfShape"}
    return node.op_type in own or lowerings.find(node.op_type, opset) is not None


class NeedsFixedBatch(Exception):
    """The network, read with a free batch, contradicts it."""


@dataclass(frozen=True)
class Reader:
    """One reading of one file."""

    proto: ModelProto
    weights: dict[str, Tensor]
    name: str
    order: list[NodeProto]
    shapes: dict[str, Sequence[int]]
    cut: tuple[str, ...]

    def read(self) -> Graph:
        inputs = [i for i in self.proto.graph.input if i.name not in self.weights]
        if unknown := set(self.shapes) - {i.name for i in inputs}:
            names = ", ".join(i.name for i in inputs)
            raise UsageError(f"the model has no input {sorted(unknown)[0]!r}", hint=f"its inputs: {names}")
        if not inputs:
            raise ModelError(f"{self.name} has no input: every value in it is a constant")
        free = [self._input(i, BATCH) for i in inputs]
        if all(node.shape and node.shape[0] == BATCH for node in free):
            try:
                return self._lower(free, strict=True)
            except (NeedsFixedBatch, Refusal, ModelError):
                pass  # read again below, at the batch it was exported with; errors are told from there
        return self._lower([self._input(i, 1) for i in inputs], strict=False)

    def _input(self, value: onnx.ValueInfoProto, batch: int) -> Node:
        kind = value.type.tensor_type
        dims: list[int | str] = [
            d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim
        ]
        if value.type.WhichOneof("value") != "tensor_type":
            raise ModelError(f"input '{value.name}' is not a tensor")
        if any(d.HasField("dim_value") and d.dim_value <= 0 for d in kind.shape.dim):
            raise ModelError(f"input '{value.name}' has a dimension of size zero or less: {dims}")
        if value.name in self.shapes:
            dims = [*dims[:1], *self.shapes[value.name]] if dims else [1, *self.shapes[value.name]]
        if not kind.HasField("shape") and not dims:
            raise ModelError(
                f"input '{value.name}' has no shape", hint=f"--input-shape {value.name}=3,224,224"
            )
        if opened := [d for d in dims[1:] if not isinstance(d, int)]:
            raise ModelError(
                f"input '{value.name}' leaves its size open: {opened} in {dims}",
                hint=f"--input-shape {value.name}="
                + ",".join("?" if d in opened else str(d) for d in dims[1:]),
            )
        if kind.elem_type not in FLOATS and not self._only_cast(value.name):
            named = TensorProto.DataType.Name(kind.elem_type).lower()
            raise ModelError(f"input '{value.name}' is {named}; a network to convert reads real numbers")
        shape = [
            batch if i == 0 and not (isinstance(d, int) and d > 1) else int(d) for i, d in enumerate(dims)
        ]
        return Node(Input(), (), value.name, tuple(shape))

    def _only_cast(self, name: str) -> bool:
        return all(node.op_type == "Cast" for node in self.order if name in node.input)

    def _lower(self, inputs: list[Node], *, strict: bool) -> Graph:
        """`strict`: the batch is free; raises `NeedsFixedBatch` where the network contradicts that."""
        opset = opset_of(self.proto)
        values: dict[str, Value] = {**self.weights, **{i.name: i for i in inputs}, "": None}
        refusals: list[tuple[str, str]] = []
        needed = self._needed()
        for node in self.order:
            if not needed.intersection(node.output):
                continue
            if any(i not in values for i in reads(node)):
                # Downstream of a refusal: refused itself only if no input could make it readable.
                if node.domain in STANDARD and not _is_known(node, opset):
                    refusals.append((self._described(node, opset, values), UNKNOWN))
                continue
            try:
                for output, value in zip(node.output, self._apply(node, opset, values), strict=False):
                    if strict and isinstance(value, Node):
                        _check_batch(value)
                    values[output] = value
            except Refusal as refusal:
                why = f"{refusal.why} ({refusal.hint})" if refusal.hint else refusal.why
                refusals.append((self._described(node, opset, values), why))
                if strict:
                    raise NeedsFixedBatch from refusal
        if refusals:
            count = len(refusals)
            raise Unsupported(
                f"{self.name} has {count} node{'s' * (count > 1)} that cannot be imported",
                refusals,
                hint="--output NAME cuts the network before them, if what follows is not needed",
            )
        ends = [self._end(name, values) for name in self._ends()]
        if strict and any(batch_axes(end.shape) != (0,) or end.shape[0] != BATCH for end in ends):
            raise NeedsFixedBatch
        return Graph(tuple(inputs), tuple(ends), self.name).with_unique_names()

    def _ends(self) -> list[str]:
        if not self.cut:
            return [o.name for o in self.proto.graph.output]
        made = {o: o for n in self.order for o in n.output}
        named = {n.name: n.output[0] for n in self.order if n.name}
        for name in self.cut:
            if name not in made and name not in named:
                raise UsageError(f"the model has no value or node {name!r} to cut at")
        return [made.get(name) or named[name] for name in self.cut]

    def _needed(self) -> set[str]:
        needed = set(self._ends())
        for node in reversed(self.order):
            if needed.intersection(node.output):
                needed.update(reads(node))
        return needed

    def _end(self, name: str, values: dict[str, Value]) -> Node:
        value = values.get(name)
        if isinstance(value, Node):
            return value
        raise ModelError(f"the output '{name}' does not depend on the input: it is a constant")

    def _apply(self, node: NodeProto, opset: int, values: dict[str, Value]) -> Sequence[Value]:
        """The node's outputs: nodes, or tensors where everything it reads is known."""
        given = [values[name] for name in node.input]
        while given and given[-1] is None:
            given.pop()
        if node.domain not in STANDARD:
            raise Refusal(f"is of the domain '{node.domain}', which is not standard ONNX")
        data = [v for v in given if isinstance(v, Node)]
        if node.op_type in ("Shape", "Size") and data:
            return (_shape_of(node, data[0]),)
        if node.op_type in DROPPED and data:
            if len(given) > 2 and not (isinstance(given[2], Tensor) and not given[2].any()):
                raise Refusal("drops values at random (training mode)", "export the model in eval mode")
            return (given[0],)
        if node.op_type == "Cast" and data:
            if attributes_of(node).get("to") not in FLOATS:
                raise Refusal(
                    "rounds a value of the network to integers; only casts between float types are dropped"
                )
            return (given[0],)
        if not data:
            return fold(node, [cast("Tensor | None", v) for v in given], opset)
        lower = lowerings.find(node.op_type, opset)
        if lower is None:
            raise Refusal(UNKNOWN)
        view = NodeView(node.op_type, name_of(node), opset, attributes_of(node), given, tuple(node.output))
        made = lower(view)
        results = made if isinstance(made, tuple) else (made,)
        self._check_unread(node, view, opset, results)
        return cast("Sequence[Value]", results)

    def _check_unread(self, node: NodeProto, view: NodeView, opset: int, results: Sequence[object]) -> None:
        for name in set(view.attributes) - view.read_attributes:
            if view.attributes[name] != default_of(node.op_type, opset, name):
                raise Refusal(f"has {name} = {view.attributes[name]}, which is not supported")
        for index, value in enumerate(view.values):
            if value is not None and index not in view.read_inputs:
                raise Refusal(f"has an input {index}, which is not supported")
        for output in node.output[len(results) :]:
            if output and self._is_read(output):
                raise Refusal(f"its output '{output}' is used, which is not supported")

    def _is_read(self, value: str) -> bool:
        return value in self._ends() or any(value in node.input for node in self.order)

    def _described(self, node: NodeProto, opset: int, values: dict[str, Value]) -> str:
        shapes = (v.shape for v in (values.get(n) for n in node.input) if v is not None)
        told = ", ".join(show_shape(tuple(s)) for s in shapes) or "none"
        return f"{where(node)} (opset {opset}, input {told})"


def _check_batch(node: Node) -> None:
    """The batch must be there, once: in `node` and in what its lowering made on the way to it."""
    if len(batch_axes(node.shape)) != 1:
        raise NeedsFixedBatch
    for source in node.inputs:
        if batch_axes(source.shape):
            continue
        if source.inputs:
            _check_batch(source)


def _shape_of(node: NodeProto, value: Node) -> Tensor:
    shape = torch.tensor(value.shape, dtype=torch.int64)
    if node.op_type == "Size":
        return shape.prod()
    attributes = attributes_of(node)
    return shape[attributes.get("start", 0) : attributes.get("end", len(value.shape))]
