"""Diagnosis on networks whose fault is known because the test put it there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from calibrators.maximum import Maximum
from converter.diagnose import Diagnosis, Drift, diagnose
from converter.errors import DataError, ModelError, UsageError
from converter.graph import Graph
from converter.importer import load
from converter.neurons import Neuron
from converter.neurons.burst import Burst
from converter.neurons.integrate_fire import IntegrateFire
from converter.passes import apply
from converter.passes.spike import Spike
from converter.rate import RateModel
from tests.models import parse, weight

X = torch.rand(16, 8, generator=torch.Generator().manual_seed(1))


def network() -> Graph:
    """Three layers of 16 neurons, named first, second and third, and a linear head."""
    model = parse(
        "a = Gemm(x, w0) b = Relu(a) c = Gemm(b, w1) d = Relu(c) e = Gemm(d, w2) f = Relu(e) y = Gemm(f, w3)",
        {
            "w0": weight(8, 16),
            "w1": weight(16, 16, seed=1),
            "w2": weight(16, 16, seed=2),
            "w3": weight(16, 4),
        },
        inputs="float[N,8] x",
    )
    for node in model.graph.node:
        node.name = {"b": "first", "d": "second", "f": "third"}.get(node.output[0], node.output[0])
    return apply(load(model))[0]


def converted(ann: Graph, neuron: Neuron | None = None, **factors: float) -> RateModel:
    """The network with thresholds at the layer's largest activation, times the factor given for the layer."""
    graph = Maximum(per_channel=False)(Spike(neuron or IntegrateFire())(ann), lambda: [X])

    def wrong(node):  # type: ignore[no-untyped-def]
        factor = factors.get(node.name)
        return replace(node, op=replace(node.op, threshold=factor * node.op.threshold)) if factor else node

    return RateModel(graph.map(wrong))


def diagnosed(timesteps: int = 256, tolerance: float = 0.1, **factors: float) -> Diagnosis:
    ann = network()
    return diagnose(converted(ann, **factors), ann, [X], timesteps, tolerance)


def named(found: Diagnosis) -> Drift:
    return next(layer for layer in found.layers if layer.name == found.first)


def test_a_sound_network_with_enough_steps_drifts_nowhere() -> None:
    found = diagnosed()
    assert found.first is None
    assert [layer.name for layer in found.layers] == ["first", "second", "third"]
    assert all(layer.error < 0.05 and not layer.cause for layer in found.layers)
    assert found.samples == 16


def test_numbers_by_hand() -> None:
    """Activation 0.5, threshold 0.4: it fires at every step, so the mean is 0.4 and 20 % are missing."""
    ann = apply(load(parse("a = Gemm(x, w) y = Relu(a)", {"w": torch.ones(1, 1)}, inputs="float[N,1] x")))[0]
    spiking = Spike()(ann).map(
        lambda n: (
            replace(n, op=replace(n.op, threshold=torch.tensor(0.4))) if n.op.kind == "IntegrateFire" else n
        )
    )
    (layer,) = diagnose(RateModel(spiking), ann, [torch.full((1, 1), 0.5)], 8).layers
    assert layer.error == pytest.approx(0.2)
    assert layer.error_half == pytest.approx(0.2)
    assert layer.clipping == pytest.approx(0.2)
    assert layer.steps == pytest.approx(0, abs=1e-6)
    assert layer.inherited == 0
    assert layer.peak == pytest.approx(1.25)
    assert (layer.clipped, layer.silent) == (1, 0)


@pytest.mark.parametrize("layer", ["first", "second", "third"])
def test_a_threshold_at_a_third_is_too_low(layer: str) -> None:
    found = diagnosed(**{layer: 0.3})
    assert found.first == layer
    assert named(found).cause.startswith("threshold too low")
    assert "--calibrator maximum" in named(found).advice
    assert named(found).peak == pytest.approx(1 / 0.3, rel=0.05)
    assert named(found).clipping > 5 * named(found).steps


def test_a_burst_says_what_lies_above_its_threshold() -> None:
    """Thresholds at a third of the largest activation are sound where three spikes fit into a step."""
    thirds = {"first": 0.34, "second": 0.34, "third": 0.34}
    ann = network()
    bursts = diagnose(converted(ann, Burst(burst=3), **thirds), ann, [X], 256)
    assert bursts.first is None
    assert all(layer.clipped == 0 and layer.clipping == 0 for layer in bursts.layers)
    assert diagnose(converted(ann, **thirds), ann, [X], 256).first == "first"


@pytest.mark.parametrize("layer", ["first", "second", "third"])
def test_a_threshold_of_twenty_times_is_too_high(layer: str) -> None:
    found = diagnosed(timesteps=64, **{layer: 20.0})
    assert found.first == layer
    assert named(found).cause.startswith("threshold too high: its largest activation is 5 % of it")
    assert named(found).silent > 0.1
    assert named(found).clipped == 0


def test_two_steps_are_not_enough() -> None:
    found = diagnosed(timesteps=2)
    assert found.first == "first"
    assert named(found).cause.startswith("not enough steps: the error falls from")
    assert named(found).advice == "run it for 4 steps or more"


def test_later_layers_inherit_what_an_earlier_one_did() -> None:
    found = diagnosed(first=0.3)
    assert [layer.cause for layer in found.layers[1:]] == ["inherited from 'first'"] * 2


def test_small_errors_that_add_up_are_said_to_be_inherited() -> None:
    """With the tolerance between the errors of the second and third layer, none before the third drifted."""
    second, third = (layer.error for layer in diagnosed(timesteps=32, first=0.8).layers[1:])
    assert second < third
    found = diagnosed(timesteps=32, tolerance=(second + third) / 2, first=0.8)
    assert (found.first, named(found).cause.partition(":")[0]) == ("third", "inherited")


def test_a_hard_reset_loses_charge_that_no_number_of_steps_brings_back() -> None:
    ann = network()
    found = diagnose(converted(ann, IntegrateFire(reset="hard")), ann, [X], 256)
    assert found.first == "first"
    assert named(found).cause.startswith("more steps do not help")
    assert "--reset soft" in named(found).advice


def test_batches_are_samples_not_more() -> None:
    ann = network()
    whole, parts = (diagnose(converted(ann), ann, x, 16) for x in ([X], X.split(5)))
    assert whole.samples == parts.samples
    for a, b in zip(whole.layers, parts.layers, strict=True):
        assert a.error == pytest.approx(b.error)
        assert a.inherited == pytest.approx(b.inherited)


def test_another_network_is_refused_and_so_is_nothing_to_compare() -> None:
    ann = network()
    model = converted(ann)
    other = ann.map(lambda n: replace(n, name="other") if n.name == "second" else n)
    with pytest.raises(ModelError, match="no node 'second'"):
        diagnose(model, other, [X], 8)
    with pytest.raises(UsageError, match="at least 2"):
        diagnose(model, ann, [X], 1)
    with pytest.raises(DataError, match="no samples"):
        diagnose(model, ann, [], 8)
