"""What an operator sees of its ONNX node, and the record of what it looked at.

The importer refuses a node when an attribute or an input that its operator did not read stands at
anything but its default. So an operator that forgets a property refuses it instead of computing
something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from converter.errors import Refusal
from converter.graph import Constant, Node, Op, batch_axes
from converter.registry import Lowerings

T = TypeVar("T")
Value = Tensor | Node | None
"""An ONNX value while importing: known, computed from the input, or (an optional input) absent."""

lowerings = Lowerings()
"""(operator, since_version) -> `lower(view) -> Node | Tensor | tuple of them`, one for each output."""


@dataclass
class NodeView:
    """One ONNX node. Constants are float32 (whatever the file held), integers int64, booleans bool."""

    kind: str
    name: str
    opset: int
    attributes: Mapping[str, Any]
    values: Sequence[Value]
    outputs: Sequence[str] = ("",)
    read_attributes: set[str] = field(default_factory=set)
    read_inputs: set[int] = field(default_factory=set)

    def attribute(self, name: str, default: T) -> T:
        """The attribute (int, float, str, list of them, or Tensor), or `default` where the node has none."""
        self.read_attributes.add(name)
        value: T = self.attributes.get(name, default)
        return value

    def required(self, name: str) -> Any:
        """An attribute that must be there."""
        if name not in self.attributes:
            raise Refusal(f"has no attribute {name}")
        return self.attribute(name, None)

    def value(self, index: int) -> Value:
        """Input `index` as it is: Tensor, Node, or None when absent."""
        self.read_inputs.add(index)
        return self.values[index] if index < len(self.values) else None

    def has(self, index: int) -> bool:
        return index < len(self.values) and self.values[index] is not None

    def known(self, index: int) -> bool:
        """Whether input `index` is a constant."""
        return index < len(self.values) and isinstance(self.values[index], Tensor)

    def data(self, index: int) -> Node:
        """Input `index` as a node; a constant becomes a `Constant` node."""
        value = self.value(index)
        if value is None:
            raise Refusal(f"lacks its input {index}")
        if isinstance(value, Node):
            return value
        value = without_batch(value)
        return Node(Constant(value.float()), (), f"{self.name}.input{index}", tuple(value.shape))

    def constant(self, index: int, what: str) -> Tensor:
        """Input `index`, which must be known now; `what` names it in the refusal."""
        value = self.value(index)
        if value is None:
            raise Refusal(f"lacks its {what} (input {index})")
        if isinstance(value, Node):
            raise Refusal(
                f"its {what} is computed from the network's input (by '{value.name}'); it must be constant"
            )
        return value

    def optional(self, index: int, what: str) -> Tensor | None:
        """Input `index`, known now, or None when absent."""
        return self.constant(index, what) if self.has(index) else None

    def integers(self, index: int, what: str) -> tuple[int, ...] | None:
        """Input `index` as Python integers (shapes hold `BATCH` where the batch is), or None when absent."""
        value = self.optional(index, what)
        return None if value is None else tuple(int(v) for v in value.reshape(-1).tolist())

    def build(self, op: Op, *inputs: Node, part: str = "") -> Node:
        """A node for `op`, named after this ONNX node (`name.part` for an auxiliary one)."""
        return Node.of(op, *inputs, name=f"{self.name}.{part}" if part else self.name)


def without_batch(value: Tensor) -> Tensor:
    """A constant that was expanded over the batch, with that dimension back at 1 (it broadcasts)."""
    for axis in batch_axes(tuple(value.shape)):
        if value.stride(axis) != 0:
            raise Refusal("a constant that differs from sample to sample of the batch has no meaning")
        value = value.narrow(axis, 0, 1)
    return value


def channelwise(values: Tensor, rank: int) -> Tensor:
    """[C] -> [C, 1, …]: one value a channel, broadcast against [batch, C, …] of this rank."""
    return values.reshape(-1, *([1] * (rank - 2))) if values.dim() == 1 and rank > 2 else values
