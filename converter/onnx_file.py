"""An ONNX file as it stands: parsed, its nodes in order, its attributes and weights as plain values.

Nothing is understood here yet. What is missing, damaged, cyclic or cut short is told by name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor
from torch import Tensor

from converter.constants import in_our_types
from converter.errors import ModelError, Refusal

STANDARD = ("", "ai.onnx")
OLDEST_OPSET = 7


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


def weights_of(proto: ModelProto, folder: Path) -> dict[str, Tensor]:
    """Every initializer by name, external ones fetched from `folder`. Raises `ModelError`."""
    if sparse := [t.values.name for t in proto.graph.sparse_initializer]:
        raise ModelError(f"the weight '{sparse[0]}' is stored sparse", hint="store it dense")
    return {t.name: to_torch(t, folder) for t in proto.graph.initializer}


def without_weights(proto: ModelProto) -> ModelProto:
    """A copy; the memory of a field that is only cleared is kept as long as the message."""
    for tensor in proto.graph.initializer:
        tensor.ClearField("raw_data")
    slim = ModelProto()
    slim.CopyFrom(proto)
    return slim


def opset_of(proto: ModelProto) -> int:
    """The version of the standard operators the model uses. Raises `ModelError` beyond those known."""
    versions = [o.version for o in proto.opset_import if o.domain in STANDARD]
    opset, newest = int((versions or [1])[0]), int(onnx.defs.onnx_opset_version())
    if not OLDEST_OPSET <= opset <= newest:
        raise ModelError(
            f"the model uses ONNX opset {opset}; opsets {OLDEST_OPSET} to {newest} can be read",
            hint="onnx.version_converter.convert_version, or a new export, gives another opset",
        )
    return opset


def ordered(proto: ModelProto) -> list[NodeProto]:
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
            needs = [i for i in reads(node) if i not in known]
            for value in needs:
                if value not in makers:
                    raise ModelError(f"{where(node)} reads '{value}', which nothing computes")
            waiting = [makers[v] for v in needs if id(makers[v]) not in done]
            if any(id(w) in opened for w in waiting):
                cycle = next(w for w in waiting if id(w) in opened)
                raise ModelError(f"the network has a cycle through {where(cycle)} and {where(node)}")
            if waiting:
                stack.extend(waiting)
            else:
                done[id(stack.pop())] = node
    return list(done.values())


def reads(node: NodeProto) -> list[str]:
    """The values a node reads; optional inputs that are absent are left out."""
    return [name for name in node.input if name]


def name_of(node: NodeProto) -> str:
    """The node's name, or that of what it computes."""
    return node.name or next((o for o in node.output if o), node.op_type)


def where(node: NodeProto) -> str:
    """How errors name a node."""
    return f"{node.op_type} '{name_of(node)}'"


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """The attributes as Python values: numbers, text, lists of them, tensors."""
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


def default_of(kind: str, opset: int, attribute: str) -> Any:
    """What an attribute is where a node does not say it; None when it has no default."""
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
