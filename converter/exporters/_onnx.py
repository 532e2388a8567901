"""A graph as an ONNX model of standard operators: what it means as an ANN, written down.

`Writer` grows a list of ONNX nodes; how each op is said in them stands in `_onnx_ops`. A value is named after
the node of ours that computes it, so files, reports and `model.py` speak of the same layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import Tensor

from converter.errors import Refusal, Unsupported, UsageError
from converter.graph import BATCH, Constant, Graph, Input, Node, Shape, batch_axes, show_dim

OPSET = 20
"""Written unless another is asked for: every operator of the table has been standard since."""
OLDEST = 13
BATCH_NAME = "N"


@dataclass
class Writer:
    """ONNX nodes in the making: `add` gives the name of what the new node computes."""

    opset: int = OPSET
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, TensorProto] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    scope: str = "value"
    stored: dict[tuple[str, Shape, bytes], str] = field(default_factory=dict)

    def name(self, wanted: str) -> str:
        """`wanted`, or with a number where another value is called so."""
        name, count = wanted, 1
        while name in self.taken:
            count += 1
            name = f"{wanted}.{count}"
        self.taken.add(name)
        return name

    @contextmanager
    def inside(self, scope: str) -> Iterator[None]:
        """What is added meanwhile is named after `scope`."""
        outer, self.scope = self.scope, scope
        yield
        self.scope = outer

    def add(self, kind: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        """A node of one output, which is called `to`, or after the scope; its name."""
        return self.several(kind, inputs, (to,), **attributes)[0]

    def cast(self, value: str, kind: int) -> str:
        """`value` as numbers of another kind."""
        made = self.add("Cast", value)
        self.nodes[-1].attribute.append(helper.make_attribute("to", kind))
        return made

    def rename(self, value: str, name: str, since: int) -> str:
        """`value`, computed by a node added after the first `since`, under another name; the new name."""
        for node in self.nodes[since:]:
            for names in (node.input, node.output):
                for place, told in enumerate(names):
                    if told == value:
                        names[place] = name
            node.name = node.output[0]
        return name

    def several(
        self, kind: str, inputs: Sequence[str], to: Sequence[str | None], **attributes: Any
    ) -> tuple[str, ...]:
        """A node with as many outputs as there are names in `to`."""
        names = tuple(self.name(f"{self.scope}/{kind}") if name is None else name for name in to)
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], **attributes))
        return names

    def weight(self, value: Tensor | np.ndarray[Any, Any], called: str = "") -> str:
        """A constant of the model, stored once however often it is asked for."""
        array = np.ascontiguousarray(
            value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        ).reshape(value.shape)
        key = (array.dtype.str, tuple(array.shape), array.tobytes())
        if key not in self.stored:
            name = self.name(called or f"{self.scope}/constant")
            self.stored[key] = name
            self.weights[name] = numpy_helper.from_array(array, name)
        return self.stored[key]

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.weight(np.array(value, dtype=np.float32))

    def long(self, value: int) -> str:
        """An int64 scalar."""
        return self.weight(np.array(value, dtype=np.int64))

    def integers(self, *values: int) -> str:
        """A vector of int64."""
        return self.weight(np.array(values, dtype=np.int64))

    def batch(self, value: str, shape: Shape) -> str:
        """The batch size as an int64 vector of one entry, from `value`, which has `shape`."""
        (axis,) = batch_axes(shape)
        size = self.add("Gather", self.add("Shape", value), self.integers(axis))
        share = shape[axis] // BATCH
        return size if share == 1 else self.add("Div", size, self.integers(share))

    def shape(self, shape: Shape, like: str, like_shape: Shape) -> str:
        """`shape` as an int64 vector, its batch taken from `like`."""
        if not batch_axes(shape):
            return self.integers(*shape)
        size = self.batch(like, like_shape)
        parts = []
        for d in shape:
            if not batch_axes((d,)):
                parts.append(self.integers(d))
            else:
                parts.append(size if d == BATCH else self.add("Mul", size, self.integers(d // BATCH)))
        return self.add("Concat", *parts, axis=0)

    def value(self, node: Node, inputs: Sequence[str], to: str | None = None) -> str:
        """What `node` computes from `inputs`, as a value called `to`, or after the node: a name taken before.

        Raises `Refusal` when the opset lacks the operator.
        """
        from converter.exporters._onnx_ops import lower

        name = to or node.name
        with self.inside(name):
            if isinstance(node.op, Constant):
                return self.weight(node.op.value, name)
            before = len(self.nodes)
            made = lower(self, node, inputs)
            if len(self.nodes) == before or self.nodes[-1].output[0] != made:
                return self.add("Identity", made, to=name)
            self.nodes[-1].output[0] = self.nodes[-1].name = name
        return name

    def values(self, nodes: Iterable[Node], have: dict[Node, str]) -> dict[Node, str]:
        """The names of all `nodes`, written in order; `have` names those that are there, and is added to.

        Raises `Unsupported` naming every node that this opset cannot say.
        """
        refusals = []
        for node in nodes:
            if node in have:
                continue
            try:
                have[node] = self.value(node, [have[i] for i in node.inputs])
            except Refusal as refusal:
                refusals.append((node.where, refusal.why))
                have[node] = node.name
        if refusals:
            count = len(refusals)
            raise Unsupported(
                f"opset {self.opset} has no operator for {count} node{'s' * (count > 1)}",
                refusals,
                hint="a newer --opset",
            )
        return have

    def end(self, value: str, wanted: str) -> str:
        """`value` as an output of the model called `wanted`: a value of its own."""
        return self.add("Identity", value, to=self.name(wanted))

    def graph(
        self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
    ) -> GraphProto:
        """All that was written, as an ONNX graph."""
        return helper.make_graph(self.nodes, name, inputs, outputs, list(self.weights.values()))


def checked_opset(opset: int) -> int:
    """`opset`. Raises `UsageError` for one that is not written."""
    newest = int(onnx.defs.onnx_opset_version())
    if not OLDEST <= opset <= newest:
        raise UsageError(f"ONNX opset {opset} is not written; opsets {OLDEST} to {newest} are")
    return opset


def described(name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    """An end of a graph; the batch is written N, and 12N where it is part of a dimension."""
    return helper.make_tensor_value_info(name, kind, [show_dim(d) if batch_axes((d,)) else d for d in shape])


def model_proto(graph: GraphProto, opset: int, notes: dict[str, str] | None = None) -> ModelProto:
    """The model of `graph`, with `notes` as its metadata; the oldest format version that fits the opset."""
    imports = [helper.make_opsetid("", opset)]
    made = helper.make_model(
        graph,
        opset_imports=imports,
        ir_version=helper.find_min_ir_version_for(imports),
        producer_name="ann2snn",
    )
    helper.set_model_props(made, notes or {})
    return made


def graph_to_onnx(graph: Graph, *, opset: int = OPSET) -> ModelProto:
    """The ANN that `graph` means, with its own names, as an ONNX model of standard operators.

    Raises `Unsupported` naming every node that `opset` has no operator for.
    """
    graph = graph.with_unique_names()
    writer = Writer(checked_opset(opset), taken={node.name for node in graph})
    have = writer.values(graph, {node: node.name for node in graph.inputs})
    ends: list[ValueInfoProto] = []
    told: set[str] = set()
    for node in graph.outputs:
        value = have[node]
        if value in told or isinstance(node.op, Input | Constant):
            value = writer.end(value, f"{node.name}.out")
        told.add(value)
        ends.append(described(value, node.shape))
    starts = [described(node.name, node.shape) for node in graph.inputs]
    return model_proto(writer.graph(graph.name, starts, ends), opset)
