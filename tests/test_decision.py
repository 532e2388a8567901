"""Early decision: the first output to lead by enough answers; at the end every answer is the whole one's."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from calibrators import with_ranges
from calibrators.least_squares import LeastSquares
from converter.data import open_source
from converter.decision import MARGINS, Leads, decisions, falling_lead, readouts
from converter.first_spike import FirstSpikeModel
from converter.importer import load
from converter.neurons.first_spike import FirstSpike
from converter.passes import apply, pipeline_for
from converter.passes.spike import Spike
from tests.conftest import ROOT
from tests.models import parse

DIGITS = ROOT / "converter" / "models" / "digits.onnx"


def two_neurons(window_scale: float = 4.0) -> FirstSpikeModel:
    """Two neurons of scale 4, each the class of its own; the second weighs half."""
    code = FirstSpike(form="linear")
    weights = {"w": torch.tensor([[1.0, 0.0], [0.0, 0.5]]), "b": torch.tensor([0.0, 0.5])}
    body = "h = Relu(x) y = Gemm(h, w, b)"
    graph, _ = apply(load(parse(body, weights, inputs="float[N,2] x")), pipeline_for(code))
    spiking = Spike(code)(graph)
    return FirstSpikeModel(with_ranges(spiking, {spiking["h"]: torch.tensor(window_scale)}))


def test_an_early_answer_by_hand() -> None:
    """T = 4: the first neuron says 2 at step 2, the second 4 at step 0; the outputs are 2 and ½ + 2.

    After steps 0 … 3 they stand at (0, 2½), (0, 2½), (2, 2½), (2, 2½): leads 2½, 2½, ½, ½ of the second.
    """
    model, x = two_neurons(), torch.tensor([[2.0, 4.0]])
    assert [r.tolist() for r in readouts(model, x, 4)] == [[[0, 2.5]], [[0, 2.5]], [[2, 2.5]], [[2, 2.5]]]
    leads = Leads.of(model, x, 4)
    assert leads.lead[:, 0].tolist() == [2.5, 2.5, 0.5, 0.5]
    assert falling_lead(model, 4, 4.0).tolist() == [3.0, 2.0, 1.0, 0.0]
    step, answer = leads.decided(falling_lead(model, 4, 4.0))
    assert (step.tolist(), answer.tolist()) == ([1], [1]), "2½ is not the 3 asked for first, but the 2 then"
    step, _ = leads.decided(falling_lead(model, 4, 40.0))
    assert step.tolist() == [3], "at the end any lead is enough"


def trained() -> tuple[FirstSpikeModel, Tensor, Tensor]:
    """The embedded network on its first digits, and their labels."""
    code = FirstSpike()
    ann = load(DIGITS)
    data = open_source("digits", expected=ann.inputs[0].shape)
    graph, _ = apply(ann, pipeline_for(code))
    held, _ = next(data.batches(data.parts["train"][:60], 60))
    x, labels = next(data.batches(data.parts["test"][:100], 100))
    assert labels is not None
    return FirstSpikeModel(LeastSquares(16)(Spike(code)(graph), lambda: [held])), x, labels


def test_a_larger_margin_waits_longer_and_the_end_is_the_whole_answer() -> None:
    model, x, labels = trained()
    *_, last = readouts(model, x, 16)
    answer = model(x, 16)
    assert isinstance(answer, Tensor)
    assert torch.allclose(last, answer, rtol=0, atol=1e-5)
    found = decisions(model, [x[:50]], [(x[50:], labels[50:])], 16)
    assert [row.margin for row in found] == list(MARGINS)
    assert all(a.steps <= b.steps for a, b in pairwise(found))
    (chosen,) = (row for row in found if row.chosen)
    assert chosen.agreement >= 0.98
    assert chosen.steps < 16
    full = float((answer[50:].argmax(1) == labels[50:]).double().mean())
    assert found[-1].accuracy == pytest.approx(full)
    assert (chosen.samples, chosen.latency) == (50, pytest.approx(model.latency(15 + 1) - 16 + chosen.steps))


def test_without_labels_only_agreement_and_without_steps_nothing() -> None:
    model, x, _ = trained()
    found = decisions(model, [x[:20]], [(x[20:40], None)], 8)
    assert {row.accuracy for row in found} == {None}
    code = FirstSpike(form="linear", continuous=True)
    graph, _ = apply(load(DIGITS), pipeline_for(code))
    exact = FirstSpikeModel(LeastSquares(1)(Spike(code)(graph), lambda: [x]))
    assert decisions(exact, [x], [(x, None)], 1) == ()
