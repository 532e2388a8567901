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
from pathlib import Path
from typing import Any, cast

import onnx
import onnx.inliner
import torch
from google.protobuf.message import DecodeError
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor
from torch import Tensor

import converter.ops  # noqa: F401  (registers the operators)
from converter.constants import fold, in_our_types
from converter.errors import ModelError, Refusal, Unsupported, UsageError
from converter.graph import BATCH, Graph, Input, Node, batch_axes, show_shape
from converter.view import NodeView, Value, lowerings

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
STANDARD = ("", "ai.onnx")
OLDEST_OPSET = 7
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
        name, f"{proto.producer_name} {proto.producer_version}".strip(), _opset(proto), len(proto.graph.node)
    )
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    weights = _weights(proto, folder)
    if not isinstance(model, ModelProto):
        proto = _without_weights(proto)  # one copy in memory, not two
    reader = Reader(proto, weights, name, _ordered(proto), dict(shapes or {}), tuple(outputs or ()))
    return reader.read(), source


def read(model: str | os.PathLike[str] | ModelProto) -> tuple[ModelProto, Path, str]:
    """The parsed file, the folder its external data live in, and a name. Weights stay where they are."""
    if isinstance(model, ModelProto):
        return model, Path(), model.graph.name or "network"
    path = Path(model)
    if not path.is_file():
        raise ModelError(f"there is no file '{path}'" if not path.exists() else f"'{path}' is not a file")
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"'{path}' is not an ONNX file, or is cut short",
            why=str(error).splitlines()[0],
            hint="export it anew, or copy the whole file again",
        ) from error
    if not proto.HasField("graph") or not proto.graph.node:
        raise ModelError(f"'{path}' holds no ONNX network", hint="is it a TensorFlow, PyTorch or text file?")
    return proto, path.parent, path.stem


def _weights(proto: ModelProto, folder: Path) -> dict[str, Tensor]:
    if sparse := [t.values.name for t in proto.graph.sparse_initializer]:
        raise ModelError(f"the weight '{sparse[0]}' is stored sparse", hint="store it dense")
    return {t.name: to_torch(t, folder) for t in proto.graph.initializer}


def _without_weights(proto: ModelProto) -> ModelProto:
    """A copy; the memory of a field that is only cleared is kept as long as the message."""
    for tensor in proto.graph.initializer:
        tensor.ClearField("raw_data")
    slim = ModelProto()
    slim.CopyFrom(proto)
    return slim


def _opset(proto: ModelProto) -> int:
    versions = [o.version for o in proto.opset_import if o.domain in STANDARD]
    opset, newest = int((versions or [1])[0]), int(onnx.defs.onnx_opset_version())
    if not OLDEST_OPSET <= opset <= newest:
        raise ModelError(
            f"the model uses ONNX opset {opset}; opsets {OLDEST_OPSET} to {newest} can be read",
            hint="onnx.version_converter.convert_version, or a new export, gives another opset",
        )
    return opset


def _ordered(proto: ModelProto) -> list[NodeProto]:
    """The file's nodes, sources first; `ModelError` on a cycle or a value that nothing computes."""
    known = {i.name for i in proto.graph.input} | {i.name for i in proto.graph.initializer}
    known |= {i.values.name for i in proto.graph.sparse_initializer}
    makers: dict[str, NodeProto] = {}
    for node in proto.graph.node:
        for output in node.output:
            if output and (output in makers or output in known):
                raise ModelError(
                    f"the value '{output}' is computed twice", why="an ONNX value has one source"
                )
            makers[output] = node
    done: dict[int, NodeProto] = {}
    opened: set[int] = set()
    for root in proto.graph.node:
        stack = [root]
        while stack:
            node = stack[-1]
            if id(node) in done:
                stack.pop()
                continue
            opened.add(id(node))
            needs = [i for i in _reads(node) if i not in known]
            for value in needs:
                if value not in makers:
                    raise ModelError(f"{_where(node)} reads '{value}', which nothing computes")
            waiting = [makers[v] for v in needs if id(makers[v]) not in done]
            if any(id(w) in opened for w in waiting):
                cycle = next(w for w in waiting if id(w) in opened)
                raise ModelError(f"the network has a cycle through {_where(cycle)} and {_where(node)}")
            if waiting:
                stack.extend(waiting)
            else:
                done[id(stack.pop())] = node
    return list(done.values())


def _reads(node: NodeProto) -> list[str]:
    return [name for name in node.input if name]


def _is_known(node: NodeProto, opset: int) -> bool:
    own = {*DROPPED, "Shape", "Size", "Cast", "Constant", "ConstantOfShape"}
    return node.op_type in own or lowerings.find(node.op_type, opset) is not None


def _name(node: NodeProto) -> str:
    return node.name or next((o for o in node.output if o), node.op_type)


def _where(node: NodeProto) -> str:
    return f"{node.op_type} '{_name(node)}'"


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
        opset = _opset(self.proto)
        values: dict[str, Value] = {**self.weights, **{i.name: i for i in inputs}, "": None}
        refusals: list[tuple[str, str]] = []
        needed = self._needed()
        for node in self.order:
            if not needed.intersection(node.output):
                continue
            if any(i not in values for i in _reads(node)):
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
                needed.update(_reads(node))
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
            if _attributes(node).get("to") not in FLOATS:
                raise Refusal(
                    "rounds a value of the network to integers; only casts between float types are dropped"
                )
            return (given[0],)
        if not data:
            return fold(node, [cast("Tensor | None", v) for v in given], opset)
        lower = lowerings.find(node.op_type, opset)
        if lower is None:
            raise Refusal(UNKNOWN)
        view = NodeView(node.op_type, _name(node), opset, _attributes(node), given, tuple(node.output))
        made = lower(view)
        results = made if isinstance(made, tuple) else (made,)
        self._check_unread(node, view, opset, results)
        return cast("Sequence[Value]", results)

    def _check_unread(self, node: NodeProto, view: NodeView, opset: int, results: Sequence[object]) -> None:
        for name in set(view.attributes) - view.read_attributes:
            if view.attributes[name] != _default(node.op_type, opset, name):
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
        return f"{_where(node)} (opset {opset}, input {told})"


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
    attributes = _attributes(node)
    return shape[attributes.get("start", 0) : attributes.get("end", len(value.shape))]


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: _attribute(a) for a in node.attribute}


def _attribute(attribute: AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, TensorProto):
        return to_torch(value, Path())
    if attribute.type == AttributeProto.STRINGS:
        return [v.decode() for v in value]
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _default(kind: str, opset: int, attribute: str) -> Any:
    schema = onnx.defs.get_schema(kind, opset, "")
    known = schema.attributes.get(attribute)
    if known is None or not known.default_value.name:
        return None
    return _attribute(known.default_value)


def to_torch(tensor: TensorProto, folder: Path) -> Tensor:
    """A stored tensor: floats of any width as float32, integers as int64, booleans as they are.

    Raises `ModelError` when its external file is missing, too short, or outside `folder`.
    """
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor = _fetch(tensor, folder)
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ModelError(f"the weight '{tensor.name}' is damaged", why=str(error)) from error
    if array.size == 0 and array.ndim > 1:
        raise ModelError(f"the weight '{tensor.name}' has a dimension of size zero: {array.shape}")
    try:
        return in_our_types(array)
    except Refusal as refusal:
        raise ModelError(f"the weight '{tensor.name}' {refusal.why}") from refusal


def _fetch(tensor: TensorProto, folder: Path) -> TensorProto:
    location = ExternalDataInfo(tensor).location
    try:
        inside = (folder / location).resolve().is_relative_to(folder.resolve())
        if not inside or Path(location).is_absolute():
            raise ModelError(
                f"the weight '{tensor.name}' points outside the model's folder: '{location}'",
                hint="external data must lie beside the model file",
            )
        fetched = TensorProto()
        fetched.CopyFrom(tensor)
        load_external_data_for_tensor(fetched, str(folder))
        return fetched
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"the weights of '{tensor.name}' cannot be read from '{location}'",
            why=str(error).splitlines()[0],
            hint=f"the model needs '{location}' whole, in the same folder",
        ) from error
