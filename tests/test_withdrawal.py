"""Spike calibration: the trace by hand, what is never done, and what it does to a network's errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from calibrators import with_ranges
from calibrators.maximum import Maximum
from calibrators.percentile import Percentile
from calibrators.spike_calibration import SpikeCalibration
from converter.data import open_source
from converter.diagnose import diagnose
from converter.errors import Unsupported, UsageError
from converter.graph import Graph
from converter.importer import load
from converter.metrics import measure
from converter.neurons import Neuron
from converter.neurons.burst import Burst
from converter.neurons.signed import Signed
from converter.observe import activations_of, voices_of
from converter.passes import apply
from converter.passes.spike import Spike
from converter.rate import RateModel
from converter.store import from_json, to_json
from converter.unroll import fire_in_turn, unroll
from converter.withdrawal import Withdrawal
from tests.models import parse, weight
from tests.test_export_torch import emitted

ONE = torch.tensor(1.0)


def run(op: Withdrawal, spikes: Tensor) -> Tensor:
    """What comes of spikes [steps, neurons]."""
    return op.scan(op.init(), spikes)[1]


def test_three_neurons_by_hand() -> None:
    """p = 4, T = 32. Spikes at 1, 3, 5 (intervals 1, 2, 2: mean 5/3), every 4 steps, and one alone at 24.

    The first is silent for longer than 5/3 + 4 from step 11 on, and takes one back at 11, 12 and 13. The
    second never pauses for longer than 4, the third's own interval is 24.
    """
    spikes = torch.zeros(32, 3)
    spikes[[1, 3, 5], 0] = 1
    spikes[3::4, 1] = 1
    spikes[24, 2] = 1
    given = run(Withdrawal(ONE, 4), spikes)
    assert given.sum(0).tolist() == [0, 8, 1]
    assert (given - spikes).nonzero().tolist() == [[11, 0], [12, 0], [13, 0]]
    assert given[11:14, 0].tolist() == [-1, -1, -1]


def test_a_burst_is_withdrawn_one_spike_at_a_time_in_units_of_its_channel() -> None:
    """Bursts of two at step 0 (interval 0): silent beyond an allowance of 1 from step 2 on."""
    bursts = torch.zeros(6, 1, 2)
    bursts[0, 0] = torch.tensor([1.0, 8.0])
    given = run(Withdrawal(torch.tensor([0.5, 4.0]), 1), bursts)
    assert given[:, 0].T.tolist() == [[1, 0, -0.5, -0.5, 0, 0], [8, 0, -4, -4, 0, 0]]


TRAINS = st.lists(st.integers(0, 3), min_size=1, max_size=60)


@given(TRAINS, st.floats(0.1, 20))
def test_never_more_is_taken_back_than_was_given(train: list[int], allowance: float) -> None:
    spikes = torch.tensor(train, dtype=torch.float32)
    given = run(Withdrawal(ONE, allowance), spikes)
    assert float(given.cumsum(0).min()) >= 0
    assert torch.equal(given.clamp(min=0), spikes), "spikes pass"
    assert float(given.min()) >= -1, "one a step"


@given(TRAINS)
def test_an_allowance_as_long_as_the_run_changes_nothing(train: list[int]) -> None:
    spikes = torch.tensor(train, dtype=torch.float32)
    assert torch.equal(run(Withdrawal(ONE, len(train)), spikes), spikes)


@pytest.mark.parametrize("allowance", [16, 32])
def test_inactive_neurons_are_quieter_and_active_ones_hardly_worse(
    digits_model: Path, allowance: float
) -> None:
    """T = 64, 99.9 %: the error falls by 60 % at least where a = 0 and rises by less than 10 % elsewhere."""
    graph = Spike()(apply(load(digits_model))[0])
    source = open_source("digits", expected=graph.inputs[0].shape)
    (x, _), (unseen, _) = (next(source.batches(source.parts[part], 80)) for part in ("train", "test"))
    plain = Percentile()(graph, lambda: [x])

    def errors(spiking: Graph) -> tuple[float, float]:
        """Σ |ō − a| / θ over neurons with a = 0 and with a > 0."""
        silent = active = 0.0
        voices = {voice.name: neuron for voice, neuron in voices_of(spiking).items()}
        activations = {node.name: value for node, value in activations_of(spiking, unseen).items()}

        def fire(node, currents):  # type: ignore[no-untyped-def]
            nonlocal silent, active
            spikes = fire_in_turn(node, currents)
            if node.name in voices:
                neuron = voices[node.name]
                wanted = activations[neuron.name]
                error = (spikes.mean(0) - wanted).abs() / neuron.op.calibrated()  # type: ignore[attr-defined]
                silent += float(error[wanted == 0].sum())
                active += float(error[wanted > 0].sum())
            return spikes

        unroll(spiking, unseen, 64, fire)
        return silent, active

    with torch.inference_mode():
        before, after = errors(plain), errors(SpikeCalibration(64, allowance)(plain, lambda: [x]))
    assert after[0] < 0.4 * before[0]
    assert after[1] < 1.1 * before[1]


def network(body: str, weights: dict[str, Tensor], inputs: str) -> Graph:
    return Spike()(apply(load(parse(body, weights, inputs=inputs)))[0])


def test_the_layer_says_what_is_left_and_negative_spikes_cost_too() -> None:
    """Threshold 1, from 2.5, current 0: spikes at 0 and 1 (mean interval ½); p = 2: back at 4 and 5."""
    graph = network("h = Relu(x) y = Gemm(h, w)", {"w": torch.tensor([[1.0, 2.0]])}, "float[N,1] x")
    graph = with_ranges(graph, {n: ONE for n in graph if isinstance(n.op, Neuron)})
    graph = graph.map(lambda n: replace(n, op=replace(n.op, initial=2.5)) if isinstance(n.op, Neuron) else n)
    mended = SpikeCalibration(allowance=2)(graph, lambda: [])
    assert [n.name for n in mended] == ["x", "h", "h.withdrawal", "y"]
    x = torch.zeros(1, 1)
    found = measure(RateModel(mended), mended, [(x, None)], (2, 6))
    assert [p.output_error > 0 for p in found.curve] == [True, False]
    (layer,) = found.layers
    assert (layer.name, layer.error, layer.spikes_per_neuron) == ("h", 0.0, 4.0)
    assert layer.spikes == "binary and withdrawn"
    assert found.metrics["synaptic_operations"]["Effective_ACs"] == 4 * 2
    (drift,) = diagnose(RateModel(mended), graph, [x], 6).layers
    assert (drift.name, drift.error) == ("h", 0.0)
    without = measure(RateModel(graph), graph, [(x, None)], (6,))
    assert without.layers[0].error > 0
    assert without.metrics["synaptic_operations"]["Effective_ACs"] == 2 * 2


BODY = "c = Conv(x, w) r = Relu(c) d = Conv(r, w1) q = LeakyRelu(d) f = Flatten(q) y = Gemm(f, w2)"
WEIGHTS = {"w": weight(4, 3, 3, 3), "w1": weight(4, 4, 3, 3, seed=1), "w2": weight(64, 3, seed=2)}


def test_a_network_with_it_answers_the_same_in_every_form_and_means_the_same() -> None:
    graph, x = network(BODY, WEIGHTS, "float[N,3,8,8] x"), weight(5, 3, 8, 8, seed=5)
    graph = Maximum()(graph, lambda: [x])
    mended = SpikeCalibration(12, 1)(graph, lambda: [x])
    assert torch.equal(mended.run(x)[0], graph.run(x)[0])
    model = RateModel(mended, plain=True)
    here = model(x, 12)
    assert isinstance(here, Tensor)
    assert not torch.equal(here, RateModel(graph)(x, 12)), "something was withdrawn"
    assert torch.equal(emitted(model)(x, timesteps=12), here)
    back = from_json(to_json(model), model.state_dict())(x, 12)
    assert isinstance(back, Tensor)
    assert torch.equal(back, RateModel(mended)(x, 12))


def test_only_neurons_that_cannot_take_back_get_it_and_only_once() -> None:
    x = weight(5, 3, 8, 8, seed=5)
    graph = Maximum()(network(BODY, WEIGHTS, "float[N,3,8,8] x"), lambda: [x])
    mended = SpikeCalibration(12)(graph, lambda: [x])
    assert [n.inputs[0].name for n in mended if isinstance(n.op, Withdrawal)] == ["r"]
    with pytest.raises(Unsupported, match="no use for spike calibration"):
        SpikeCalibration(12)(mended, lambda: [x])
    signed = graph.map(
        lambda n: replace(n, op=Signed(n.op.threshold)) if isinstance(n.op, Neuron) and n.name == "r" else n
    )
    with pytest.raises(Unsupported, match=r"Signed 'r' \(input Nx4x6x6\): takes spikes back itself"):
        SpikeCalibration(12)(signed, lambda: [x])
    bursts = graph.map(
        lambda n: replace(n, op=Burst(n.op.threshold)) if isinstance(n.op, Neuron) and n.name == "r" else n
    )
    assert "r.withdrawal" in [n.name for n in SpikeCalibration(12)(bursts, lambda: [x])]


def test_thresholds_set_later_are_the_withdrawal_s_too() -> None:
    x = weight(5, 3, 8, 8, seed=5)
    graph = Maximum()(network(BODY, WEIGHTS, "float[N,3,8,8] x"), lambda: [x])
    mended = Maximum()(SpikeCalibration(12)(graph, lambda: [x]), lambda: [2 * x])
    neuron, withdrawal = mended["r"].op, mended["r.withdrawal"].op
    assert isinstance(neuron, Neuron)
    assert isinstance(withdrawal, Withdrawal)
    assert torch.equal(withdrawal.threshold, neuron.calibrated())


def test_an_allowance_that_allows_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="the allowance is 0 steps; it lies above 0"):
        SpikeCalibration(allowance=0)
    with pytest.raises(UsageError, match="timesteps is 0"):
        SpikeCalibration(0)
