"""What a GPU needs to give a CPU's numbers fast: sums in full float32, and enough at once to be filled.

A convolution in float32 is by default one in TF32 there, of 10 bits, and spikes are weighed by weights of 24.
"""

from __future__ import annotations

import torch

from converter.engine.tiles import Tiling
from converter.graph import Graph, size_of
from converter.plan import Plan

AT_ONCE = 1 << 28
"""Bytes of the largest value of a tile: it fills a GPU, and some dozen fit into its memory. Not measured."""
CHUNK = 8
"""Steps as one batch, at most: what is launched for a chunk is launched once."""


def steady(device: torch.device) -> None:
    """From here on, if this is a GPU: float32 is float32, 16 bits add up in 32, a run is like the last.

    These are switches of torch, for all of the process.
    """
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
        products = torch.backends.cuda.matmul
        torch.backends.cudnn.allow_tf32 = products.allow_tf32 = False
        products.allow_fp16_reduced_precision_reduction = False
        products.allow_bf16_reduced_precision_reduction = False


def tiling_on_gpu(graph: Graph, plan: Plan, batch: int, *, chunks: bool = True) -> Tiling:
    """The tiling for a batch of this size: all of it and some steps of it as far as that fits."""
    largest = max(4 * size_of(node.shape) for node in plan.step or graph.order)
    samples = graph.batch or max(1, min(batch, AT_ONCE // largest))
    return Tiling(samples, max(1, min(CHUNK, AT_ONCE // (largest * samples))) if chunks else 1)


def words(device: torch.device) -> str:
    """On which GPU, and how sums are taken there; nothing of a CPU."""
    if device.type != "cuda":
        return ""
    return f"on {torch.cuda.get_device_name(device)}, float32 in full precision"
