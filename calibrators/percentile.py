"""Robust normalisation: a neuron's threshold is a high percentile of its activations, zeros included.

The few activations above it are clipped, the many below reach their rate in fewer steps (Rueckauer et al.,
Front. Neurosci. 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

from calibrators import calibrators, watch, with_ranges
from calibrators.statistics import Histogram, as_threshold
from converter.errors import UsageError
from converter.graph import Graph
from converter.observe import Batches


@calibrators.register
@dataclass(frozen=True)
class Percentile:
    """`percentile` in percent, above 0 and up to 100; `per_channel`: one threshold for each channel."""

    percentile: float = 99.9
    per_channel: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise UsageError(f"percentile is {self.percentile}; it lies above 0 and up to 100")

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The thresholds are this percentile of the activations over all batches, to 0.1 %."""
        seen = watch(graph, batches, lambda has_channels: Histogram(self.per_channel and has_channels), ann)
        share = self.percentile / 100
        return with_ranges(graph, {n: as_threshold(s.quantile(share), len(n.shape)) for n, s in seen.items()})
