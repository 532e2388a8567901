"""Calibrators: thresholds worked by hand, streamed as if all at once, sound for every neuron."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibrators import Calibrator, calibrators
from calibrators.bias_correction import BiasCorrection
from calibrators.least_squares import LeastSquares, least_squares
from calibrators.local_balancing import LocalBalancing
from calibrators.maximum import Maximum
from calibrators.percentile import Percentile
from calibrators.statistics import BINS, Histogram, Largest
from converter.errors import DataError, Unsupported, UsageError
from converter.graph import Graph
from converter.importer import load
from converter.neurons import Neuron
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.multi_level import MultiLevel
from converter.neurons.signed import Signed
from converter.passes import apply
from converter.passes.spike import Spike
from tests.models import parse, weight

Batches = Callable[[], Iterable[Tensor]]
EVERY = dict(calibrators)
CORRECTORS = {
    "bias-correction",
    "coordinate",
    "distillation",
    "initial-membrane",
    "reconstruction",
    "regression",
    "temporal-bias",
}
FEW = {"bayesian": {"trials": 6, "timesteps": 4}, "distillation": {"iterations": 10}}
"""Options for those that would take long."""
"""Calibrators that correct what is wrong under thresholds that are there."""


def spiking(body: str, weights: dict[str, Tensor], inputs: str) -> Graph:
    return Spike()(apply(load(parse(body, weights, inputs=inputs)))[0])


def thresholds(graph: Graph) -> list[list[float]]:
    ops = [n.op for n in graph if isinstance(n.op, Neuron)]
    return [[round(v, 5) for v in op.calibrated().flatten().tolist()] for op in ops]


def tensors(graph: Graph) -> list[Tensor]:
    return [tensor for node in graph for tensor in node.op.tensors().values()]


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
    for calibrate in (Maximum(), Percentile(), LocalBalancing()):
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


def test_least_squares_of_a_gaussian_is_the_known_fixed_point() -> None:
    """relu of N(0, 1), 4 levels, rounding: θ = 2.135 (Gaussian fixed point, Huang et al., ICML 2025)."""
    histogram = Histogram(False)
    for seed in range(10):
        histogram.update(torch.randn(20_000, 1, generator=torch.Generator().manual_seed(seed)).relu())
    assert float(least_squares(histogram, IntegrateFire(), 4)) == pytest.approx(2.135, rel=0.02)


def test_headroom_widens_what_least_squares_found_up_to_a_ceiling() -> None:
    """Of values that are all 1 the threshold is 1; three times that, or where the activation ends: 2."""
    top = {"lo": torch.tensor(0.0), "hi": torch.tensor(2.0)}
    for body, weights, threshold in (("y = Relu(x)", {}, 3.0), ("y = Clip(x, lo, hi)", top, 2.0)):
        graph = spiking(body, weights, "float[N,2] x")
        found = LeastSquares(4, per_channel=False, headroom=3.0)(graph, lambda: [torch.ones(2, 2)])
        assert [float(n.op.calibrated()) for n in found if isinstance(n.op, Neuron)] == [threshold]
    for wrong in (0.5, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="it is at least 1"):
            LeastSquares(headroom=wrong)


@pytest.mark.parametrize(("threshold", "said"), [(1.0, 0.5), (1.5, 0.75)])
def test_a_neuron_with_headroom_catches_up_with_what_comes_late(threshold: float, said: float) -> None:
    """0, 0, 1.6, 1.6 from half a threshold: two spikes either way, and wider ones say more of 0.8."""
    neuron = Signed(threshold=torch.tensor(threshold))
    spikes = neuron.scan(neuron.init(), torch.tensor([0.0, 0.0, 1.6, 1.6]))[1]
    assert float(spikes.mean()) == pytest.approx(said)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 16), st.sampled_from([0.0, 0.5]))
def test_least_squares_is_the_best_of_its_grid(seed: int, levels: int, initial: float) -> None:
    values = torch.rand((400, 2), generator=torch.Generator().manual_seed(seed)).pow(3) * torch.tensor(
        [1.0, 50.0]
    )
    histogram = Histogram(True)
    histogram.update(values)
    neuron = IntegrateFire(initial=initial)
    for column, found in zip(values.double().T, least_squares(histogram, neuron, levels), strict=True):

        def error(limit: float, column: Tensor = column) -> float:
            code = (column * levels / limit + initial).floor().clamp(0, levels) * limit / levels
            return float((code - column).square().mean())

        largest = float(column.max())
        best = min(error(largest * r / 100) for r in range(100, 4, -1))
        assert error(float(found)) <= best * 1.05 + 1e-12, "binning costs no more than that"


def test_the_range_of_a_neuron_of_levels_is_divided_among_them() -> None:
    plain = apply(load(parse("y = Relu(x)", inputs="float[N,2] x")))[0]
    graph = Maximum()(Spike(MultiLevel(levels=4))(plain), lambda: [torch.tensor([[2.0, 8.0]])])
    assert thresholds(graph) == [[0.5, 2.0]]


@pytest.mark.parametrize("name", sorted(CORRECTORS))
def test_a_correction_needs_samples_to_agree(name: str) -> None:
    graph = spiking("y = Relu(x)", {}, "float[N,6] x")
    with pytest.raises(DataError, match="needs two samples or more, there are 1"):
        EVERY[name]()(LeastSquares()(graph, lambda: [torch.ones(2, 6)]), lambda: [torch.ones(1, 6)])


def test_local_balancing_by_hand() -> None:
    """Two batches: θ = 0 + 2 · mean(0, 0, 0, 1) = 0.5, then 0.5 + 2 · mean(0, 0, 0.5, 1.5) = 1.5.

    The second layer, twice the first, is passed min(x, θ): 1 of 2 · 0.5, then 2 and 3 of 2 · min(x, 1.5).
    θ = 2 · mean(0, 0, 0, 1) = 0.5, then 0.5 + 2 · mean(0, 0, 1.5, 2.5) = 2.5.
    """
    graph = spiking("a = Relu(x) b = Mul(a, two) y = Relu(b)", {"two": torch.tensor(2.0)}, "float[N,1] x")
    first, second = torch.tensor([[-3.0], [-1.0], [0.0], [1.0]]), torch.tensor([[0.0], [-1.0], [1.0], [2.0]])
    assert thresholds(LocalBalancing(rounds=1)(graph, lambda: [first])) == [[0.5], [0.5]]
    assert thresholds(LocalBalancing(rounds=1)(graph, lambda: [first, second])) == [[1.5], [2.5]]
    again = thresholds(LocalBalancing(rounds=2)(graph, lambda: [first]))
    assert again == [[0.75], [1.0]], "0.5 + 2 · 0.5 / 4; 0.5 + 2 · (1.5 − 0.5) / 4"
    with pytest.raises(UsageError, match="rounds is 0; it takes at least 1"):
        LocalBalancing(rounds=0)


def test_local_balancing_stops_at_the_largest() -> None:
    """All activations 1: twice the mean above 0 is 2, but nothing says more than 1."""
    graph = spiking("y = Relu(x)", {}, "float[N,1] x")
    assert thresholds(LocalBalancing(rounds=1)(graph, lambda: [torch.ones(4, 1)])) == [[1.0]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.booleans())
def test_local_balancing_climbs_with_every_batch_and_never_above_the_largest(
    seed: int, parts: int, per_channel: bool
) -> None:
    graph = spiking("y = Relu(x)", {}, "float[N,3] x")
    random = torch.Generator().manual_seed(seed)
    batches = [torch.randn(20, 3, generator=random).pow(3) for _ in range(parts)]
    largest = torch.tensor(thresholds(Maximum(per_channel)(graph, lambda: batches))[0])
    before = torch.zeros(())
    for count in range(1, parts + 1):
        balanced = LocalBalancing(rounds=1, per_channel=per_channel)(graph, lambda n=count: batches[:n])  # type: ignore[misc]
        now = torch.tensor(thresholds(balanced)[0])
        assert bool((now >= before).all())
        before = now
    assert bool((before <= largest).all())
    late = LocalBalancing(rounds=200, per_channel=per_channel)(graph, lambda: batches)
    assert bool((torch.tensor(thresholds(late)[0]) > 0.9 * largest).all())


@pytest.mark.parametrize("name", sorted(CORRECTORS | {"spike-calibration"}))
def test_without_thresholds_there_is_nothing_to_mend(name: str) -> None:
    graph = spiking("y = Relu(x)", {}, "float[N,6] x")
    with pytest.raises(UsageError, match=rf"{name} mends .* IntegrateFire 'y' \(input Nx6\) has none yet"):
        EVERY[name]()(graph, lambda: [torch.ones(4, 6)])


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
    calibrate: Calibrator = EVERY[name](**FEW.get(name, {}))
    if name in CORRECTORS or name == "spike-calibration":
        graph = Maximum()(graph, lambda: batches)
    once, twice = (calibrate(graph, lambda: batches) for _ in range(2))
    assert len(thresholds(once)) == 3
    assert all(v > 0 for layer in thresholds(once) for v in layer)
    same = zip(tensors(once), tensors(twice), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    if name not in {"auto", "bias-correction", "coordinate", "distillation", "reconstruction", "regression"}:
        assert torch.equal(once.run(batches[0])[0], graph.run(batches[0])[0]), (
            "the ANN's meaning is untouched"
        )


def test_where_dimension_1_is_the_batch_a_layer_has_one_threshold() -> None:
    body = "t = Transpose<perm=[1,0,2]>(x) r = Relu(t) y = Transpose<perm=[1,0,2]>(r)"
    graph = Spike()(apply(load(parse(body, inputs="float[N,5,6] x", outputs="float[N,A,B] y")))[0])
    for calibrate in (Maximum(), Percentile(), LeastSquares(), LocalBalancing()):
        assert len(thresholds(calibrate(graph, lambda: weight(7, 5, 6).split(4)))[0]) == 1
    with pytest.raises(Unsupported, match="the batch does not stand first"):
        BiasCorrection()(Maximum()(graph, lambda: [weight(7, 5, 6)]), lambda: [weight(7, 5, 6)])
