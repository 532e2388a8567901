"""Measurements: counted by hand on networks small enough for it."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import pytest
import torch
from torch import Tensor

from calibrators import with_ranges
from converter.encodings.poisson import Poisson
from converter.errors import DataError
from converter.graph import BATCH, Graph
from converter.importer import load
from converter.metrics import (
    batch_that_fits,
    count_right,
    measure,
    relative_error,
    sample_shape,
    scores_classes,
)
from converter.neurons import Neuron
from converter.neurons.burst import Burst
from converter.neurons.multi_level import MultiLevel
from converter.operations import fan_out_of, macs_of
from converter.passes import apply
from converter.passes.spike import Spike
from converter.rate import RateModel
from tests.models import parse, weight


def network(body: str, weights: dict[str, Tensor], inputs: str, threshold: float = 1.0) -> Graph:
    """A spiking network whose thresholds all stand at `threshold`."""
    graph = Spike()(apply(load(parse(body, weights, inputs=inputs)))[0])
    return with_ranges(graph, {n: torch.tensor(threshold) for n in graph if isinstance(n.op, Neuron)})


def test_a_run_counted_by_hand() -> None:
    """Two neurons with currents 0.5 and 1, thresholds 1, start ½; T = 4: spikes at 1, 3 and at 1, 2, 3, 4.

    Each spike of the first reaches two weights of the read-out, of the second one (the other is zero).
    """
    graph = network(
        "h = Relu(x) y = Gemm(h, w)", {"w": torch.tensor([[1.0, 2.0], [0.0, 4.0]])}, "float[N,2] x"
    )
    x, labels = torch.tensor([[0.5, 1.0]]), torch.tensor([1])
    found = measure(RateModel(graph), graph, [(x, labels)], (1, 2, 4))
    assert found.samples == 1
    assert found.ann_accuracy == 1.0
    assert [(p.timesteps, p.accuracy, p.agreement) for p in found.curve] == [
        (1, 1.0, 1.0),
        (2, 1.0, 1.0),
        (4, 1.0, 1.0),
    ]
    # Read-out: [1, 6], [0.5, 5], [0.5, 5] against the ANN's [0.5, 5]: off by [0.5, 1], then exact.
    assert found.curve[0].output_error == pytest.approx((0.25 + 1) ** 0.5 / (0.25 + 25) ** 0.5)
    assert [p.output_error for p in found.curve[1:]] == [0.0, 0.0]
    # Of the classes: softmax has 1 / (1 + e^-5) and 1 / (1 + e^-4.5) of the second class.
    p, q = 1 / (1 + exp(-4.5)), 1 / (1 + exp(-5))
    nats = p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))
    assert found.curve[0].divergence == pytest.approx(nats, rel=1e-6)
    assert [p.divergence for p in found.curve[1:]] == [0.0, 0.0]
    assert [p.spikes_per_neuron for p in found.curve] == [1.0, 1.5, 3.0]
    # The first neuron reaches two weights and fires at steps 1 and 3, the second one, and always fires.
    assert [p.microjoules for p in found.curve] == pytest.approx([3 * 0.9e-6, 4 * 0.9e-6, 8 * 0.9e-6])
    (layer,) = found.layers
    assert (layer.name, layer.neurons, layer.shape) == ("h", 2, "2")
    assert (layer.spikes_per_neuron, layer.firing_rate) == (3.0, 0.75)
    assert (layer.clipped, layer.silent, layer.error) == (0.0, 0.0, 0.0)
    operations = found.metrics["synaptic_operations"]
    assert operations == {"Dense": 12.0, "Effective_ACs": 2 * 2 + 4 * 1, "Effective_MACs": 0}
    assert found.metrics["connection_sparsity"] == 0.25
    assert found.metrics["activation_sparsity"] == 0.25
    assert found.metrics["energy"]["snn_microjoule"] == pytest.approx(8 * 0.9e-6)
    assert found.metrics["energy"]["ann_microjoule"] == pytest.approx(3 * 4.6e-6)


def test_a_spike_of_several_levels_costs_its_bits() -> None:
    """Currents 0.5 and 1, levels of ¼: the first step says 2 and 4 levels, 3 bits each, to 2 + 1 weights."""
    graph = network(
        "h = Relu(x) y = Gemm(h, w)", {"w": torch.tensor([[1.0, 2.0], [0.0, 4.0]])}, "float[N,2] x"
    )
    levels = graph.map(
        lambda n: replace(n, op=MultiLevel(torch.tensor(0.25), levels=4)) if isinstance(n.op, Neuron) else n
    )
    found = measure(RateModel(levels), levels, [(torch.tensor([[0.5, 1.0]]), None)], (1,)).metrics
    assert found["synaptic_operations"]["Effective_ACs"] == 3 * (2 + 1)
    assert found["spikes_per_neuron"] == 1.0


def test_each_spike_of_a_burst_is_a_spike_and_costs_one() -> None:
    """Thresholds ¼, currents 0.5 and 1: bursts of 2 and 4 in the step; they reach 2 weights and 1.

    Beside a max-pool of both, which says the 4 alone, three events are on their way, and each costs the mean
    of the network's, 6 spikes in 2.
    """
    body = "h = Relu(x) y = Gemm(h, w)"
    bursts = network(body, {"w": torch.tensor([[1.0, 2.0], [0.0, 4.0]])}, "float[N,2] x", threshold=0.25)
    bursts = bursts.map(lambda n: replace(n, op=Burst(n.op.threshold)) if isinstance(n.op, Neuron) else n)
    found = measure(RateModel(bursts), bursts, [(torch.tensor([[0.5, 1.0]]), None)], (1,))
    assert found.metrics["synaptic_operations"]["Effective_ACs"] == 2 * 2 + 4 * 1
    assert found.curve[0].spikes_per_neuron == 3.0
    assert found.metrics["activation_sparsity"] == 0.0
    assert found.layers[0].spikes == "burst:5"
    assert found.layers[0].clipped == 0.0, "1 is four thresholds, and five can be said"
    body = """
        h = Relu(x) p = MaxPool<kernel_shape=[2], strides=[2]>(h)
        c = Concat<axis=2>(h, p) f = Flatten(c) y = Gemm(f, w)
    """
    pooled = network(body, {"w": torch.ones(3, 7)}, "float[N,1,2] x", threshold=0.25)
    pooled = pooled.map(lambda n: replace(n, op=Burst(n.op.threshold)) if isinstance(n.op, Neuron) else n)
    found = measure(RateModel(pooled), pooled, [(torch.tensor([[[0.5, 1.0]]]), None)], (1,))
    assert found.metrics["synaptic_operations"]["Effective_ACs"] == 3 * (6 / 2) * 7


def test_clipped_and_silent_shares_by_hand() -> None:
    """Threshold 1: the activation 3 is clipped to 1; 0.1 needs 4 steps more to fire; -1 is rightly silent."""
    graph = network("h = Relu(x) y = Gemm(h, w)", {"w": torch.eye(4)}, "float[N,4] x")
    x = torch.tensor([[3.0, 0.1, -1.0, 1.0]])
    (layer,) = measure(RateModel(graph), graph, [(x, None)], (4,)).layers
    assert layer.clipped == 0.25
    assert layer.silent == pytest.approx(1 / 3)
    assert layer.error == pytest.approx((2 + 0.1 + 0 + 0) / 4.1)


def test_the_same_numbers_however_the_samples_are_batched() -> None:
    graph = network(
        "a = Gemm(x, w) h = Relu(a) y = Gemm(h, w1)",
        {"w": weight(6, 8), "w1": weight(8, 3, seed=1)},
        "float[N,6] x",
    )
    x, labels = weight(12, 6, seed=2, scale=1.0), torch.arange(12) % 3
    whole = measure(RateModel(graph), graph, [(x, labels)], (1, 8))
    parts = measure(RateModel(graph), graph, zip(x.split(5), labels.split(5), strict=True), (1, 8))
    assert (whole.samples, parts.samples) == (12, 12)
    assert [p.accuracy for p in whole.curve] == [p.accuracy for p in parts.curve]
    assert whole.layers[0].spikes_per_neuron == parts.layers[0].spikes_per_neuron
    assert whole.metrics["synaptic_operations"] == parts.metrics["synaptic_operations"]


def test_without_labels_there_is_agreement_and_no_accuracy() -> None:
    graph = network("h = Relu(x) y = Gemm(h, w)", {"w": torch.eye(2)}, "float[N,2] x")
    found = measure(RateModel(graph), graph, [(torch.rand(3, 2), None)], (2,))
    assert found.ann_accuracy is None
    assert found.curve[0].accuracy is None
    assert found.curve[0].agreement is not None
    assert 0 <= found.curve[0].agreement <= 1


@pytest.mark.parametrize(
    ("outputs", "scores"),
    [
        ([(BATCH, 10)], True),
        ([(BATCH, 10), (BATCH, 4, 2)], True),  # and an auxiliary one
        ([(BATCH, 1)], False),  # one value, always the largest
        ([(BATCH, 1000, 1, 1)], True),
        ([(BATCH, 2, 31, 47)], True),  # of pixels
        ([(BATCH, 6400, 1), (BATCH, 6400, 4)], False),  # places and boxes
        ([(BATCH,)], False),
    ],
)
def test_what_scores_classes(outputs: list[tuple[int, ...]], scores: bool) -> None:
    assert scores_classes(outputs) is scores


def test_boxes_agree_on_nothing() -> None:
    graph = network("h = Relu(x) y = Gemm(h, w)", {"w": torch.ones(2, 1)}, "float[N,2] x")
    (point,) = measure(RateModel(graph), graph, [(torch.ones(3, 2), None)], (2,)).curve
    assert (point.agreement, point.divergence, point.output_error) == (None, None, 0.0)


def test_what_is_analog_costs_multiplications_once_and_what_is_encoded_does_not() -> None:
    body = "c = Conv<pads=[1,1,1,1]>(x, w) h = Relu(c) y = Conv(h, w1)"
    graph = network(body, {"w": torch.ones(2, 3, 3, 3), "w1": torch.ones(1, 2, 8, 8)}, "float[N,3,8,8] x")
    x = torch.rand(1, 3, 8, 8)
    # 3 channels; along one axis a border pixel reaches 2 taps, the 6 inner ones 3: (2·2 + 6·3)² taps, 2 maps.
    macs = 3 * 2 * (2 * 2 + 6 * 3) ** 2
    direct = measure(RateModel(graph), graph, [(x, None)], (3,)).metrics
    assert direct["synaptic_operations"]["Effective_MACs"] == macs
    assert direct["ann_macs"] == macs + 2 * 64
    encoded = measure(RateModel(graph, Poisson(1.0)), graph, [(x, None)], (3,)).metrics
    assert encoded["synaptic_operations"]["Effective_MACs"] == 0
    assert encoded["synaptic_operations"]["Effective_ACs"] > 0


def test_fan_out_counts_borders_strides_groups_and_zero_weights() -> None:
    weights = {"w": torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])}
    graph = load(
        parse(
            "y = Conv<group=2, strides=[2,2]>(x, w)",
            weights,
            inputs="float[N,2,4,4] x",
            outputs="float[N,C,H,W] y",
        )
    )
    fan_out = fan_out_of(graph["y"])
    assert fan_out[0, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert fan_out[0, 1].tolist() == [[1, 1, 1, 1]] * 4
    assert macs_of(graph) == 4 + 16


def test_relative_error_is_over_all_outputs_of_a_sample() -> None:
    target = [torch.tensor([[3.0, 0.0], [1.0, 0.0]]), torch.tensor([[4.0], [0.0]])]
    readout = [torch.tensor([[3.0, 3.0], [1.0, 0.0]]), torch.tensor([[0.0], [0.0]])]
    assert relative_error(readout, target).tolist() == [1.0, 0.0]


def test_fewer_samples_run_at_a_time_where_neurons_are_many() -> None:
    small = network("h = Relu(x) y = Gemm(h, w)", {"w": torch.eye(2)}, "float[N,2] x")
    large = network("y = Relu(x)", {}, "float[N,30000000] x")
    huge = network("y = Relu(x)", {}, "float[N,300000000] x")
    assert [batch_that_fits(graph, 100) for graph in (small, large, huge)] == [100, 3, 1]


def test_labels_that_do_not_fit_and_no_samples_are_errors() -> None:
    with pytest.raises(DataError, match="answers with 6 values a sample"):
        count_right(torch.zeros(2, 2, 3), torch.zeros(2))
    graph = network("h = Relu(x) y = Gemm(h, w)", {"w": torch.eye(2)}, "float[N,2] x")
    with pytest.raises(DataError, match="no samples to measure on"):
        measure(RateModel(graph), graph, [], (1,))


def test_rows_that_share_the_batch_s_dimension_count_for_one_sample() -> None:
    """[N, 4, 3] as [4N, 3] into 3 x 2 weights: 4 · 6 multiplications a sample, whatever holds the batch."""
    weights = {"s": torch.tensor([-1, 3]), "w": torch.ones(3, 2), "b": torch.tensor([-1, 4, 2])}
    body = "r = Reshape(x, s) m = MatMul(r, w) y = Reshape(m, b)"
    graph = load(parse(body, weights, inputs="float[N,4,3] x", outputs="float[N,A,B] y"))
    assert graph["m"].shape == (4 * BATCH, 2)
    assert fan_out_of(graph["m"]).tolist() == [[2, 2, 2]]
    assert macs_of(graph) == 24
    assert sample_shape(graph["m"].shape) == (4, 2)
    assert sample_shape((5, BATCH, 8)) == (5, 8)
