"""The few operators that many ONNX operators come down to: the canonical forms of the graph.

They stand in one private module because the families beside it lower to them and do not import each other.
All but `Clip` are linear, so they act on every time step alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.graph import Op, Shape
from converter.packed import Packed


@dataclass(frozen=True, eq=False)
class Affine(Op):
    """y = x · scale + shift, both broadcast against x; either may be absent."""

    scale: Tensor | None = None
    shift: Tensor | None = None
    linear: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        value = inputs[0] if self.scale is None else inputs[0] * self.scale
        return value if self.shift is None else value + self.shift

    def code(self, name: str, *inputs: str) -> str:
        scaled = inputs[0] if self.scale is None else f"{inputs[0]} * {name}.scale"
        return scaled if self.shift is None else f"{scaled} + {name}.shift"


@dataclass(frozen=True, eq=False)
class Add(Op):
    """The sum of all inputs, from left to right, broadcast against each other."""

    linear: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        total = inputs[0]
        for value in inputs[1:]:
            total = total + value
        return total

    def code(self, name: str, *inputs: str) -> str:
        return " + ".join(inputs)


@dataclass(frozen=True, eq=False)
class Clip(Op):
    """min(max(x, low), high); a bound that is None is infinite."""

    low: float | None = None
    high: float | None = None
    monotone: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        return torch.clamp(inputs[0], min=self.low, max=self.high)

    def code(self, name: str, *inputs: str) -> str:
        return f"torch.clamp({inputs[0]}, min={self.low}, max={self.high})"


@dataclass(frozen=True, eq=False)
class Linear(Op):
    """y[…, o] = bias[o] + sum over i of weight[o, i] · x[…, i], on the last dimension."""

    weight: Tensor
    bias: Tensor | None = None
    packed: Packed | None = None
    linear: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weight, self.bias)

    def module(self) -> str:
        out, in_ = self.weight.shape
        return f"nn.Linear({in_}, {out}, bias={self.bias is not None})"

    def code(self, name: str, *inputs: str) -> str:
        return f"{name}({inputs[0]})"


@dataclass(frozen=True, eq=False)
class AlongAxis(Op):
    """y[…, o, …] = sum over i of matrix[o, i] · x[…, i, …] along `dim`: interpolation, uneven averaging."""

    matrix: Tensor
    dim: int
    linear: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0].movedim(self.dim, -1), self.matrix).movedim(-1, self.dim)

    def code(self, name: str, *inputs: str) -> str:
        return f"F.linear({inputs[0]}.movedim({self.dim}, -1), {name}.matrix).movedim(-1, {self.dim})"


@dataclass(frozen=True, eq=False)
class Movement(Op):
    """Values are only moved, repeated or left out, so every trait holds."""

    linear: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = True
    monotone: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class Reshape(Movement):
    """The same values in another shape; at most one entry is −1, standing where the batch is."""

    shape: Shape

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0].reshape(self.shape)

    def code(self, name: str, *inputs: str) -> str:
        return f"{inputs[0]}.reshape({self.shape})"


@dataclass(frozen=True, eq=False)
class Transpose(Movement):
    """Output dimension i is input dimension order[i]."""

    order: tuple[int, ...]

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0].permute(self.order)

    def code(self, name: str, *inputs: str) -> str:
        return f"{inputs[0]}.permute({self.order})"


@dataclass(frozen=True, eq=False)
class Slice(Movement):
    """x[start:stop:step] along `dim`, with 0 ≤ start ≤ stop ≤ size and step ≥ 1."""

    dim: int
    start: int
    stop: int
    step: int = 1

    def __call__(self, *inputs: Tensor) -> Tensor:
        index = [slice(None)] * self.dim + [slice(self.start, self.stop, self.step)]
        return inputs[0][tuple(index)]

    def code(self, name: str, *inputs: str) -> str:
        step = f":{self.step}" if self.step != 1 else ""
        return f"{inputs[0]}[{':, ' * self.dim}{self.start}:{self.stop}{step}]"


@dataclass(frozen=True, eq=False)
class Gather(Movement):
    """y[…, j, …] = x[…, index[j], …] along `dim`; `index` int64 [j], not negative."""

    index: Tensor
    dim: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0].index_select(self.dim, self.index)

    def code(self, name: str, *inputs: str) -> str:
        return f"{inputs[0]}.index_select({self.dim}, {name}.index)"


@dataclass(frozen=True, eq=False)
class Pad(Movement):
    """Zeros, the mirror image, or the edge around x; `amounts` as F.pad takes them, last dimension first.

    A negative amount cuts off. `mode` is constant (zeros), reflect, replicate or circular.
    """

    amounts: tuple[int, ...]
    mode: str = "constant"

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.pad(inputs[0], self.amounts, self.mode)

    def code(self, name: str, *inputs: str) -> str:
        mode = f", {self.mode!r}" if self.mode != "constant" else ""
        return f"F.pad({inputs[0]}, {self.amounts}{mode})"
