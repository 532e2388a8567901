"""Threshold balancing: a neuron's threshold is the largest activation of its layer or channel.

Nothing is clipped, and the largest activation fires at every step (Diehl et al., IJCNN 2015). A single
outlier slows everything else; `percentile` is the robust form.
"""

from __future__ import annotations

from dataclasses import dataclass

from calibrators import calibrators, watch, with_ranges
from calibrators.statistics import Largest, as_threshold
from converter.graph import Graph
from converter.observe import Batches


@calibrators.register
@dataclass(frozen=True)
class Maximum:
    """`per_channel`: a threshold for each channel, else one for the layer."""

    per_channel: bool = True

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The thresholds are the largest activations over all batches."""
        seen = watch(graph, batches, lambda has_channels: Largest(self.per_channel and has_channels), ann)
        return with_ranges(graph, {n: as_threshold(s.value(), len(n.shape)) for n, s in seen.items()})
