"""The one place that knows torch's oneDNN operators: convolutions whose weights were laid out beforehand.

They are internals of torch, so each is tried once, on numbers known by hand, before it is used; where it is
not there or wrong, the public operator takes its place. A weight laid out for a convolution also fixes how it
is computed: the same sample gives the same bits in a batch of any size, which F.conv2d does not promise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.ops import Conv, Linear

Function = Callable[..., Tensor]


def pack(conv: Conv, shape: tuple[int, ...]) -> Tensor:
    """The weight of a 2-d convolution, laid out for inputs of this shape."""
    return torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]  # its stub lacks the size
        conv.weight.detach().to_mkldnn(), *geometry(conv), conv.groups, list(shape)
    )


def convolve(conv: Conv, packed: Tensor, x: Tensor) -> Tensor:
    """The convolution with its `packed` weight; x and the result in channels_last."""
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, packed, conv.bias, *geometry(conv), conv.groups, "none", [], ""
    )
    return result


def charge(conv: Conv, packed: Tensor, membrane: Tensor, x: Tensor) -> None:
    """membrane += the convolution, in the same pass over memory and with the same rounding as in two."""
    torch.ops.mkldnn._convolution_pointwise_.binary(
        membrane, x, packed, conv.bias, *geometry(conv), conv.groups, "add", 1.0, None, [], None
    )


def pack_matrix(linear: Linear, rows: int) -> Tensor:
    """The weight of a matrix product, laid out for so many rows."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
    return packed


def multiply(linear: Linear, packed: Tensor, rows: Tensor) -> Tensor:
    """The product with its `packed` weight, for two rows or more: one alone is rounded otherwise."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, linear.bias, "none", [], "")
    return result


def geometry(conv: Conv) -> tuple[list[int], list[int], list[int]]:
    """Padding, stride and dilation as oneDNN takes them."""
    return list(conv.padding or (0, 0)), list(conv.stride or (1, 1)), list(conv.dilation or (1, 1))


@cache
def available() -> bool:
    """Whether the operators are there and compute what they should."""
    conv = Conv(torch.arange(18.0).reshape(1, 2, 3, 3), torch.tensor([0.5]), (1, 1), (1, 1), (1, 1))
    x = torch.arange(32.0).reshape(1, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            packed = pack(conv, (1, 2, 4, 4))
            plain, membrane = convolve(conv, packed, x), torch.ones(1, 1, 4, 4)
            charge(conv, packed, membrane, x)
            matrix, rows = Linear(torch.eye(3) + 1, torch.ones(3)), torch.arange(6.0).reshape(2, 3)
            product = multiply(matrix, pack_matrix(matrix, 2), rows)
    except (RuntimeError, AttributeError, TypeError):
        return False
    want = F.conv2d(x, conv.weight, conv.bias, 1, 1)
    same = torch.equal(plain, want) and torch.equal(membrane, want + 1)
    return same and torch.equal(product, torch.tensor([[4.0, 5.0, 6.0], [16.0, 17.0, 18.0]]))


def fits(op: Conv | Linear, x: Tensor) -> bool:
    """Whether this op can be done so on `x`: in float32, on a CPU, a convolution in two dimensions."""
    plain = x.dtype == op.weight.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0
    return plain and (x.dim() == 4 or not isinstance(op, Conv)) and available()


def weigher(op: Conv | Linear, codes: Tensor, zero: int, shape: tuple[int, ...]) -> Function:
    """Gives Σ code · (x − zero) of spikes x in uint8, of this shape: whole numbers in float32, exact to 2^24.

    `codes`, of 8 bits, stand in the place of the op's weights, and are laid out once.
    """
    one, none, exact = torch.ones(len(codes)), torch.zeros(len(codes), dtype=torch.int32), torch.float32
    codes = codes.contiguous()
    if isinstance(op, Linear):
        matrix = torch.ops.onednn.qlinear_prepack(codes, list(shape))
        after: tuple[Any, ...] = one, none, None, 1.0, 0, exact, "none", [], ""
        multiplied = torch.ops.onednn.qlinear_pointwise.default
        return lambda x: multiplied(x, 1.0, zero, matrix, *after)
    padding, stride, dilation = geometry(op)
    packed = torch.ops.onednn.qconv_prepack(
        codes, one, 1.0, 0, stride, padding, dilation, op.groups, list(shape)
    )
    spread: tuple[Any, ...] = one, none, None, stride, padding, dilation, op.groups
    rest: tuple[Any, ...] = *spread, 1.0, 0, exact, "none", [], ""
    convolved = torch.ops.onednn.qconv2d_pointwise.default
    return lambda x: convolved(x, 1.0, zero, packed, *rest)


@cache
def whole() -> bool:
    """Whether sums of 8-bit codes times spikes in bytes are exact here: without it, one wraps at 16 bits."""
    draw = torch.Generator().manual_seed(0)
    cases = (
        Conv(torch.empty(16, 16, 3, 3), None, (1, 1), (1, 1), (1, 1)),
        Conv(torch.empty(8, 16, 1, 1), None, (2, 2), (0, 0), (1, 1)),
        Conv(torch.empty(16, 1, 3, 3), None, (1, 1), (1, 1), (1, 1), 16),
        Linear(torch.empty(10, 16)),
    )
    try:
        for op in cases:
            for zero in (0, 128):
                codes = torch.randint(100, 128, op.weight.shape, generator=draw, dtype=torch.int8)
                x = torch.randint(100, 256, (2, 16, 6, 6), generator=draw, dtype=torch.uint8)
                x = x[:, :, 0, 0] if isinstance(op, Linear) else x
                x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()
                exact = replace(op, weight=codes.double())(x.double() - zero)
                if not torch.equal(weigher(op, codes, zero, tuple(x.shape))(x).double(), exact):
                    return False
    except (RuntimeError, AttributeError, TypeError):
        return False
    return True
