"""Calibrators: thresholds worked by hand, streamed as if all at once, sound for every neuron."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibrators import Calibrator, calibrators
from calibrators.maximum import Maximum
from calibrators.percentile import Percentile
from calibrators.statistics import BINS, Histogram, Largest
from converter.errors import DataError, UsageError
from converter.graph import Graph
from converter.importer import load
from converter.neurons import Neuron
from converter.passes import apply
from converter.passes.spike import Spike
from tests.models import parse, weight

Batches = Callable[[], Iterable[Tensor]]


def spiking(body: str, weights: dict[str, Tensor], inputs: str) -> Graph:
    return Spike()(apply(load(parse(body, weights, inputs=inputs)))[0])


def thresholds(graph: Graph) -> list[list[float]]:
    ops = [n.op for n in graph if isinstance(n.op, Neuron)]
    return [[round(v, 5) for v in op.calibrated().flatten().tolist()] for op in ops]


def test_the_maximum_by_hand() -> None:
    graph = spiking("y = Relu(x)", {}, "float[N,2] x")
    batches: Batches = lambda: [torch.tensor([[1.0, -5.0], [3.0, 0.5]]), torch.tensor([[2.0, 0.25]])]  # noqa: E731
    assert thresholds(Maximum()(graph, batches)) == [[3.0, 0.5]]
    assert thresholds(Maximum(per_channel=False)(graph, batches)) == [[3.0]]


def test_the_percentile_by_hand() -> None:
    """0, 1, …, 999 in a layer: 99 % of them do not exceed 989. Negative ones count as zeros."""
    graph = spiking("y = Relu(x)", {}, "float[N,1] x")
    values = torch.arange(1000.0).reshape(-1, 1)
    (layer,) = thresholds(Percentile(99.0)(graph, lambda: values.split(64)))
    assert layer[0] == pytest.approx(989, abs=2 * 999 / BINS)
    with_zeros = torch.cat([values, torch.full((1000, 1), -7.0)])
    (layer,) = thresholds(Percentile(99.0)(graph, lambda: [with_zeros]))
    assert layer[0] == pytest.approx(979, abs=2 * 999 / BINS)


def test_a_layer_s_channels_keep_the_layout_of_its_images() -> None:
    body = "c = Conv(x, w) y = Relu(c)"
    model = parse(body, {"w": weight(4, 3, 3, 3)}, outputs="float[N,C,H,W] y")
    graph = Percentile()(Spike()(apply(load(model))[0]), lambda: [weight(5, 3, 8, 8, seed=1)])
    neuron = graph["y"].op
    assert isinstance(neuron, Neuron)
    assert neuron.calibrated().shape == (4, 1, 1)


def test_the_ceiling_of_an_activation_is_not_exceeded() -> None:
    model = parse(
        "y = Clip(x, lo, hi)", {"lo": torch.tensor(0.0), "hi": torch.tensor(6.0)}, inputs="float[N,2] x"
    )
    graph = Spike()(apply(load(model))[0])
    assert thresholds(Maximum()(graph, lambda: [torch.tensor([[100.0, 2.0]])])) == [[6.0, 2.0]]
    histogram = Percentile(100.0)(graph, lambda: [torch.tensor([[100.0, 2.0]])])
    assert thresholds(histogram)[0][0] == 6.0


def test_a_silent_channel_takes_its_layer_s_threshold_and_a_silent_layer_one() -> None:
    graph = spiking("y = Relu(x)", {}, "float[N,3] x")
    assert thresholds(Maximum()(graph, lambda: [torch.tensor([[4.0, -1.0, 1e-5]])])) == [[4.0, 4.0, 4.0]]
    assert thresholds(Maximum()(graph, lambda: [-torch.ones(2, 3)])) == [[1.0, 1.0, 1.0]]


def test_a_negative_slope_is_measured_on_both_sides() -> None:
    graph = spiking("y = LeakyRelu<alpha=0.1>(x)", {}, "float[N,2] x")
    assert thresholds(Maximum()(graph, lambda: [torch.tensor([[2.0, -9.0], [-3.0, 1.0]])])) == [[3.0, 9.0]]


def test_no_samples_is_an_error() -> None:
    graph = spiking("y = Relu(x)", {}, "float[N,3] x")
    for calibrate in (Maximum(), Percentile()):
        with pytest.raises(DataError, match="no calibration samples"):
            calibrate(graph, lambda: [])


@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.5])
def test_a_percentile_out_of_range_is_refused(percentile: float) -> None:
    with pytest.raises(UsageError, match="lies above 0 and up to 100"):
        Percentile(percentile)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0.5, 0.9999), st.booleans())
def test_a_streamed_quantile_is_the_quantile_of_all_to_one_bin(
    seed: int, parts: int, share: float, per_channel: bool
) -> None:
    """Batches whose scale grows by ten each time: every limit has to double again and again."""
    random = torch.Generator().manual_seed(seed)
    growth = 10.0 ** torch.arange(parts).reshape(-1, 1, 1, 1)
    values = torch.rand((parts * 50, 3, 2), generator=random).reshape(parts, 50, 3, 2).mul(growth)
    histogram = Histogram(per_channel)
    for batch in values:
        histogram.update(batch)
    rows = values.flatten(0, 1).movedim(1, 0).reshape(3, -1) if per_channel else values.reshape(1, -1)
    for row, found in zip(rows, histogram.quantile(share), strict=True):
        exact = torch.quantile(row, share, interpolation="higher")
        below = torch.quantile(row, max(share - 1 / len(row), 0.0), interpolation="lower")
        bin_ = 2 * float(row.max()) / BINS
        assert float(below) - bin_ <= float(found) <= float(exact) + bin_


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 1000))
def test_statistics_do_not_depend_on_how_the_data_are_cut(sizes: list[int], seed: int) -> None:
    values = torch.rand((sum(sizes), 4), generator=torch.Generator().manual_seed(seed))
    whole, parts = Largest(True), Largest(True)
    whole.update(values)
    for part in values.split(sizes):
        parts.update(part)
    assert torch.equal(whole.value(), parts.value())


EVERY = dict(calibrators)


@pytest.mark.parametrize("name", calibrators.names())
def test_every_calibrator_sets_every_threshold_above_zero_and_repeats_itself(name: str) -> None:
    body = "a = Gemm(x, w) r = Relu(a) b = Gemm(r, w1) c = Clip(b, lo, hi) d = LeakyRelu(c) y = Gemm(d, w2)"
    weights = {
        "w": weight(6, 8),
        "w1": weight(8, 8, seed=1),
        "w2": weight(8, 3, seed=2),
        "lo": torch.tensor(0.0),
        "hi": torch.tensor(0.5),
    }
    graph = spiking(body, weights, "float[N,6] x")
    batches = [weight(20, 6, seed=s, scale=1.0) for s in range(3)]
    calibrate: Calibrator = EVERY[name]()
    once, twice = (calibrate(graph, lambda: batches) for _ in range(2))
    assert len(thresholds(once)) == 3
    assert all(v > 0 for layer in thresholds(once) for v in layer)
    assert thresholds(once) == thresholds(twice)
    assert torch.equal(once.run(batches[0])[0], graph.run(batches[0])[0]), "the ANN's meaning is untouched"


def test_where_dimension_1_is_the_batch_a_layer_has_one_threshold() -> None:
    body = "t = Transpose<perm=[1,0,2]>(x) r = Relu(t) y = Transpose<perm=[1,0,2]>(r)"
    graph = Spike()(apply(load(parse(body, inputs="float[N,5,6] x", outputs="float[N,A,B] y")))[0])
    for calibrate in (Maximum(), Percentile()):
        assert len(thresholds(calibrate(graph, lambda: weight(7, 5, 6).split(4)))[0]) == 1
