"""Corrections in little memory: the same as in much, and exact wherever a layer is looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibrators import _room
from calibrators._layerwise import Layer
from calibrators._room import Places, places_of, room_for
from calibrators._run import layer_by_layer
from calibrators.bias_correction import BiasCorrection
from calibrators.coordinate import Coordinate
from calibrators.initial_membrane import InitialMembrane
from calibrators.least_squares import LeastSquares
from calibrators.reconstruction import Reconstruction
from calibrators.spike_calibration import SpikeCalibration
from calibrators.temporal_bias import TemporalBiasCorrection
from converter.data import open_source
from converter.graph import Graph
from converter.importer import load
from converter.neurons import Neuron
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.multi_level import MultiLevel
from converter.neurons.signed import Signed
from converter.packed import Packed
from converter.passes import apply
from converter.passes.spike import Spike
from converter.segments import Segment, segments
from converter.unroll import fire_in_turn, unroll
from tests.models import parse, weight

KINDS = (IntegrateFire(), Signed(), MultiLevel(levels=4))
CORRECTIONS: dict[str, Callable[[int], Any]] = {
    "bias-correction": BiasCorrection,
    "coordinate": lambda t: Coordinate(t, rounds=1),
    "initial-membrane": InitialMembrane,
    "reconstruction": lambda t: Reconstruction(t, iterations=4),
    "temporal-bias": TemporalBiasCorrection,
}

BODY = """
    c0 = Conv<pads=[1,1,1,1]>(x, w) r0 = Relu(c0)
    p0 = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r0)
    c1 = Conv<pads=[1,1,1,1]>(p0, w1) a1 = Add(c1, p0) l1 = LeakyRelu<alpha=0.2>(a1)
    p1 = MaxPool<kernel_shape=[2,2]>(l1) k1 = Concat<axis=1>(l1, p0) c2 = Conv(k1, w2) r2 = Relu(c2)
    c3 = Conv<pads=[1,1,1,1]>(r2, w3) a3 = Add(c3, r2) r3 = Relu(a3) g = GlobalAveragePool(r3)
    f = Flatten(g) h = Gemm(f, w4) y = Softmax(h)
"""
WEIGHTS = {
    "w": weight(4, 3, 3, 3),
    "w1": weight(4, 4, 3, 3, seed=1, scale=0.2),
    "w2": weight(5, 8, 2, 2, seed=2),
    "w3": weight(5, 5, 3, 3, seed=3, scale=0.2),
    "w4": weight(5, 3, seed=4),
}


def network(neuron: Neuron) -> Graph:
    """Residual sums, pools after neurons and before them, a Concat, a sloped neuron; in double precision.

    So that sums taken in another order do not move a membrane across its threshold.
    """
    graph = Spike(neuron)(apply(load(parse(BODY, WEIGHTS, outputs="float[N,M] y")))[0])
    return precise(graph)


def precise(graph: Graph) -> Graph:
    from dataclasses import replace

    return graph.map(lambda n: replace(n, op=n.op.map_tensors(lambda t: t.double())))


def sparing(patch: pytest.MonkeyPatch, **bytes_: int) -> None:
    """One sample at a time, only spikes kept; `bytes_` for what else is limited."""
    for name, value in {"MEMORY": 1, "PART": 1, **bytes_}.items():
        patch.setattr(_room, name, value)


def same(one: Graph, other: Graph) -> bool:
    """Whether two graphs have the same nodes, and parameters that are equal to 1e-5."""
    pairs = list(zip(one, other, strict=True))
    tensors = [
        (a, b)
        for m, n in pairs
        for a, b in zip(m.op.tensors().values(), n.op.tensors().values(), strict=True)
    ]
    return all(m.name == n.name for m, n in pairs) and all(
        torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in tensors
    )


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(CORRECTIONS)), st.sampled_from(KINDS), st.integers(1, 9), st.integers(0, 1000)
)
@example("reconstruction", Signed(), 8, 0)
@example("temporal-bias", IntegrateFire(), 9, 1)
def test_what_is_found_in_little_memory_is_what_is_found_in_much(
    name: str, neuron: Neuron, timesteps: int, seed: int
) -> None:
    graph, x = network(neuron), weight(6, 3, 8, 8, seed=seed, scale=1.0).double()
    start = LeastSquares(timesteps)(graph, lambda: [x])
    start = precise(start)
    correct = CORRECTIONS[name](timesteps)
    much = correct(start, lambda: [x[:2], x[2:]], graph)
    assert name == "initial-membrane" or str(much) != str(start) or not same(much, start) or timesteps < 3
    with pytest.MonkeyPatch.context() as patch:
        sparing(patch)
        if name == "reconstruction":  # which looks at whole samples: as many as before
            patch.setattr(_room, "MEMORY", 5 * 4 * timesteps * 256)
        little = correct(start, lambda: [x[:2], x[2:]], graph)
    assert same(much, little)
