"""Quality gates: what the last point of a measurement must reach for the command to exit with 0.

--max-drop POINTS       accuracy, mAP50 or mIoU (no labels: agreement) may fall so far below the ANN's
--gate output-error=X   the error of the output that is furthest off is X at most; so for `divergence`
--gate mAP50=X          a figure of the task is X at least
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from converter.config import gate_of
from converter.errors import GateError, UsageError
from converter.registry import did_you_mean
from converter.report import Output, Point, Task


class Measured(Protocol):
    """What gates look at: a report, or a measurement."""

    @property
    def ann_accuracy(self) -> float | None: ...
    @property
    def curve(self) -> Sequence[Point]: ...
    @property
    def outputs(self) -> Sequence[Output]: ...


def hold(measured: Measured, task: Task | None, max_drop: float | None, gates: Sequence[str]) -> None:
    """Raise `GateError` for what the last point misses; `UsageError` for a gate there is not."""
    last = measured.curve[-1]
    missed, allowed = [], []
    if max_drop is not None:
        what, drop = dropped(measured, task)
        if not drop <= max_drop:
            missed.append(f"the {what} is {drop:.2f} points below the ANN's")
            allowed.append(f"--max-drop allows {max_drop:g}")
    most = {"output-error": max(o.curve[-1].error for o in measured.outputs)}
    if last.divergence is not None:
        most["divergence"] = last.divergence
    least = task.curve[-1].figures if task and task.curve else {}
    for name, value in map(gate_of, gates):
        if name not in most and name not in least:
            raise UsageError(f"there is no gate {name!r} here", hint=did_you_mean(name, (*most, *least)))
        found = most.get(name, least.get(name, 0.0))
        if not (found <= value if name in most else found >= value):
            missed.append(f"the {name} is {found:.4g}")
            allowed.append(f"--gate allows {value:g} at {'most' if name in most else 'least'}")
    if missed:
        steps = f"{last.timesteps} step{'s' * (last.timesteps > 1)}"
        raise GateError(
            f"after {steps} {' and '.join(missed)}",
            why="; ".join([*allowed, "the artefact and its report were written"]),
            hint="more steps (-T), another calibrator; ann2snn diagnose names the layer where it begins",
        )


def dropped(measured: Measured, task: Task | None) -> tuple[str, float]:
    """What the network is judged by, and how many points it is below the ANN at the last point."""
    last: Any = measured.curve[-1]
    if task and task.ann and task.curve:
        (name, ann), figures = next(iter(task.ann.items())), task.curve[-1].figures
        return name, 100 * (ann - figures[name])
    if measured.ann_accuracy is None or last.accuracy is None:
        if last.agreement is None:
            raise UsageError(
                "--max-drop has nothing to go by: outputs are no scores of classes, and there are no labels",
                hint="--task with --labels, or --gate output-error=X",
            )
        return "agreement", 100 * (1 - last.agreement)
    return "accuracy", 100 * (measured.ann_accuracy - last.accuracy)
