"""Spikes of two programs, step by step from the same states: what counts when rounding moves one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from converter.errors import ArtefactError
from converter.exporters import pt2
from converter.exporters._check import Check
from converter.exporters._compare import compare_steps, layers_ahead
from converter.exporters._onnx_step import Step
from converter.graph import BATCH, Graph, Input, Node
from converter.neurons.integrate_fire import IntegrateFire
from converter.ops import Linear
from converter.rate import RateModel

STEPS, WIDE = 8, 4
Spikes = list[Tensor]


def two_layers() -> RateModel:
    """x → eye → first → eye → second: four neurons each, thresholds 1."""
    node = x = Node(Input(), (), "x", (BATCH, WIDE))
    for name in ("first", "second"):
        node = Node(Linear(torch.eye(WIDE)), (node,), f"{name}.sum", (BATCH, WIDE))
        node = Node(IntegrateFire(threshold=torch.ones(1)), (node,), name, (BATCH, WIDE))
    return RateModel(Graph((x,), (node,)))


def compared(wrong: Callable[[int, Spikes], None]) -> Check:
    """The model beside itself, `wrong(step, [spikes of first, of second, answer])` having changed it."""
    model = two_layers()
    program, names, step = pt2.Program(model), [held.name for held in Step.of(model).all], 0

    def told(frame: tuple[Tensor, ...], states: dict[str, Tensor]) -> tuple[Spikes, Spikes]:
        nonlocal step
        answers, spikes, _ = program(frame, tuple(states[name] for name in names))
        said = [*(s.clone() for s in spikes), answers[0].clone()]
        wrong(step, said)
        step += 1
        return said[2:], said[:2]

    return compare_steps("there", told, model, (torch.tensor([[0.5, 0.75, 0.25, 1.0]]),), STEPS)


def test_what_is_the_same_is_compared_whole() -> None:
    check = compared(lambda step, said: None)
    assert (check.spikes, check.differing, check.difference) == (STEPS * 2 * WIDE, 0, 0.0)
    assert check.passed() is check


def test_a_moved_spike_counts_once_and_what_hears_of_it_in_this_step_not() -> None:
    def once(step: int, said: Spikes) -> None:
        if step == 2:
            said[0][0, 1] += 1
            said[1] += 1
            said[2] += 1

    check = compared(once)
    assert (check.spikes, check.differing, check.difference) == (STEPS * 2 * WIDE - WIDE, 1, 0.0)
    assert check.passed() is check


def test_a_wrong_late_layer_is_found() -> None:
    check = compared(lambda step, said: said[1].add_(1))
    assert (check.spikes, check.differing) == (STEPS * 2 * WIDE, STEPS * WIDE)
    with pytest.raises(ArtefactError):
        check.passed()


@pytest.mark.parametrize(("wrong_in", "counted"), [(4, 4), (5, 5 * (1 + WIDE))])
def test_what_is_wrong_in_most_steps_hides_nothing(wrong_in: int, counted: int) -> None:
    def often(step: int, said: Spikes) -> None:
        if step < wrong_in:
            said[0][0, 1] += 1
            said[1] += 1

    check = compared(often)
    assert check.differing == counted
    assert (check.difference == float("inf")) == (counted > wrong_in)
    with pytest.raises(ArtefactError):
        check.passed()


def test_a_wrong_answer_is_found() -> None:
    check = compared(lambda step, said: said[2].add_(1))
    assert check.differing == 0
    assert check.difference > 0.5
    with pytest.raises(ArtefactError):
        check.passed()


def test_a_layer_is_behind_those_it_hears_of_within_a_step() -> None:
    model = two_layers()
    first, second = model.neurons
    assert layers_ahead(model.graph, model.neurons) == {first: frozenset(), second: frozenset({first})}
