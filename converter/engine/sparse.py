"""Convolutions of spikes in floating point, spike by spike where they are few: the bits that oneDNN gives.

Spikes come as their size and zeros, and a product with zero adds nothing to a sum in float32. So a sum over
what is not zero, in the order in which the dense one goes, is the same to the last bit, and it costs by the
spike. That oneDNN goes tap by tap, and in it channel by channel, is tried for each shape of a layer before it
is relied upon; then either way may be taken at any step, whichever is less work.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.engine import native, onednn
from converter.ops import Conv

VECTOR = 16
"""Outputs of a vector."""
SEEN = 1 << 14
"""Values in sight of a place, at most: so many may have to be listed."""
EVERY = 8
"""Spikes are counted in one place of so many."""
TERM, PLACE, WORD, ADDED = 0.125, 12.0, 1.6, 0.33
"""Nanoseconds on an AMD EPYC with AVX-512, of which only ratios count; `benchmarks crossover` measures them.

Densely a vector of outputs takes TERM for a value in sight. Spike by spike, a place takes PLACE, and WORD for
a vector of values looked at, and each spike ADDED for a vector of outputs.
"""


class Sums(ctypes.Structure):
    """`Sparse` of sparse.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weights", "bias", "out")),
        ("images", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("channels", "height", "width", "outputs", "rows", "columns")),
        *((name, ctypes.c_int32 * 2) for name in ("kernel", "stride", "padding", "dilation")),
    )


class Sparse:
    """A convolution of inputs of one shape."""

    def __init__(self, op: Conv, shape: tuple[int, ...]) -> None:
        self.op, outputs, kernel = op, len(op.weight), tuple(op.weight.shape[2:])
        padding, stride, dilation = onednn.geometry(op)
        each = zip(shape[2:], padding, kernel, dilation, stride, strict=True)
        rows, columns = ((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, p, k, d, s in each)
        self.size = shape[0], outputs, rows, columns
        self.what = Sums(*[None] * 4, *shape, outputs, rows, columns)
        self.what.kernel, self.what.stride = kernel, tuple(stride)
        self.what.padding, self.what.dilation = tuple(padding), tuple(dilation)
        self.few = share_for_spikes(outputs, shape[1], *kernel)

    def pays(self, x: Tensor) -> bool:
        """Whether so few of these values are spikes."""
        places, channels = x.numel() // x.shape[1], x.shape[1]
        return spikes_among(x, EVERY) < self.few * -(-places // EVERY) * channels

    def __call__(self, x: Tensor, weights: Tensor) -> Tensor:
        """The convolution with what `laid` made of its weights; x and the result in channels_last."""
        out = torch.empty(self.size, memory_format=torch.channels_last)
        self.what.bias = self.op.bias.data_ptr() if self.op.bias is not None else None
        self.what.weights, self.what.x, self.what.out = weights.data_ptr(), x.data_ptr(), out.data_ptr()
        threads = torch.get_num_threads() if out.numel() >= native.SHARED else 1
        library().sum_spikes(ctypes.byref(self.what), threads)
        return out


def there() -> bool:
    """Whether machine code sums up spikes one by one here: where the processor has AVX-512."""
    found = native.library()
    return found is not None and bool(found.sums_floats())


def library() -> ctypes.CDLL:
    """The machine code that is `there`."""
    found = native.library()
    assert found is not None
    return found


def spikes_among(x: Tensor, every: int) -> int:
    """How many of the values of every so many places of images in channels_last are not zero."""
    count = library().count_floats
    count.restype = ctypes.c_int64
    numbers = (ctypes.c_int64(n) for n in (x.numel() // x.shape[1], x.shape[1], every))
    return int(count(ctypes.c_void_p(x.data_ptr()), *numbers))


def laid(op: Conv) -> Tensor:
    """The weights of one spike after the other: [taps · channels, outputs, filled up to whole vectors]."""
    rows = op.weight.detach().flatten(2).permute(2, 1, 0).flatten(0, 1)
    return F.pad(rows, (0, -len(op.weight) % VECTOR)).contiguous()


def share_for_spikes(outputs: int, channels: int, *kernel: int) -> float:
    """The share of spikes in sight of a place below which they are added one by one."""
    vectors, taps = -(-outputs // VECTOR), kernel[0] * kernel[1]
    words = kernel[0] * -(-kernel[1] * channels // VECTOR)
    left = TERM * taps * channels * vectors - WORD * words - PLACE
    return max(0.0, left / (ADDED * taps * channels * vectors))


def fits(op: Conv, shape: tuple[int, ...]) -> bool:
    """Whether a convolution of inputs of this shape can be done so, with the bits that it has in oneDNN."""
    outputs, seen = len(op.weight), op.weight[0].numel()
    if op.groups > 1 or len(shape) != 4 or seen > SEEN or seen * (outputs + VECTOR) >= 1 << 31:
        return False
    if shape[1] == 1 or shape[2:] == (1, 1):  # this lies in memory in two ways, each with an order of its own
        return False
    if op.bias is not None and not op.bias.is_contiguous():
        return False
    size = outputs, *op.weight.shape[1:], *shape[2:]
    return there() and same_bits(size, *map(tuple, onednn.geometry(op)))


@cache
def same_bits(
    size: tuple[int, ...], padding: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> bool:
    """Whether drawn numbers, none of them zero, give the same, convolved densely and one by one.

    `size` is outputs, channels, the kernel's, the image's.
    """
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(size[:4], generator=draw)
    conv = Conv(weight, torch.randn(size[0], generator=draw), stride, padding, dilation)
    x = torch.randn(1, *size[4:], size[1], generator=draw).permute(0, 3, 1, 2)
    shape = tuple(x.shape)
    dense = onednn.convolve(conv, onednn.pack(conv, shape), x)
    return torch.equal(Sparse(conv, shape)(x, laid(conv)), dense)
