"""How far each output of the spiking network is from the ANN's, after every number of steps that is read out.

error        |SNN − ANN| / |ANN|, Euclidean over the output, averaged over samples
difference   mean |SNN − ANN|, in the output's own unit (of logits: the logit error)
correlation  Pearson's, over all values of all samples
divergence   of values that are all probabilities, 0 to 1: mean KL(Bernoulli(ANN) ‖ Bernoulli(SNN)), in nats
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from converter.divergence import SMALLEST
from converter.report import Output, OutputPoint


@dataclass
class Sums:
    """Running sums over one output at one time, in double precision."""

    samples: int = 0
    values: int = 0
    error: float = 0.0
    difference: float = 0.0
    divergence: float = 0.0
    moments: list[float] = field(default_factory=lambda: [0.0] * 5)
    """Σa, Σb, Σa², Σb², Σab of the ANN's values a and the spiking network's b, less the first a."""
    origin: float | None = None
    probabilities: bool = True

    def add(self, said: Tensor, target: Tensor) -> None:
        """One batch of an output."""
        ann, snn = (t.reshape(len(t), -1).double() for t in (target, said))
        self.samples += len(ann)
        self.values += ann.numel()
        apart = (snn - ann).abs()
        length = ann.square().sum(1).sqrt().clamp_min(1e-12)
        self.error += float((apart.square().sum(1).sqrt() / length).sum())
        self.difference += float(apart.sum())
        if self.origin is None:
            self.origin = float(ann.flatten()[0]) if ann.numel() else 0.0
        a, b = ann - self.origin, snn - self.origin
        now = (a.sum(), b.sum(), a.square().sum(), b.square().sum(), (a * b).sum())
        self.moments = [old + float(new) for old, new in zip(self.moments, now, strict=True)]
        self.probabilities &= bool(((ann >= 0) & (ann <= 1) & (snn >= 0) & (snn <= 1)).all())
        if self.probabilities:
            self.divergence += float(sum(_shares(p, q).sum() for p, q in ((ann, snn), (1 - ann, 1 - snn))))

    def absorb(self, other: Sums) -> None:
        """Add the sums of other samples."""
        if other.origin is None:
            return
        if self.origin is None:
            self.origin = other.origin
        apart, count = other.origin - self.origin, other.values
        a, b, aa, bb, ab = other.moments
        moved = (
            *(total + count * apart for total in (a, b)),
            *(square + 2 * apart * total + count * apart**2 for square, total in ((aa, a), (bb, b))),
            ab + apart * (a + b) + count * apart**2,
        )
        self.moments = [old + new for old, new in zip(self.moments, moved, strict=True)]
        self.samples += other.samples
        self.values += count
        self.error += other.error
        self.difference += other.difference
        self.divergence += other.divergence
        self.probabilities &= other.probabilities

    def correlation(self) -> float | None:
        """Pearson's; None where one of the two is the same everywhere."""
        a, b, aa, bb, ab = (moment / max(self.values, 1) for moment in self.moments)
        spread = (max(aa - a * a, 0.0) * max(bb - b * b, 0.0)) ** 0.5
        return max(-1.0, min(1.0, (ab - a * b) / spread)) if spread > 1e-12 * (aa * bb) ** 0.5 else None

    def point(self, timesteps: int) -> OutputPoint:
        """The sums as a point of the curve."""
        return OutputPoint(
            timesteps=timesteps,
            error=self.error / max(self.samples, 1),
            difference=self.difference / max(self.values, 1),
            correlation=self.correlation(),
            divergence=self.divergence / max(self.values, 1) if self.probabilities else None,
        )


def _shares(ann: Tensor, snn: Tensor) -> Tensor:
    return ann * (ann.clamp_min(SMALLEST).log() - snn.clamp_min(SMALLEST).log())


class Fidelity:
    """Holds every output at each of `timesteps` against the ANN's, batch by batch."""

    def __init__(self, timesteps: Sequence[int], outputs: int) -> None:
        self.sums = {t: [Sums() for _ in range(outputs)] for t in timesteps}

    def add(self, time: int, said: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        """The outputs of one batch after `time` steps, and the ANN's."""
        for sums, one, other in zip(self.sums[time], said, target, strict=True):
            sums.add(one, other)

    def absorb(self, other: Fidelity) -> None:
        """Add what was seen of other samples at the same times."""
        for time, each in self.sums.items():
            for sums, more in zip(each, other.sums[time], strict=True):
                sums.absorb(more)

    def outputs(self, names: Sequence[str], shapes: Sequence[str]) -> tuple[Output, ...]:
        """What was seen of each output, by its name and the shape of a sample."""
        curves = zip(*[[s.point(t) for s in each] for t, each in self.sums.items()], strict=True)
        return tuple(
            Output(name, shape, tuple(curve))
            for name, shape, curve in zip(names, shapes, curves, strict=True)
        )


__all__ = ["Fidelity"]
