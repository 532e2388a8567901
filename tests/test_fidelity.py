"""Fidelity: every output against the ANN's, by hand; gates on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from converter.errors import GateError, UsageError
from converter.fidelity import Fidelity
from converter.gates import hold
from converter.report import Output, OutputPoint, Point, Task, TaskPoint


def seen(*batches: tuple[torch.Tensor, torch.Tensor]) -> OutputPoint:
    """The point of one output at T = 1, of (SNN, ANN) batches."""
    fidelity = Fidelity([1], 1)
    for snn, ann in batches:
        fidelity.add(1, [snn], [ann])
    ((point,),) = [output.curve for output in fidelity.outputs(["out"], ["2"])]
    return point


def test_an_output_by_hand() -> None:
    ann = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    point = seen((ann + torch.tensor([[1.0, 0.0], [0.0, 2.0]]), ann))
    assert point.error == pytest.approx((1 / 5 + 2 / 5) / 2)
    assert point.difference == pytest.approx(3 / 4)
    assert point.divergence is None  # no probabilities
    expected = np.corrcoef([3, 4, 0, 5], [4, 4, 0, 7])[0, 1]
    assert point.correlation == pytest.approx(expected)


def test_batches_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    ann, snn = (torch.rand(6, 3, generator=generator) for _ in range(2))
    whole, parts = seen((snn, ann)), seen((snn[:1], ann[:1]), (snn[1:], ann[1:]))
    for key in ("error", "difference", "correlation", "divergence"):
        assert getattr(whole, key) == pytest.approx(getattr(parts, key), rel=1e-12)


def test_probabilities_diverge_each_on_its_own() -> None:
    point = seen((torch.tensor([[0.25]]), torch.tensor([[0.5]])))
    assert point.divergence == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75))


def test_an_output_that_is_the_same_everywhere_has_no_correlation() -> None:
    assert seen((torch.tensor([[1.0, 2.0]]), torch.tensor([[7.0, 7.0]]))).correlation is None


@dataclass(frozen=True)
class Run:
    """What gates look at: after 8 steps a figure of 0.3, the ANN's being 0.35, and two outputs."""

    ann_accuracy: float | None = None
    curve: tuple[Point, ...] = (Point(8, None, 0.9, 0.01, 0.002, 1.0),)
    outputs: tuple[Output, ...] = tuple(
        Output(str(e), "1", (OutputPoint(8, e, e, 1.0, None),)) for e in (0.01, 0.03)
    )


TASK = Task("detect", "yunet", {}, "l.json", "", {"mAP50": 0.35}, {}, (TaskPoint(8, {"mAP50": 0.3}, {}),))


@pytest.mark.parametrize(
    ("max_drop", "gates", "told"),
    [
        (None, ["output-error=0.02"], "the output-error is 0.03"),  # the worst of the outputs
        (None, ["output-error=0.03", "mAP50=0.3", "divergence=0.01"], None),
        (None, ["mAP50=0.31"], "the mAP50 is 0.3"),
        (4.9, [], "the mAP50 is 5.00 points below the ANN's"),
        (5.1, [], None),
        (1, ["divergence=0.001"], "points below the ANN's and the divergence is 0.002"),
    ],
)
def test_gates(max_drop: float | None, gates: list[str], told: str | None) -> None:
    if told is None:
        hold(Run(), TASK, max_drop, gates)
        return
    with pytest.raises(GateError, match=told) as error:
        hold(Run(), TASK, max_drop, gates)
    assert error.value.exit_code == 3


def test_a_figure_that_is_not_measured_is_no_gate() -> None:
    with pytest.raises(UsageError, match="there is no gate 'mIoU' here"):
        hold(Run(), TASK, None, ["mIoU=0.5"])


def test_without_labels_and_classes_there_is_nothing_to_drop_from() -> None:
    run = Run(curve=(Point(8, None, None, 0.01, None, 1.0),))
    hold(run, None, None, ["output-error=0.03"])
    with pytest.raises(UsageError, match="nothing to go by"):
        hold(run, None, 5, [])
    with pytest.raises(UsageError, match="there is no gate 'divergence' here"):
        hold(run, None, None, ["divergence=1"])


def test_without_labels_agreement_is_what_may_drop() -> None:
    with pytest.raises(GateError, match=r"the agreement is 10\.00 points below"):
        hold(Run(), None, 5, [])
