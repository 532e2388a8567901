"""Corrections in little memory: the same as in much, and exact wherever a layer is looked at."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibrators import _room, _run
from calibrators._layerwise import Layer
from calibrators._room import Places, Room, places_of, room_for
from calibrators._run import layer_by_layer
from calibrators.bias_correction import BiasCorrection
from calibrators.coordinate import Coordinate
from calibrators.initial_membrane import InitialMembrane
from calibrators.least_squares import LeastSquares
from calibrators.reconstruction import Reconstruction
from calibrators.regression import Regression
from calibrators.spike_calibration import SpikeCalibration
from calibrators.temporal_bias import TemporalBiasCorrection
from converter.data import open_source
from converter.graph import BATCH, Graph, Input, Node
from converter.importer import load
from converter.neurons import Neuron
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.multi_level import MultiLevel
from converter.neurons.signed import Signed
from converter.passes import apply
from converter.passes.spike import Spike
from converter.segments import most_kept, segments
from tests.conftest import ROOT
from tests.models import parse, weight

KINDS = (IntegrateFire(), Signed(), MultiLevel(levels=4))
CORRECTIONS: dict[str, Callable[[int], Any]] = {
    "bias-correction": BiasCorrection,
    "coordinate": lambda t: Coordinate(t, rounds=1),
    "initial-membrane": InitialMembrane,
    "reconstruction": lambda t: Reconstruction(t, iterations=4),
    "regression": lambda t: Regression(t, rounds=2),
    "temporal-bias": TemporalBiasCorrection,
}

BODY = """
    c0 = Conv<pads=[1,1,1,1]>(x, w) r0 = Relu(c0)
    c1 = Conv<pads=[1,1,1,1]>(r0, w1) a1 = Add(c1, r0) l1 = LeakyRelu<alpha=0.2>(a1)
    p1 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(l1) d1 = Conv<strides=[2,2]>(l1, w2) a2 = Add(p1, d1)
    c2 = Conv<pads=[1,1,1,1]>(a2, w3) r2 = Relu(c2)
    k3 = Concat<axis=1>(a2, r2) c3 = Conv(k3, w4) r3 = Relu(c3)
    g = GlobalAveragePool(r3) f = Flatten(g) h = Gemm(f, w5) y = Softmax(h)
"""
WEIGHTS = {
    "w": weight(4, 3, 3, 3),
    "w1": weight(4, 4, 3, 3, seed=1, scale=0.2),
    "w2": weight(4, 4, 2, 2, seed=2, scale=0.2),
    "w3": weight(4, 4, 3, 3, seed=3, scale=0.2),
    "w4": weight(5, 8, 2, 2, seed=4, scale=0.3),
    "w5": weight(5, 3, seed=5),
}


def network(neuron: Neuron) -> Graph:
    """A residual sum, a max-pool of spikes, a sum without neurons that two layers read, a sloped neuron.

    In double precision, so that sums taken in another order do not move a membrane across its threshold.
    """
    return precise(Spike(neuron)(apply(load(parse(BODY, WEIGHTS, outputs="float[N,M] y")))[0]))


def precise(graph: Graph) -> Graph:
    return graph.map(lambda node: replace(node, op=node.op.map_tensors(lambda t: t.double())))


def sparing(patch: pytest.MonkeyPatch, **limits: int) -> None:
    """One sample at a time, and spikes alone between layers; `limits` in bytes for what else is limited."""
    for name, value in {"MEMORY": 1, "PART": 1, **limits}.items():
        patch.setattr(_room, name, value)


def parameters(graph: Graph) -> dict[str, Tensor]:
    """Every tensor, by node and field."""
    return {f"{n.name}.{field}": t for n in graph for field, t in n.op.tensors().items()}


def assert_same(one: Graph, other: Graph) -> None:
    assert str(one) == str(other)
    mine, others = parameters(one), parameters(other)
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-5, atol=1e-5, msg=name)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(CORRECTIONS)), st.sampled_from(KINDS), st.integers(2, 9), st.integers(0, 1000))
@example("reconstruction", Signed(), 8, 0)
@example("temporal-bias", IntegrateFire(), 9, 1)
@example("bias-correction", MultiLevel(levels=4), 3, 2)
def test_what_is_found_in_little_memory_is_what_is_found_in_much(
    name: str, neuron: Neuron, timesteps: int, seed: int
) -> None:
    graph, x = network(neuron), weight(8, 3, 8, 8, seed=seed, scale=1.0).double()
    batches = lambda: [x[:3], x[3:]]  # noqa: E731
    start = precise(LeastSquares(timesteps)(graph, batches))
    much = CORRECTIONS[name](timesteps)(start, batches, graph)
    with pytest.MonkeyPatch.context() as patch:
        sparing(patch)
        little = CORRECTIONS[name](timesteps)(start, batches, graph)
    assert_same(much, little)


def test_on_digits_too_and_after_withdrawals(digits_model: Path) -> None:
    """The whole chain, each correction finding something to mend."""
    graph = precise(Spike()(apply(load(digits_model))[0]))
    source = open_source("digits", expected=graph.inputs[0].shape)
    x = next(source.batches(source.parts["train"][:64], 64))[0].double()
    start = SpikeCalibration(8, 2.0)(precise(LeastSquares(8)(graph, lambda: [x])), lambda: [])
    for correct in (BiasCorrection(8), Reconstruction(8, iterations=5), Coordinate(8, rounds=1)):
        much = correct(start, lambda: [x], graph)
        with pytest.MonkeyPatch.context() as patch:
            sparing(patch, PART=5 * 4 * 8 * 2048)
            little = correct(start, lambda: [x], graph)
        assert_same(much, little)
        assert any(not torch.equal(a, b) for a, b in zip(*map(values, (start, much)), strict=True)), correct
        start = much


def values(graph: Graph) -> list[Tensor]:
    return list(parameters(graph).values())


def seen(graph: Graph, x: Tensor, timesteps: int, schedule: str = "stream") -> dict[str, Layer]:
    """Each layer of neurons as a correction sees it, none being changed."""
    layers: dict[str, Layer] = {}

    def mend(layer: Layer) -> Layer:
        layers[layer.node.name] = layer
        return layer

    layer_by_layer("a test", graph, lambda: [x], timesteps, schedule, mend)
    return layers


@pytest.mark.parametrize("schedule", ["stream", "pipelined"])
@pytest.mark.parametrize("neuron", KINDS, ids=lambda n: n.kind)
def test_where_a_layer_is_looked_at_it_is_what_it_is(neuron: Neuron, schedule: str) -> None:
    """In 3 places of each sample: the currents, activations and spikes that all of it has there."""
    x, steps = weight(4, 3, 8, 8, seed=7, scale=1.0).double(), 6 if schedule == "stream" else 1
    graph = precise(LeastSquares(6)(network(neuron), lambda: [x]))
    whole = seen(graph, x, 6, schedule)
    drawn: dict[str, Places] = {}
    with pytest.MonkeyPatch.context() as patch:
        sparing(patch, JUDGED=4 * steps * 4 * 5 * 3)  # 4 bytes, 4 samples, up to 5 channels, 3 places
        patch.setattr(
            _run, "places_of", lambda node, *rest: drawn.setdefault(node.name, places_of(node, *rest))
        )
        little = seen(graph, x, 6, schedule)
    assert set(whole) == set(little) == {"r0", "l1", "r2", "r3"}
    for name, layer in little.items():
        places = drawn[name].places
        assert places is not None
        assert places.shape == (4, 3)
        assert layer.currents.shape == (steps, 4, layer.node.shape[1], 3, 1)
        torch.testing.assert_close(layer.currents, drawn[name].of(whole[name].currents, 0, 1))
        torch.testing.assert_close(layer.activation, drawn[name].of(whole[name].activation, 0, 0))
        torch.testing.assert_close(layer.spikes(), drawn[name].of(whole[name].spikes(), 0, 1))
        assert len({tuple(sorted(row.tolist())) for row in places}) > 1, "each sample in places of its own"


def test_places_by_hand() -> None:
    """Two samples of one channel and 2 × 2 places, looked at in two of them; a third is not looked at."""
    value = torch.arange(12.0).reshape(3, 1, 2, 2)
    looked = Places(2, torch.tensor([[0, 3], [1, 2]]))
    assert looked.of(value, 0, 0).tolist() == [[[[0.0], [3.0]]], [[[5.0], [6.0]]]]
    assert looked.of(value[1:], 1, 0).tolist() == [[[[5.0], [6.0]]]], "from sample number 1 on"
    assert looked.of(value[None, 2:], 2, 1).shape == (1, 0, 1, 2, 1)
    assert torch.equal(Places(2).of(value, 0, 0), value[:2])


def layer(shape: tuple[int, ...], neuron: Neuron | None = None) -> Node:
    return Node(neuron or IntegrateFire(torch.ones(())), (Node(Input(), (), "x", shape),), "y", shape)


@pytest.mark.parametrize(
    ("node", "judged", "samples", "places"),
    [
        (layer((BATCH, 2, 10)), 20 * 8, 8, None),  # 8 samples of 20 values fit
        (layer((BATCH, 2, 10)), 20 * 8 - 1, 8, 9),
        (layer((BATCH, 2, 10)), 1, 2, 1),  # never fewer than two samples and one place
        (layer((BATCH, 20)), 20 * 4, 4, None),  # no places beside channels: fewer samples
        (layer((BATCH, 2, 10), IntegrateFire(torch.ones(2, 10))), 20 * 4, 4, None),  # none alike
        (layer((BATCH, 2, 10), IntegrateFire(torch.ones(2, 1))), 20 * 4, 8, 5),
    ],
)
def test_how_much_of_a_layer_is_looked_at(
    node: Node, judged: int, samples: int, places: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`judged` values, at 3 steps of 4 bytes each, and 8 samples."""
    monkeypatch.setattr(_room, "JUDGED", 12 * judged)
    looked = places_of(
        node, Room(8, 1, sparing=True, looked=8, learnt=8), 3, [], torch.Generator().manual_seed(0)
    )
    assert looked.samples == samples
    assert (None if looked.places is None else looked.places.shape) == (places and (samples, places))
    assert places_of(node, Room.ample(8), 3, [], torch.Generator()) == Places(8)


Told = list[tuple[str, str, str, str]]


def told(graph: Graph, *, sparing: bool) -> Told:
    """(end, nodes, keep, done) of each segment, by name."""
    return [
        (s.end.name, *(" ".join(n.name for n in nodes) for nodes in (s.nodes, s.keep, s.done)))
        for s in segments(graph, sparing=sparing)
    ]


def test_what_lies_between_neurons() -> None:
    """a2 is read on the way to r2 and to r3: kept, or computed again from what l1 emitted."""
    graph = network(IntegrateFire())
    first: Told = [("r0", "c0", "", "x"), ("l1", "c1 a1", "", "r0")]
    assert told(graph, sparing=False) == [
        *first,
        ("r2", "p1 d1 a2 c2", "a2", "l1"),
        ("r3", "k3 c3", "", "a2 r2"),
    ]
    assert told(graph, sparing=True) == [
        *first,
        ("r2", "p1 d1 a2 c2", "", ""),
        ("r3", "p1 d1 a2 k3 c3", "", "l1 r2"),
    ]
    assert [s.emits for s in segments(graph, sparing=True)] == [True, True, True, False]


def test_how_many_samples_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """T = 8. The largest value in time is 4 × 8 × 8, 8 KiB a sample. At the worst two layers are kept.

    r0's spikes take a bit a step, 256 bytes; l1's are sloped and stay floats, 8,192 bytes: 8,448 together.
    """
    graph = network(IntegrateFire())
    assert most_kept(segments(graph, sparing=True), lambda n: 8 * _room.bits(n, 8)) == 8448
    monkeypatch.setattr(_room, "MEMORY", 10 << 13)
    assert room_for(graph, 8, 10) == Room.ample(10)
    for name, most in {"PART": 3, "JUDGED": 4, "LEARNT": 35}.items():
        monkeypatch.setattr(_room, name, most << 13)
    assert room_for(graph, 8, 11) == Room(11, 3, sparing=True, looked=4, learnt=7)
    monkeypatch.setattr(_room, "STORED", 20 * 8448)
    assert room_for(graph, 8, 100).samples == 20
    monkeypatch.setattr(_room, "STORED", 1)
    assert room_for(graph, 8, 100).samples == 10, "never fewer than fit with all their values"


@pytest.mark.slow
def test_a_detector_of_large_maps_is_corrected_in_less_than_3_gb(shared: Path) -> None:
    """A 640 × 640 face detector, signed, T = 32: its largest value over all steps is 210 MB an image."""
    code = f"""
import torch
from calibrators.bias_correction import BiasCorrection
from calibrators.least_squares import LeastSquares
from converter.importer import load
from converter.neurons.signed import Signed
from converter.passes import apply
from converter.passes.spike import Spike
graph = Spike(Signed())(apply(load({str(shared / "models" / "yunet_n_640_640.onnx")!r}))[0])
images = [255 * torch.rand(2, 3, 640, 640) for _ in range(4)]
BiasCorrection(32)(LeastSquares(32)(graph, lambda: images), lambda: images)
"""
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    _, child.returncode, usage = os.wait4(child.pid, 0)
    assert child.returncode == 0
    assert usage.ru_maxrss * 1024 < 3e9, f"{usage.ru_maxrss / 1e6:.2f} GB"
