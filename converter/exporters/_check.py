"""What an exporter is asked for, and how it says that its file is the network in memory.

Two right implementations may round a sum of currents differently, and a membrane within a rounding error of
its threshold then fires a step earlier or later. So a few spikes may differ, and an answer by what they say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from converter.errors import ArtefactError

SPIKES = 1e-4
"""The share of spikes that may differ."""
ROUNDING = 1e-4
"""How far answers may be apart where no spike differs, relative to the largest."""
SAME = " (each step from the same states)"
ANSWER = 0.02
"""How far where spikes may differ and cannot be seen."""


@dataclass(frozen=True)
class Order:
    """What is asked of an exporter beside the network."""

    timesteps: int
    opset: int | None = None
    allow: tuple[str, ...] = ()
    """What a form says less exactly and the user accepts, by name."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """The content of report.json, for the notes in the file; may be empty."""
    name: str = ""
    """What the target is called, for names inside it."""
    runtime: Path | None = None
    """Where onnxruntime-web is, npm's archive or a folder, for a page."""


@dataclass(frozen=True)
class Check:
    """What was compared, on how many samples and steps; `where` names the program that ran the file."""

    where: str
    samples: int
    timesteps: int
    difference: float
    """The largest of an answer, relative to the largest magnitude."""
    spikes: int = 0
    """How many values were compared spike by spike; 0 where spikes cannot be seen."""
    differing: int = 0
    how: str = ""
    """How spikes were compared, if not over a whole run."""
    exact: bool = False
    """Whole numbers: not one spike may differ."""

    @property
    def words(self) -> str:
        """The comparison in a sentence."""
        steps = f"{self.timesteps} step{'s' * (self.timesteps > 1)}"
        said = f"verified in {self.where} on {self.samples} sample{'s' * (self.samples > 1)} over {steps}: "
        if self.spikes:
            said += f"{self.differing:,} of {self.spikes:,} spikes differ{self.how}, "
        return said + f"the largest difference of an answer is {self.difference:.1e} of its magnitude"

    def passed(self) -> Check:
        """This check. Raises `ArtefactError` when the two are not the same network."""
        allowed = 0.0 if self.exact else ROUNDING if self.spikes and not self.differing else ANSWER
        spikes = 0 if self.exact else max(SPIKES * self.spikes, 1)
        if self.differing <= spikes and self.difference <= allowed:
            return self
        raise ArtefactError(
            "the exported network is not the one it was made from",
            why=self.words,
            hint="nothing was written; this is a bug in ann2snn, or in the program that ran it",
        )


def apart(mine: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest magnitude; infinite where there is a NaN."""
    if mine.shape != other.shape:
        return float("inf")
    difference = float((mine - other).abs().max() / mine.abs().max().clamp_min(1e-12))
    return difference if difference == difference else float("inf")
