"""Convolutions of spikes in floating point, spike by spike where they are few: the bits that oneDNN gives.

Spikes come as their size and zeros, and a product with zero adds nothing to a sum in float32. So a sum over
what is not zero, in the order in which the dense one goes, is the same to the last bit, and it costs by the
spike: each place lists what it sees and adds it up, or in the common geometry each spike is added to the nine
places that see it. That oneDNN goes tap by tap, and in it channel by channel, is tried for each size of a
layer before it is relied upon; then either way may be taken at any step, whichever is less work.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.engine import native, onednn
from converter.ops import Conv

VECTOR, AT_ONCE = 16, 8
"""Outputs of a vector, and vectors at once at most, where a place looks for spikes."""
SEEN = 1 << 14
"""Values in sight of a place, at most: so many may have to be listed."""
WIDE = 2048
"""Places in a row of an image, at most, where each spike goes to those that see it: three rows lie near."""
EVERY = 9
"""Spikes are counted in one place of so many: rows then have theirs in other columns."""
TERM, NEAR, FAR = 0.125, 0.22, 0.36
LOOKING, SCATTERING = (12.0, 1.6), (2.6, 3.4)
"""Nanoseconds on an AMD EPYC with AVX-512, of which only ratios count; `benchmarks crossover` measures them.

Densely a vector of outputs takes TERM for a value in sight. Spike by spike it takes NEAR for each spike, or
FAR where weights do not stay in the nearest cache; and a place takes so much, and so much for each vector of
values that is looked at: where it looks for spikes, or where spikes are scattered.
"""
NEAREST = 1 << 16
"""Bytes of weights that a pass may go over and find near again."""


class Sums(ctypes.Structure):
    """`Sparse` of sparse.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weights", "bias", "out")),
        ("images", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("channels", "height", "width", "outputs", "rows", "columns")),
        *((name, ctypes.c_int32 * 2) for name in ("kernel", "stride", "padding", "dilation")),
        ("scatters", ctypes.c_int32),
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
        self.what.scatters = scatters(op)
        self.few = share_for_spikes(op)

    def pays(self, x: Tensor) -> bool:
        """Whether so few of these values are spikes."""
        places, channels = x.numel() // x.shape[1], x.shape[1]
        return spikes_among(x, EVERY) < self.few * -(-places // EVERY) * channels

    def __call__(self, x: Tensor, weights: Tensor) -> Tensor:
        """The convolution with what `laid` made of its weights; x and the result in channels_last."""
        out = torch.empty(self.size, memory_format=torch.channels_last)
        self.what.bias = self.op.bias.data_ptr() if self.op.bias is not None else None
        self.what.weights, self.what.x, self.what.out = weights.data_ptr(), x.data_ptr(), out.data_ptr()
        native.loaded().sum_spikes(ctypes.byref(self.what), native.shared(out.numel()))
        return out


def there() -> bool:
    """Whether machine code sums up spikes one by one here: where the processor has AVX-512."""
    found = native.library()
    return found is not None and bool(found.sums_floats())


def spikes_among(x: Tensor, every: int) -> int:
    """How many of the values of every so many places of images in channels_last are not zero."""
    count = native.loaded().count_floats
    count.restype = ctypes.c_int64
    numbers = (ctypes.c_int64(n) for n in (x.numel() // x.shape[1], x.shape[1], every))
    return int(count(ctypes.c_void_p(x.data_ptr()), *numbers))


def scatters(op: Conv) -> bool:
    """Whether each spike goes to the places that see it, by `scatter.h`; else each place looks for spikes."""
    padding, stride, dilation = onednn.geometry(op)
    alike = tuple(op.weight.shape[2:]) == (3, 3) and stride == dilation == [1, 1]
    return alike and max(padding) <= 2


def passes(outputs: int) -> list[int]:
    """How many vectors of outputs each pass of `scatter.h` takes."""
    vectors = -(-outputs // VECTOR)
    return [3] if vectors == 3 else [2] * (vectors // 2) + [1] * (vectors % 2)


def laid(op: Conv) -> Tensor:
    """The weights of one spike after the other, outputs filled up to whole vectors.

    Outputs are innermost: [taps · channels, outputs], or where it `scatters`, for each pass [channels, taps,
    outputs of the pass].
    """
    rows = F.pad(op.weight.detach().flatten(2).permute(2, 1, 0), (0, -len(op.weight) % VECTOR))
    if not scatters(op):
        return rows.contiguous()
    parts = rows.transpose(0, 1).split([VECTOR * v for v in passes(len(op.weight))], 2)
    return torch.cat([part.flatten() for part in parts])


def share_for_spikes(op: Conv) -> float:
    """The share of spikes in sight of a place below which they are added one by one."""
    outputs, channels, height, width = op.weight.shape
    vectors, seen = -(-outputs // VECTOR), height * width * channels
    if scatters(op):
        (place, word), together = SCATTERING, passes(outputs)
        words = -(-channels // VECTOR) * len(together)
    else:
        (place, word), together = LOOKING, [min(vectors, AT_ONCE)]
        words = height * -(-width * channels // VECTOR)
    added = NEAR if 4 * VECTOR * seen * together[0] <= NEAREST else FAR
    return max(0.0, TERM * seen * vectors - word * words - place) / (added * seen * vectors)


def fits(op: Conv, shape: tuple[int, ...]) -> bool:
    """Whether a convolution of inputs of this shape can be done so, with the bits that it has in oneDNN."""
    outputs, seen = len(op.weight), op.weight[0].numel()
    if op.groups > 1 or len(shape) != 4 or seen > SEEN or seen * (outputs + VECTOR) >= 1 << 31:
        return False
    if scatters(op) and shape[3] > WIDE:
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

    `size` is outputs, channels, the kernel's, the image's: one image, as neither how many there are nor how
    many threads share them changes the order of a sum.
    """
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(size[:4], generator=draw)
    conv = Conv(weight, torch.randn(size[0], generator=draw), stride, padding, dilation)
    x = torch.randn(1, *size[4:], size[1], generator=draw).permute(0, 3, 1, 2)
    shape = tuple(x.shape)
    dense = onednn.convolve(conv, onednn.pack(conv, shape), x)
    return torch.equal(Sparse(conv, shape)(x, laid(conv)), dense)
