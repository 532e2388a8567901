"""Folding: what does not depend on the network's input is computed now, by ONNX's own reference.

Shapes hold the batch as `BATCH`, a large number: what would allocate a tensor of that many rows is not
run but expressed by broadcasting (Expand, ConstantOfShape), or refused.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from converter.errors import Refusal
from converter.graph import BATCH

INTEGER_ARITHMETIC = frozenset(
    [
        "Abs",
        "Add",
        "And",
        "Cast",
        "Ceil",
        "Concat",
        "Div",
        "Equal",
        "Floor",
        "Gather",
        "GatherElements",
        "GatherND",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Reshape",
        "Shape",
        "Sign",
        "Size",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
        "Sum",
        "Transpose",
        "Unsqueeze",
        "Where",
        "ScatterND",
        "ScatterElements",
        "Dropout",
        "CastLike",
    ]
)
"""Operators on known integers whose result is no larger than what they read, so `BATCH` may pass through."""

FLOAT_TYPES = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.FLOAT}


def fold(node: NodeProto, inputs: list[Tensor | None], opset: int) -> tuple[Tensor | None, ...]:
    """The outputs of a node whose inputs are all known. Raises `Refusal` when it cannot be computed now."""
    if node.op_type == "Identity":
        return (inputs[0],)
    if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
        raise Refusal("holds a subgraph; control flow is not supported")
    if (lazy := _lazily(node, inputs)) is not None:
        return (lazy,)
    if _holds_batch(inputs) and node.op_type not in INTEGER_ARITHMETIC:
        raise Refusal("makes a constant of the size of the batch")
    try:
        return tuple(_run(node, inputs, opset))
    except Refusal:
        raise
    except Exception as error:  # the reference raises whatever numpy raises
        raise Refusal(f"cannot be computed from its constants: {error}") from error


def _lazily(node: NodeProto, inputs: list[Tensor | None]) -> Tensor | None:
    """Expand and ConstantOfShape without the memory."""
    if node.op_type == "ConstantOfShape" and inputs and inputs[0] is not None:
        attribute = next((a.t for a in node.attribute if a.name == "value"), None)
        value = (
            in_our_types(onnx.numpy_helper.to_array(attribute)) if attribute is not None else torch.zeros(1)
        )
        return value.reshape(()).expand(tuple(inputs[0].tolist()))
    if node.op_type == "Expand" and inputs[0] is not None and inputs[1] is not None:
        return inputs[0].expand(torch.broadcast_shapes(inputs[0].shape, tuple(inputs[1].tolist())))
    return None


def _holds_batch(inputs: list[Tensor | None]) -> bool:
    known = [t for t in inputs if t is not None]
    sized = any(d >= BATCH and d % BATCH == 0 for t in known for d in t.shape)
    integers = [t for t in known if t.dtype == torch.int64 and 0 < t.numel() < 1000]
    return sized or any(bool(((t >= BATCH) & (t % BATCH == 0)).any()) for t in integers)


def _run(node: NodeProto, inputs: list[Tensor | None], opset: int) -> list[Tensor | None]:
    names = [f"i{k}" if t is not None else "" for k, t in enumerate(inputs)]
    outputs = [f"o{k}" if name else "" for k, name in enumerate(node.output)]
    single = onnx.NodeProto()
    single.CopyFrom(node)
    del single.input[:], single.output[:]
    single.input.extend(names)
    single.output.extend(outputs)
    for attribute in single.attribute:
        if attribute.name == "to" and attribute.i in FLOAT_TYPES:
            attribute.i = TensorProto.FLOAT
    values = {
        n: onnx.helper.make_tensor_value_info(n, _type(t), None)
        for n, t in zip(names, inputs, strict=True)
        if t is not None
    }
    results = [onnx.helper.make_tensor_value_info(o, TensorProto.UNDEFINED, None) for o in outputs if o]
    graph = onnx.helper.make_graph([single], "fold", list(values.values()), results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    feeds = {n: t.numpy() for n, t in zip(names, inputs, strict=True) if t is not None}
    made = iter(ReferenceEvaluator(model).run(None, feeds))
    return [in_our_types(np.asarray(next(made))) if o else None for o in outputs]


def _type(tensor: Tensor) -> int:
    kinds = {torch.int64: TensorProto.INT64, torch.bool: TensorProto.BOOL}
    return kinds.get(tensor.dtype, TensorProto.FLOAT)


def in_our_types(array: np.ndarray) -> Tensor:
    """A copy with floats of any width as float32, integers as int64, booleans as they are; else `Refusal`."""
    if array.dtype == np.bool_:
        return torch.from_numpy(np.array(array))
    if np.issubdtype(array.dtype, np.integer):
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind in "OUSc":
        raise Refusal(f"holds {array.dtype}, not numbers")
    return torch.from_numpy(array.astype(np.float32))
