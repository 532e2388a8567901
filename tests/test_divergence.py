"""The divergence of answers: by hand, the properties of a divergence, and torch's own as the judge."""

from __future__ import annotations

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from converter.divergence import divergence, is_distribution, names_classes, squared_error


def test_scores_by_hand() -> None:
    """Scores ln 3 and 0 are ¾ and ¼, equal scores ½ and ½: ¾ ln(¾ / ½) + ¼ ln(¼ / ½) = 0.1308 nats."""
    target, readout = torch.tensor([[log(3.0), 0.0]]), torch.tensor([[5.0, 5.0]])
    expected = 0.75 * log(1.5) + 0.25 * log(0.5)
    assert divergence(readout, target).tolist() == [pytest.approx(expected, rel=1e-6)]
    assert expected == pytest.approx(0.1308, abs=5e-5)


def test_a_distribution_is_taken_as_it_is() -> None:
    target, readout = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]])
    assert is_distribution(target)
    assert float(divergence(readout, target)) == pytest.approx(0.75 * log(1.5) + 0.25 * log(0.5))
    assert float(divergence(readout, 2 * target)) != pytest.approx(0.75 * log(1.5) + 0.25 * log(0.5))


def test_a_probability_of_zero_stays_finite() -> None:
    """ln 10¹² = 27.6 nats for a class that the ANN is sure of and the spiking network excludes."""
    sure, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert float(divergence(other, sure)) == pytest.approx(27.631, abs=1e-3)
    assert float(divergence(sure, sure)) == 0.0
    assert float(divergence(torch.tensor([[-1e30, 0.0]]), torch.tensor([[1e30, 0.0]]))) == pytest.approx(1e30)


def test_dense_answers_are_averaged_over_their_positions() -> None:
    target = torch.tensor([[[log(3.0), 0.0], [0.0, 0.0]]])  # two classes at two places
    readout = torch.zeros(1, 2, 2)
    assert float(divergence(readout, target)) == pytest.approx((0.75 * log(1.5) + 0.25 * log(0.5)) / 2)


def test_values_that_are_no_classes_are_judged_by_their_squares() -> None:
    """Boxes (3, 4) said as (3, 0): 16 of 25; a score of 2 said as 1: 1 of 4; of both the mean."""
    boxes, score = torch.tensor([[3.0, 4.0]]), torch.tensor([[[2.0]]])
    said = torch.tensor([[3.0, 0.0]]), torch.tensor([[[1.0]]])
    assert squared_error(said, (boxes, score)).tolist() == [pytest.approx((0.64 + 0.25) / 2)]
    assert squared_error((boxes, score), (boxes, score)).tolist() == [0.0]


def test_one_output_of_scores_names_classes_and_a_map_or_several_outputs_do_not() -> None:
    scores, heat = torch.tensor([[2.0, -1.0]]), torch.ones(1, 2, 3, 3)
    assert names_classes([scores])
    assert names_classes([heat / 2])  # shares of one at each place: which class a pixel is of
    assert not names_classes([heat])
    assert not names_classes([scores, scores])


@given(st.integers(0, 10_000), st.integers(2, 6), st.floats(0.1, 30))
def test_it_is_not_negative_ignores_an_offset_and_is_torch_s_own(
    seed: int, classes: int, scale: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    target, readout = (torch.randn((3, classes), generator=random).double() * scale for _ in range(2))
    found = divergence(readout, target)
    assert bool((found >= 0).all())
    assert torch.allclose(divergence(readout + 7, target - 3), found, rtol=1e-6, atol=1e-9)
    logs = readout.log_softmax(1), target.log_softmax(1)
    judged = torch.nn.functional.kl_div(*logs, reduction="none", log_target=True).sum(1)
    assert torch.allclose(found, judged, rtol=1e-9, atol=1e-12)


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_probabilities_diverge_as_the_scores_they_come_from(seed: int, classes: int) -> None:
    random = torch.Generator().manual_seed(seed)
    target, readout = (torch.randn((3, classes), generator=random).double() for _ in range(2))
    found = divergence(readout.softmax(1), target.softmax(1))
    assert torch.allclose(found, divergence(readout, target), rtol=1e-6, atol=1e-9)
