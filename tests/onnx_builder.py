"""A random ONNX network under construction: what it has, where something fits, and how to add to it.

Shapes come from ONNX's own inference at batch 1; an operator that does not fit there adds nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.shape_inference
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

LARGEST = 800
"""Values of one sample that a tensor may have."""
OPSET = 20

Shape = tuple[int, ...]


@dataclass
class Builder:
    """The values that may be read (with their shapes at batch 1), nodes, weights, and finished outputs."""

    dynamic: bool
    rng: random.Random
    shapes: dict[str, Shape]
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)

    def recent(self, fits: Callable[[Shape], bool] = lambda shape: True) -> str | None:
        """A value whose shape fits, the latest ones more often."""
        found = [name for name, shape in self.shapes.items() if fits(shape)]
        return found[-1 - min(int(self.rng.expovariate(0.7)), len(found) - 1)] if found else None

    def leave(self, *names: str) -> None:
        """These values are read by nothing that follows."""
        for name in names:
            self.shapes.pop(name, None)

    def constant(self, values: npt.ArrayLike) -> str:
        """A new initializer, float32 or int64."""
        array, name = np.asarray(values), f"k{len(self.weights)}"
        self.weights[name] = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        return name

    def normal(self, *shape: int, scale: float) -> str:
        """Normal random numbers."""
        return self.constant(np.random.default_rng(self.rng.getrandbits(32)).normal(0, scale, shape))

    def between(self, low: float, high: float, *shape: int, signed: bool = False) -> str:
        """Uniform random numbers, of either sign where `signed`."""
        draw = np.random.default_rng(self.rng.getrandbits(32))
        return self.constant(
            draw.uniform(low, high, shape) * draw.choice([-1.0 if signed else 1.0, 1.0], shape)
        )

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

    def _inferred(self, node: NodeProto) -> list[Shape]:
        given = dict.fromkeys(i for i in node.input if i in self.shapes)
        known = [numpy_helper.from_array(self.weights[i], i) for i in node.input if i in self.weights]
        starts = [helper.make_tensor_value_info(i, TensorProto.FLOAT, self.shapes[i]) for i in given]
        ends = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in node.output]
        model = _model(helper.make_graph([node], "one", starts, ends, known))
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
        return _model(helper.make_graph(self.nodes, "random", [start], ends, kept))


def _model(graph: GraphProto) -> ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
