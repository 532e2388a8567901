"""Streaming statistics of one value, per layer or per channel, in memory that does not grow with the data."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from converter.errors import DataError

BINS = 2048


def by_channel(value: Tensor, per_channel: bool) -> Tensor:
    """[batch, channels, …] -> [channels, samples], or [1, samples] for the layer as a whole."""
    if not per_channel or value.dim() < 2:
        return value.reshape(1, -1)
    return value.movedim(1, 0).reshape(value.shape[1], -1)


def as_threshold(values: Tensor, rank: int) -> Tensor:
    """[channels] -> [channels, 1, …], so that it broadcasts against [batch, channels, …]; [1] -> a scalar."""
    if values.numel() == 1:
        return values.reshape(())
    return values.reshape(-1, *([1] * (rank - 2)))


@dataclass
class Largest:
    """The largest value seen, for each channel."""

    per_channel: bool
    seen: Tensor | None = None

    def update(self, value: Tensor) -> None:
        """Take in one batch."""
        now = by_channel(value, self.per_channel).amax(1)
        self.seen = now if self.seen is None else torch.maximum(self.seen, now)

    def value(self) -> Tensor:
        """The largest value of each channel [channels]. Raises `DataError` when no batch was seen."""
        if self.seen is None:
            raise DataError("there are no calibration samples")
        return self.seen


@dataclass
class Histogram:
    """Counts of non-negative values in `BINS` equal bins from 0 to a limit, for each channel.

    When a value exceeds a channel's limit the limit doubles until it fits and pairs of bins are joined, so
    no count is ever lost: a quantile is exact to one bin, at most 2 / BINS of the largest value.
    """

    per_channel: bool
    counts: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    limit: Tensor = field(default_factory=lambda: torch.zeros(0))

    def update(self, value: Tensor) -> None:
        """Take in one batch."""
        rows = by_channel(value, self.per_channel)
        largest = rows.amax(1)
        if not self.limit.numel():
            self.counts = torch.zeros(rows.shape[0], BINS, dtype=torch.int64, device=value.device)
            self.limit = largest.double().clone()
        self.limit = torch.where(self.limit == 0, largest, self.limit)
        while bool((over := largest > self.limit).any()):
            joined = torch.zeros_like(self.counts)
            joined[:, : BINS // 2] = self.counts[:, 0::2] + self.counts[:, 1::2]
            self.counts = torch.where(over[:, None], joined, self.counts)
            self.limit = torch.where(over, self.limit * 2, self.limit)
        width = torch.where(self.limit > 0, self.limit, 1.0) / BINS
        bins = (rows / width[:, None].to(rows.dtype)).long().clamp_(0, BINS - 1)
        bins += torch.arange(rows.shape[0], device=rows.device)[:, None] * BINS
        self.counts += torch.bincount(bins.reshape(-1), minlength=self.counts.numel()).reshape(
            self.counts.shape
        )

    def seen(self) -> tuple[Tensor, Tensor]:
        """Counts [channels, BINS] and limits [channels]. Raises `DataError` when no batch was seen."""
        if not self.limit.numel():
            raise DataError("there are no calibration samples")
        return self.counts, self.limit

    def quantile(self, share: float) -> Tensor:
        """What this share of all values (zeros included) does not exceed, for each channel: [channels]."""
        self.seen()
        total = self.counts.sum(1, keepdim=True).double()
        reached = self.counts.cumsum(1).double() >= share * total
        bin_ = reached.to(torch.int8).argmax(1)
        return ((bin_ + 1).double() * self.limit / BINS).float()
