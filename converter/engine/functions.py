"""How an op is computed in a run: as fast as it can be, and with the same bits in a batch of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from converter.engine import onednn
from converter.graph import Op
from converter.ops import Conv, Linear

Function = Callable[..., Tensor]


@dataclass
class Packed:
    """The weight of an op, laid out once for each size of input, and anew when it was written to."""

    op: Conv | Linear
    laid: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    version: int = -1

    def weight(self, shape: tuple[int, ...]) -> Tensor:
        """The weight for inputs of this shape."""
        if (now := version_of(self.op.weight)) != self.version:
            self.laid, self.version = {}, now
        if shape not in self.laid:
            if isinstance(self.op, Conv):
                self.laid[shape] = onednn.pack(self.op, shape)
            else:
                self.laid[shape] = onednn.pack_matrix(self.op, shape[0])
        return self.laid[shape]

    def __deepcopy__(self, memo: object) -> Packed:
        return type(self)(self.op)


@dataclass
class Convolution(Packed):
    """A convolution in channels_last."""

    op: Conv

    def __call__(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        if not onednn.fits(self.op, x):
            return self.op(x)
        return onednn.convolve(self.op, self.weight(tuple(x.shape)), x)


@dataclass
class Product(Packed):
    """A matrix product, of two rows at least: one row alone is another routine, which rounds otherwise."""

    op: Linear

    def __call__(self, x: Tensor) -> Tensor:
        if not onednn.fits(self.op, x):
            return self.op(x)
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        alone = len(rows) == 1
        rows = rows.expand(2, -1).contiguous() if alone else rows
        result = onednn.multiply(self.op, self.weight(tuple(rows.shape)), rows)
        return (result[:1] if alone else result).reshape(*x.shape[:-1], -1)


def function_of(op: Op) -> Function:
    """How `op` is computed in a run."""
    if isinstance(op, Conv):
        return Convolution(op)
    return Product(op) if isinstance(op, Linear) else op


def version_of(tensor: Tensor) -> int:
    """Changes when the tensor is written to."""
    return 0 if tensor.is_inference() else tensor._version
