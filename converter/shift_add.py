"""Shift and add: exponent weights times first spikes of base 2, without a multiplier.

A spike at step t is worth 2^(−t/τ) of its layer's scale, a weight of n steps an octave ±2^((top − e)/n), so
their product is a sign and one exponent, counted in 1/τ octaves where τ is a multiple of n:

    w · κ(t) = ± 2^(q/τ) = ± LUT[q mod τ] · 2^⌊q/τ⌋,   q = (τ/n) · (top − e) − t

with a LUT of τ entries to 8 fractional bits: a small addition, a look-up, a shift, an addition. Each product
is within 2^-9 of the exact one, and the sum is exact (CAT: Lew et al., DAC 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

from converter.errors import UsageError

FRACTION = 8
"""Bits after the point in the LUT."""


def table(tau: int) -> tuple[int, ...]:
    """2^(i/τ) for i = 0 … τ − 1, in 2^-8."""
    return tuple(round(2 ** (FRACTION + i / tau)) for i in range(tau))


def shift_add(codes: Tensor, top: Tensor, times: Tensor, tau: int, steps: int) -> tuple[Tensor, int]:
    """Σ w · κ(t) for each sample and output in whole numbers, int64 [batch, out], and their exponent.

    `codes` [out, in] and `top` [out] as the log2 or pow2 format of `steps` values an octave has them; `times`
    [batch, in] are the steps of the spikes, a negative one is no spike. Raises `UsageError` for a τ that is
    no multiple of `steps`.
    """
    if tau % steps:
        raise UsageError(
            f"with {steps} values an octave the time constant is a multiple of {steps}, not {tau}"
        )
    e = (codes.long().abs() - 1).clamp_min(0)
    q = (tau // steps) * (top.long()[:, None] - e)[None] - times.long()[:, None, :]
    octave = q.div(tau, rounding_mode="floor")
    lowest = int(octave.min())
    entries = torch.tensor(table(tau))[q - tau * octave]
    there = codes.long().sign()[None] * (times >= 0).long()[:, None, :]
    return (there * (entries << (octave - lowest))).sum(2), lowest - FRACTION
