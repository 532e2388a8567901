"""Sums of codes taken in the pass over the neurons that they charge: what `bytes.h` needs of a synapse.

They are the sums that oneDNN gives, and never stand in memory: those of some places are made in the nearest
cache, charge their membranes, and make room for the next. Weights lie as [planes, outputs / 16,
taps · channels / 4, 16, 4]; a zero that stands for no spike is paid for once, in what a sum begins with.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.engine import native
from converter.engine.codes import NARROW, Weighed
from converter.ops import Conv

VECTOR, FOUR = 16, 4
"""Outputs of a vector, and bytes that are multiplied at once."""


class Bytes(ctypes.Structure):
    """`Bytes` of bytes.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("data", "weights", "start", "places")),
        *((name, ctypes.c_int64) for name in ("step", "image", "line", "pixel")),
        *((name, ctypes.c_int32) for name in ("outputs", "rows", "columns", "quads", "planes")),
    )


def fits(term: Weighed) -> bool:
    """Whether the sums of this synapse can be taken so, here."""
    dense = not isinstance(term.op, Conv) or term.op.groups == 1
    most = term.codes.long().abs().flatten(1).sum(1).max() * 255
    return dense and int(most) < NARROW and term.codes.shape[1] % FOUR == 0 and native.sums_bytes()


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
        self.what.planes = len(laid)

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
            op, width = self.term.op, x.shape[3] if x.dim() == 4 else 1
            kernel = op.weight.shape[2:] if isinstance(op, Conv) else (1, 1)
            (down, right) = (op.dilation or (1, 1)) if isinstance(op, Conv) else (1, 1)
            tap = (
                torch.arange(kernel[0])[:, None] * down * width + torch.arange(kernel[1]) * right
            ).flatten()
            self.places = (tap[:, None] * x.shape[1] + torch.arange(0, x.shape[1], FOUR)).flatten().int()
        what, places = self.what, self.places
        what.data, what.places, what.quads = x.data_ptr(), places.data_ptr(), len(places)
        what.step, what.image, what.line, what.pixel = step, image, line, pixel
        what.rows, what.columns = rows, columns

    def _bordered(self, x: Tensor, up: int, left: int) -> Tensor:
        """x with a border of no spikes, in memory of its own, in channels_last."""
        count, channels, height, width = x.shape
        size = (count, channels, height + 2 * up, width + 2 * left)
        if self.room is None or self.room.shape != size:
            self.room = torch.empty(size, dtype=torch.uint8, memory_format=torch.channels_last)
            self.room.fill_(self.term.zero)
        self.room[:, :, up : up + height, left : left + width] = x
        return self.room
