"""The rows of a grid, read: a line for each method and kind of spikes, means over calibration seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.methods import EVERY, METHODS

Row = dict[str, Any]
Times = dict[int, list[Row]]
"""T -> the rows of all seeds."""


def answer(row: Row) -> float:
    """Accuracy, or agreement with the ANN where the data have no labels: a share."""
    value: float = row["agreement"] if row["accuracy"] is None else row["accuracy"]
    return value


def by_line(rows: Iterable[Row]) -> dict[tuple[str, str], Times]:
    """(spikes, method) -> its rows, T ascending; in the order of the table of methods, the unknown last."""
    rank = {(s, m.name): (EVERY.index(s), i) for i, m in enumerate(METHODS) for s in m.spikes}
    last = len(EVERY), 0
    found: dict[tuple[str, str], Times] = {}
    for row in sorted(rows, key=lambda r: (rank.get((r["spikes"], r["method"]), last), r["timesteps"])):
        found.setdefault((row["spikes"], row["method"]), {}).setdefault(row["timesteps"], []).append(row)
    return found


def mean(values: Sequence[float]) -> float:
    """Their arithmetic mean."""
    return sum(values) / len(values)
