"""How an op is computed in a run: as fast as it can be, and with the same bits in a batch of any size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from converter.engine import onednn, sparse
from converter.engine.codes import EXACT
from converter.engine.sparse import Sparse
from converter.graph import Op
from converter.ops import Conv, Gather, Linear

Function = Callable[..., Tensor]


@dataclass
class Packed(ABC):
    """The weight of an op, laid out once for each size of input, and anew when it was written to."""

    op: Conv | Linear
    laid: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    version: int = -1

    def weight(self, shape: tuple[int, ...]) -> Tensor:
        """The weight for inputs of this shape."""
        if (now := version_of(self.op.weight)) != self.version:
            self.laid, self.version = {}, now
        if shape not in self.laid:
            self.laid[shape] = self._lay(shape)
        return self.laid[shape]

    @abstractmethod
    def _lay(self, shape: tuple[int, ...]) -> Tensor: ...

    def __deepcopy__(self, memo: object) -> Packed:
        return type(self)(self.op)


@dataclass
class Convolution(Packed):
    """A convolution in channels_last: dense, or with the same bits spike by spike, where there are few."""

    op: Conv
    by_spike: dict[tuple[int, ...], Sparse | None] = field(default_factory=dict)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        if not onednn.fits(self.op, x):
            return self.op(x)
        shape = tuple(x.shape)
        if shape not in self.by_spike:
            self.by_spike[shape] = Sparse(self.op, shape) if sparse.fits(self.op, shape) else None
        by_spike = self.by_spike[shape]
        if by_spike is not None and by_spike.pays(x):
            return by_spike(x, self.weight(()))
        return onednn.convolve(self.op, self.weight(shape), x)

    def _lay(self, shape: tuple[int, ...]) -> Tensor:
        return onednn.pack(self.op, shape) if shape else sparse.laid(self.op)

    @property
    def may_split(self) -> bool:
        """Whether spikes may be taken one by one here."""
        weight = self.op.weight
        plain = weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.dim() == 4
        return plain and self.op.groups == 1 and onednn.available() and sparse.there()


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

    def _lay(self, shape: tuple[int, ...]) -> Tensor:
        return onednn.pack_matrix(self.op, shape[0])


@dataclass
class Narrow(Packed):
    """A synapse in numbers of 16 bits, for a GPU that is faster in them; what comes out is as it was."""

    op: Conv | Linear
    number: torch.dtype = torch.bfloat16

    def __call__(self, x: Tensor) -> Tensor:
        return self.narrowed()(x.to(self.number)).to(x.dtype)

    def narrowed(self) -> Op:
        """The op with its weights in these numbers."""
        weight = self.weight(())
        bias = None if self.op.bias is None else self.op.bias.to(self.number)
        return replace(self.op, weight=weight, bias=bias, packed=None)

    def _lay(self, shape: tuple[int, ...]) -> Tensor:
        return self.op.weight.to(self.number)

    def __deepcopy__(self, memo: object) -> Narrow:
        return type(self)(self.op, number=self.number)


@dataclass(frozen=True)
class Gathered:
    """Values by index, which stay in channels_last; by torch's own operator they would not."""

    op: Gather

    def __call__(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
            return self.op(x)
        dim = (0, 3, 1, 2)[self.op.dim]
        return x.permute(0, 2, 3, 1).index_select(dim, self.op.index).permute(0, 3, 1, 2)


def function_of(op: Op, number: torch.dtype = torch.float32) -> Function:
    """How `op` is computed in a run, synapses in numbers of this type."""
    if number != torch.float32 and isinstance(op, Conv | Linear):
        return Narrow(op, number=number)
    if isinstance(op, Conv):
        return Convolution(op)
    if isinstance(op, Gather):
        return Gathered(op)
    return Product(op) if isinstance(op, Linear) else op


def version_of(tensor: Tensor) -> int:
    """Changes when the tensor is written to."""
    return 0 if tensor.is_inference() else tensor._version


def exactly(op: Op, exponent: int | None) -> Function:
    """How a node that the image alone determines is computed, in float64 and exactly.

    Its inputs come in units of 2^exponent; a convolution of codes adds up in float32 while that is exact.
    """
    double = op.map_tensors(lambda t: t.double() if t.is_floating_point() else t)

    def plain(*inputs: Tensor) -> Tensor:
        return double(*(i.double() for i in inputs))

    if not isinstance(op, Conv) or op.packed is None or op.weight.dim() != 4 or exponent is None:
        return plain
    weight = op.packed.codes.float()
    add = function_of(replace(op, weight=weight, bias=None, packed=None))
    sums = float(weight.abs().flatten(1).sum(1).max())
    scale = op.packed.scale.double().reshape(-1, 1, 1)
    bias = op.bias.double().reshape(-1, 1, 1) if op.bias is not None else torch.zeros(1)

    def convolved(*inputs: Tensor) -> Tensor:
        fits = float(inputs[0].abs().max()) * sums * 2.0**-exponent < EXACT
        return add(inputs[0].float()).double().mul_(scale).add_(bias) if fits else plain(*inputs)

    return convolved
