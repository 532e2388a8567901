"""Sums of codes taken in the pass over the neurons that they charge: what `bytes.h` needs of a synapse.

They are the sums that oneDNN gives, and never stand in memory: those of some places are made in the nearest
cache, charge their membranes, and make room for the next. Where few enough of a chunk's bytes are spikes, the
weights of each are added up instead, which costs by the spike: event by event. Weights for tiles lie as
[planes, outputs / 16, taps · channels / 4, 16, 4]; a zero that stands for no spike is paid for once, in what
a sum begins with.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.engine import native
from converter.engine.codes import NARROW, Weighed
from converter.graph import Node
from converter.ops import Conv

VECTOR, FOUR = 16, 4
"""Outputs of a vector, and bytes that are multiplied at once."""


class Bytes(ctypes.Structure):
    """`Bytes` of bytes.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("data", "weights", "start", "places")),
        *((name, ctypes.c_int64) for name in ("step", "image", "line", "pixel")),
        *((name, ctypes.c_void_p) for name in ("events", "runs")),
        *((name, ctypes.c_int32) for name in ("outputs", "rows", "columns", "quads", "planes")),
        *((name, ctypes.c_int32) for name in ("count", "run", "zero", "one_by_one")),
    )


TILE, PLACE, WORD, LISTED, ADDED = 0.034, 6.0, 4.0, 0.65, 0.27
"""Nanoseconds on an AMD EPYC with AVX-512, of which only ratios count; `benchmarks crossover` measures them.

In tiles a vector of outputs takes TILE for a byte and plane. Spike by spike, a place takes PLACE, and WORD
for 64 bytes looked at, and each spike LISTED, or ADDED for a vector where that is more.
"""


def share_for_events(outputs: int, planes: int, runs: int, run: int) -> float:
    """Of the bytes in sight of a place, the share of spikes below which they are added one by one."""
    vectors, words, seen = -(-outputs // VECTOR), runs * -(-run // 64), runs * run
    left = TILE * seen * vectors * planes - WORD * words - PLACE
    return max(0.0, left / (seen * max(LISTED, ADDED * vectors)))


def fits(term: Weighed) -> bool:
    """Whether the sums of this synapse can be taken so, here."""
    dense = not isinstance(term.op, Conv) or term.op.groups == 1
    most = term.codes.long().abs().flatten(1).sum(1).max() * 255
    return (
        dense and int(most) < NARROW and term.codes.shape[1] % FOUR == 0 and native.sums_bytes() and right()
    )


@dataclass(eq=False)
class Within:
    """A synapse's weights as machine code takes them, and where its spikes lie."""

    term: Weighed
    what: Bytes = field(init=False)
    held: tuple[Tensor, ...] = field(init=False)
    """What it points to."""
    room: Tensor | None = None
    """Spikes with their border, where there is one."""
    places: Tensor | None = None
    few: float = 0.0
    """The share of spikes below which they are added one by one."""
    runs: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int32))

    def __post_init__(self) -> None:
        """Lay out what does not change."""
        laid, start = [], []
        for codes in self.term.planes:
            rows = codes.reshape(*codes.shape[:2], -1).transpose(1, 2).flatten(1)
            rows = F.pad(rows, (0, 0, 0, -len(codes) % VECTOR))
            laid.append(rows.reshape(-1, VECTOR, rows.shape[1] // FOUR, FOUR).transpose(1, 2))
            start.append((-self.term.zero * rows.long().sum(1)).to(torch.int32))
        self.held = weights, first = torch.stack(laid).contiguous(), torch.stack(start)
        self.what = Bytes(weights=weights.data_ptr(), start=first.data_ptr(), outputs=len(self.term.codes))
        self.what.planes, self.what.zero = len(laid), self.term.zero
        self._events()

    def _events(self) -> None:
        """Weights for one spike after the other: [taps · channels, outputs]."""
        codes, what = self.term.codes, self.what
        rows = codes.reshape(*codes.shape[:2], -1).permute(2, 1, 0).flatten(0, 1)
        columns = F.pad(rows, (0, -len(codes) % VECTOR)).to(torch.int16).contiguous()
        self.held = (*self.held, columns)
        what.events = columns.data_ptr()

    def __deepcopy__(self, memo: object) -> Within:
        return type(self)(self.term)

    @property
    def size(self) -> int:
        """Bytes of weights."""
        return self.held[0].numel()

    @property
    def flat(self) -> bool:
        """Whether each place is a sum of one place alone, so that all of them lie in one row."""
        op = self.term.op
        return not isinstance(op, Conv) or (
            op.weight.shape[2:] == (1, 1) and set(op.stride or (1,)) == {1} and not any(op.padding or ())
        )

    def __call__(self, x: Tensor, steps: int, comes: Sequence[int]) -> Tensor:
        """Point to spikes x in bytes, [steps · batch, …], for sums of this shape; gives where they lie."""
        op, channels = self.term.op, x.shape[1]
        if self.flat or not isinstance(op, Conv):
            whole = x.numel() // steps
            self._point(x, whole, whole, 0, channels, 1, whole // channels)
            return x
        (up, left), (down, right) = op.padding or (0, 0), op.stride or (1, 1)
        x = self._bordered(x, up, left) if up or left else x
        image, line = x[0].numel(), x.shape[3] * channels
        self._point(x, image * len(x) // steps, image, down * line, right * channels, *comes[2:])
        return x

    def _point(
        self, x: Tensor, step: int, image: int, line: int, pixel: int, rows: int, columns: int
    ) -> None:
        if self.places is None:
            self._look(x.shape[1], x.shape[3] if x.dim() == 4 else 1)
        assert self.places is not None
        what = self.what
        what.places, what.quads, what.runs = self.places.data_ptr(), len(self.places), self.runs.data_ptr()
        what.one_by_one = self.few > 0 and native.spikes(x, self.term.zero) < self.few * x.numel()
        what.data, what.step, what.image = x.data_ptr(), step, image
        what.line, what.pixel, what.rows, what.columns = line, pixel, rows, columns

    def _look(self, channels: int, width: int) -> None:
        """Where in rows of this width lies what a place has in sight."""
        op, what = self.term.op, self.what
        (down, right) = (isinstance(op, Conv) and op.dilation) or (1, 1)
        kernel = (*op.weight.shape[2:], 1, 1)[:2]
        taps = torch.arange(kernel[0])[:, None] * down * width + torch.arange(kernel[1]) * right
        self.places = (taps.reshape(-1, 1) * channels + torch.arange(0, channels, FOUR)).flatten().int()
        beside = kernel[1] if right == 1 else 1
        self.runs = (taps.flatten()[::beside] * channels).int()
        what.count, what.run = len(self.runs), beside * channels
        self.few = share_for_events(what.outputs, what.planes, what.count, what.run)

    def _bordered(self, x: Tensor, up: int, left: int) -> Tensor:
        """x with a border of no spikes, in memory of its own, in channels_last."""
        count, channels, height, width = x.shape
        size = (count, channels, height + 2 * up, width + 2 * left)
        if self.room is None or self.room.shape != size:
            self.room = torch.empty(size, dtype=torch.uint8, memory_format=torch.channels_last)
            self.room.fill_(self.term.zero)
        self.room[:, :, up : up + height, left : left + width] = x
        return self.room


@cache
def right() -> bool:
    """Whether sums of codes in two planes are those of a convolution in doubles, in tiles and by events."""
    found, draw = native.loaded(), torch.Generator().manual_seed(0)
    codes = torch.randint(-(1 << 14), 1 << 14, (20, 8, 3, 3), generator=draw)
    conv, zero = Conv(codes.double(), None, (1, 1), (1, 1), (1, 1)), 128
    spikes = torch.randint(0, 256, (2, 8, 6, 6), generator=draw)
    x = torch.where(torch.rand(2, 8, 6, 6, generator=draw) < 0.3, spikes, zero)
    want = conv(x.double() - zero).permute(0, 2, 3, 1)
    within = Within(Weighed(Node(conv, (), "", ()), conv, codes, zero, torch.ones(20)))
    within(x.to(torch.uint8).contiguous(memory_format=torch.channels_last), 1, want.permute(0, 3, 1, 2).shape)
    sums = torch.empty(want.shape, dtype=torch.int32)
    for within.what.one_by_one in (False, True):
        found.weigh_places(
            ctypes.byref(within.what), ctypes.c_int64(sums[..., 0].numel()), ctypes.c_void_p(sums.data_ptr())
        )
        if not torch.equal(sums.double(), want):
            return False
    return True
