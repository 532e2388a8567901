"""Least squares: the threshold whose T-step code is nearest to the activations, in the mean square.

A neuron of n = T · levels steps says θ/n · clip(⌊n·x/θ + φ⌋, 0, n) of an activation x, with φ its initial
membrane. A lower θ rounds finer and clips more; the best of a grid is taken, for each channel:

    θ = argmin over r of Σ (code(x; r · max x) − x)²,   r = 1.00, 0.99, …, 0.05

over a streamed histogram of x (MMSE: Li et al., ICML 2021). It depends on T: calibrate for the T you run.

In a stream what comes in is uneven, and a neuron of one spike a step that is near its limit cannot catch up:
of the currents 0, 0, 1.6, 1.6 it says 0.5 with θ = 1, and 0.75 with θ = 1.5. `headroom` widens all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from calibrators import calibrators, watch, with_ranges
from calibrators.statistics import BINS, Histogram, as_threshold
from converter.errors import UsageError
from converter.graph import Graph
from converter.neurons import Neuron
from converter.observe import Batches

GRID = torch.arange(100, 4, -1) / 100


@calibrators.register
@dataclass(frozen=True)
class LeastSquares:
    """`timesteps` the run is meant for; `per_channel`: one threshold for each channel.

    `headroom`: how many times as wide as those of least squares the thresholds are.
    """

    timesteps: int = 32
    per_channel: bool = True
    headroom: float = 1.0

    def __post_init__(self) -> None:
        """Raise `UsageError` for a run without steps, or a headroom that is none."""
        if self.timesteps < 1:
            raise UsageError(f"timesteps is {self.timesteps}; a run takes at least 1")
        if not 1 <= self.headroom < float("inf"):
            raise UsageError(f"headroom is {self.headroom:g}; it is at least 1")

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The thresholds are those of least squared error over all batches."""
        seen = watch(graph, batches, lambda has_channels: Histogram(self.per_channel and has_channels), ann)
        ranges = {}
        for node, histogram in seen.items():
            assert isinstance(node.op, Neuron)
            best = self.headroom * least_squares(histogram, node.op, self.timesteps)
            ranges[node] = as_threshold(best, len(node.shape))
        return with_ranges(graph, ranges)


def least_squares(histogram: Histogram, neuron: Neuron, timesteps: int) -> Tensor:
    """The best range for each channel of `histogram`, [channels], for what `neuron` says in so many steps.

    Ties go to the larger range. Zeros are right under any range and do not count.
    """
    counts, limit = histogram.seen()
    values = (torch.arange(BINS, device=limit.device) + 0.5) / BINS * limit[:, None]
    best, lowest = limit.clone(), torch.full_like(limit, torch.inf)
    for share in GRID.tolist():
        code = neuron.quantised(values, share * limit[:, None], timesteps)
        error = (counts * (code - values).square()).sum(1)
        better = error < lowest
        best = torch.where(better, share * limit, best)
        lowest = torch.where(better, error, lowest)
    return best.float()
