"""Early exit: a sample leaves when its answer is decided, and the others do not notice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from converter import early_exit
from converter.early_exit import answer, decided, measure
from converter.encodings.poisson import Poisson
from converter.errors import UsageError
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.signed import Signed
from converter.rate import RateModel
from tests.test_engine import images, network


def test_a_lead_is_worth_what_it_was_held_for() -> None:
    """Leads of ½ and 2: after 4 steps 2 and 8 spikes' worth."""
    readout = torch.tensor([[1.0, 0.5, 0.0], [3.0, 1.0, 0.0]])
    assert decided(readout, 4, 2.0).tolist() == [True, True]
    assert decided(readout, 4, 2.1).tolist() == [False, True]
    assert decided(readout, 4, 9.0).tolist() == [False, False]


@pytest.mark.parametrize("tiles", [1, 4])
@pytest.mark.parametrize("delay", [0, 3])
@pytest.mark.parametrize("neuron", [IntegrateFire(), Signed()], ids=lambda n: n.kind)
def test_the_answer_is_that_of_the_first_decided_step(
    neuron: IntegrateFire, delay: int, tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against whole runs, in which nobody leaves; together, or 8 samples and then 4."""
    monkeypatch.setattr(early_exit, "TILES", tiles)
    model, x, cap, margin = RateModel(network(neuron), delay=delay), images(12), 24, 3.0
    assert model.tiling(len(x)).samples == 8
    curve = model(x, cap)
    assert isinstance(curve, Tensor)
    choice, when, ran = answer(model, x, cap, margin)
    for i in range(len(x)):
        first = next(
            (t for t in range(delay + 1, cap) if decided(curve[t - 1, i : i + 1], t - delay, margin)), cap
        )
        assert (int(when[i]), int(choice[i])) == (first, int(curve[first - 1, i].argmax()))
    assert len(when.unique()) > 3
    assert bool((ran >= when).all())
    assert bool((ran < when + 4).all())


def test_nothing_is_decided_by_a_margin_beyond_reach() -> None:
    model, x = RateModel(network(IntegrateFire())), images(5)
    choice, when, _ = answer(model, x, 10, 1e9)
    curve = model(x, 10)
    assert isinstance(curve, Tensor)
    assert when.tolist() == [10] * 5
    assert torch.equal(choice, curve[-1].argmax(1))


def test_what_is_measured_are_shares_and_mean_steps() -> None:
    graph, x = network(IntegrateFire()), images(8)
    model = RateModel(graph)
    choice, when, _ = answer(model, x, 16, 3.0)
    found = measure(model, graph, [(x[:5], choice[:5]), (x[5:], choice[5:])], 16, 3.0)
    assert found.accuracy == 1.0
    assert found.mean_timesteps == pytest.approx(float(when.double().mean()))
    assert measure(model, graph, [(x, None)], 16, 3.0).accuracy is None


def test_where_samples_cannot_leave_it_is_refused() -> None:
    with pytest.raises(UsageError, match="samples cannot leave the batch"):
        answer(RateModel(network(IntegrateFire()), Poisson(2.0)), images(2), 4, 1.0)
