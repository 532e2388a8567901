"""What machine code takes of a layer in whole numbers: laid out once, pointed to the memory of a chunk."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from converter.engine import native
from converter.engine.bytes import Within
from converter.engine.codes import Charge, Given, Spikes, Term
from converter.engine.pools import pool_of

REMEMBERS = (native.SIGNED, native.LEVELS, native.BURST)
"""Neurons with a net count beside the membrane."""
ACROSS = 8
"""Places that share a weight in registers."""

HEAVY, TOGETHER = 1 << 17, 8
"""Bytes of weights beyond which some steps take their sums together, though these then lie less near."""


class Ready:
    """A layer for numbers of one type; `lines` are what is added: of which term, which plane, what factor."""

    def __init__(
        self,
        charge: Charge,
        lines: Sequence[tuple[int, int, Tensor]],
        within: Mapping[Term, Within],
        number: torch.dtype,
    ) -> None:
        c, self.charge, self.lines = charge, charge, lines
        self.within = [within.get(c.terms[i]) for i, _, _ in lines]
        weighs = [w for w in self.within if w is not None]
        self.bent = not all(w.flat for w in weighs)
        times = places_at_once(len(c.worth), bool(weighs), c.comes.shape[-1] if self.bent else native.ROOM)
        self.numbers = [t.repeat(times).to(number) for t in (c.bias, c.threshold)]
        self.numbers += [
            c.worth.repeat(times).to(torch.int32),
            (c.worth + c.zero).repeat(times).to(torch.uint8),
        ]
        self.factors = [factor.repeat(times).to(number) for _, _, factor in lines]
        self.layer = native.Layer(block=times * len(c.worth), terms=len(lines), kind=c.kind, levels=c.levels)
        self.layer.zero, self.layer.weighed = c.zero, len(weighs)
        self.layer.together = TOGETHER if sum(w.size for w in weighs) > HEAVY else 1
        for name, numbers in zip(("bias", "threshold", "worth", "said"), self.numbers, strict=True):
            setattr(self.layer, name, numbers.data_ptr())
        self.pool = pool_of(c.pool) if c.pool is not None else None
        self.places = [self.layer.term[i] for i in range(len(lines))]
        for place, weighed, (i, _, _), factor in zip(
            self.places, self.within, lines, self.factors, strict=True
        ):
            term = c.terms[i]
            place.factor, place.zero = factor.data_ptr(), term.zero if isinstance(term, Spikes) else 0
            place.row = place.channels = len(c.worth)
            if weighed is not None:
                place.kind, place.data = native.BYTES, ctypes.addressof(weighed.what)

    def __call__(self, steps: int, terms: list[Tensor], state: tuple[Tensor, ...], out: Tensor) -> None:
        """Run the neurons through a chunk of steps, charged with these terms."""
        layer, c = self.layer, self.charge
        channels, membrane = len(c.worth), state[0]
        layer.count = (membrane if c.pool is None else state[-2]).numel()
        layer.steps, layer.row = steps, c.comes.shape[-1] * channels if self.bent else layer.count
        for place, weighed, (i, plane, _) in zip(self.places, self.within, self.lines, strict=True):
            if weighed is not None:
                continue
            data = terms[i]
            place.kind, place.row = native.KINDS[data.dtype], data.shape[-1]
            place.stride = 0 if isinstance(c.terms[i], Given) else data.numel() // steps
            place.data = data.data_ptr() + plane * channels * data.element_size()
        layer.membrane, layer.codes = membrane.data_ptr(), out.data_ptr()
        layer.net = state[1].data_ptr() if c.kind in REMEMBERS else None
        if self.pool is not None:
            sums, largest = state[-2:]
            self.pool.samples, self.pool.sums = len(sums), sums.data_ptr()
            self.pool.largest = largest.data_ptr()
        native.fire(layer, self.pool, membrane.dtype == torch.float64)


def places_at_once(channels: int, weighs: bool, columns: int) -> int:
    """So many places as a pass takes at once; where it weighs, some tiles of a row of so many columns."""
    if not weighs:
        return max(1, round(native.NEAR / channels))
    tiles = max(1, 2 * native.NEAR // (channels * ACROSS))
    return min(tiles * ACROSS, columns, native.ROOM // channels)
