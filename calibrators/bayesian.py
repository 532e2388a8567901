"""Bayesian search: thresholds and first membrane for which the answer is nearest to the ANN's after T steps.

The few knobs of `_blocks` start at the least-squares point. A Gaussian process (Matérn 5/2) of the logarithm
of

    KL(ANN ‖ SNN after T steps) + weight · spikes per neuron

on held-out samples says where to look next (largest expected improvement; scikit-optimize). Scores far apart
are tempered first (`_blocks`); of a network that names no class the squared error of all outputs stands
for KL (`converter.divergence`). One half of the samples gives the statistics, the other is the objective.
What is best of all that was tried is taken, and that is the start itself when nothing was better. MSAT
(Brain-Cog) searches one percentile for a network so; more knobs and a start that is good already are ours.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path

import torch
from torch import Tensor

from calibrators import calibrators
from calibrators._blocks import DELAY, Knob, answers, every_second, knobs, turned, warm
from calibrators._trials import read, write
from calibrators.least_squares import LeastSquares
from converter.divergence import names_classes
from converter.errors import DataError, UsageError
from converter.graph import Graph
from converter.neurons import Neuron
from converter.observe import Batches
from converter.report import Trial, best
from converter.schedules import check

Values = Mapping[str, float]
Objective = Callable[[Values], Trial]
SMALLEST = 1e-12
"""What an objective counts at least, below its logarithm."""


@calibrators.register
@dataclass(frozen=True)
class Bayesian:
    """`timesteps` and `schedule` of the run it is meant for; `trials` in all.

    `groups`: blocks of layers with a knob each. `spike_weight`: nats that a spike per neuron costs. `search`:
    the file that keeps the trials, from which a search goes on. `jobs` trials at a time, on whatever
    `joblib.parallel_config` says. `delays`: of the read-out, in steps of a stream. A run can be read out with
    each of them, so this knob costs no trial: each stands with the one it was best with, the first with the
    first.
    """

    timesteps: int = 32
    per_channel: bool = True
    trials: int = 40
    groups: int = 4
    spike_weight: float = 0.0
    jobs: int = 1
    search: str | None = None
    schedule: str = "stream"
    delays: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        """Raise `UsageError` for a search that cannot be."""
        for name in ("timesteps", "trials", "groups", "jobs"):
            if (value := getattr(self, name)) < 1:
                raise UsageError(f"{name} is {value}; it is at least 1")
        if self.spike_weight < 0:
            raise UsageError(f"spike_weight is {self.spike_weight}; it is at least 0")
        if not self.delays:
            raise UsageError("a search needs a delay of the read-out, at least 0")
        for delay in self.delays:
            check(self.schedule, delay, (self.timesteps,))

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """`graph` with the best thresholds and first membrane that were found; see `searched`."""
        return self.searched(graph, batches, ann)[0]

    def searched(
        self,
        graph: Graph,
        batches: Batches,
        ann: Graph | None = None,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> tuple[Graph, tuple[Trial, ...]]:
        """The graph and all trials, the first of them the start. `progress(done, of)` counts them.

        Raises `DataError` for fewer than two samples, `Unsupported` where the batch does not stand first, and
        what `_trials.read` raises of the file.
        """
        start = LeastSquares(self.timesteps, self.per_channel)(graph, every_second(batches, 0), ann)
        held_out = list(every_second(batches, 1)())
        if not held_out:
            raise DataError("a search needs two samples or more, there is 1")
        with torch.inference_mode():
            each = [(ann or graph).run(some) for some in held_out]
            target = tuple(torch.cat(parts) for parts in zip(*each, strict=True))
        x = torch.cat(held_out)
        ranges = {node: node.op.calibrated() * node.op.parts for node in start if isinstance(node.op, Neuron)}
        blocks = min(self.groups, len(ranges))
        space, free = knobs(blocks), len(self.delays) > 1
        judged = Trial.judged if names_classes(target) else "squared error"
        told_by = [*(knob.name for knob in space), *([DELAY] if free else [])]

        def objective(values: Values) -> Trial:
            network = turned(start, ranges, blocks, values)
            delays = [int(values[DELAY])] if DELAY in values else self.delays
            found, spikes = answers(network, x, target, self.timesteps, self.schedule, delays)
            nearest = min(found, key=lambda answer: answer.tempered)
            told = {**values, DELAY: float(nearest.delay)} if free else dict(values)
            worth = nearest.tempered + self.spike_weight * spikes
            return Trial(told, worth, nearest.distance, spikes, judged)

        path = None if self.search is None else Path(self.search)
        identity = {
            "timesteps": self.timesteps,
            "schedule": self.schedule,
            "per_channel": self.per_channel,
            "spike_weight": self.spike_weight,
            "delays": list(self.delays),
            "knobs": {knob.name: [knob.low, knob.high] for knob in space},
            "network and data": digest(start, x),
            **({} if judged == Trial.judged else {"judged": judged}),
        }
        tried = () if path is None else read(path, identity, told_by)

        def keep(trials: Sequence[Trial]) -> None:
            progress(len(trials), max(self.trials, len(trials)))
            if path is not None:
                write(path, identity, trials)

        found = minimise(objective, space, warm(blocks, self.delays), self.trials, tried, keep, self.jobs)
        return turned(start, ranges, blocks, best(found).knobs), found


def minimise(
    objective: Objective,
    space: Sequence[Knob],
    first: Sequence[Values],
    trials: int,
    tried: Sequence[Trial] = (),
    keep: Callable[[Sequence[Trial]], None] = lambda trials: None,
    jobs: int = 1,
) -> tuple[Trial, ...]:
    """`tried` and more, `trials` in all: those of `first`, then where the most is expected.

    `keep(all trials so far)` is called after each round of `jobs` trials. Where to look depends on what was
    tried alone, so a search that was interrupted goes on as if it had not been.
    """
    from joblib import Parallel, delayed

    done = list(tried)
    with Parallel(n_jobs=jobs, prefer="threads") as parallel:
        while len(done) < trials:
            count = min(jobs, trials - len(done))
            waiting = first[len(done) :][:count]
            points = waiting or propose(space, done, count)
            done += parallel(delayed(objective)(point) for point in points)
            keep(done)
    return tuple(done)


def propose(space: Sequence[Knob], tried: Sequence[Trial], count: int) -> list[dict[str, float]]:
    """`count` points at which the most is expected, given what was `tried`; the same ones each time."""
    from skopt import Optimizer
    from skopt.learning import GaussianProcessRegressor
    from skopt.learning.gaussian_process.kernels import ConstantKernel, Matern
    from threadpoolctl import threadpool_limits

    names = [knob.name for knob in space]
    bounds = [(float(knob.low), float(knob.high)) for knob in space]
    lengths = Matern([1.0] * len(space), length_scale_bounds=(0.05, 20), nu=2.5)
    kernel = ConstantKernel(1.0, (0.01, 1000)) * lengths
    optimizer = Optimizer(
        bounds,
        GaussianProcessRegressor(kernel, normalize_y=True, noise="gaussian"),
        n_initial_points=0,
        acq_func="EI",
        acq_optimizer_kwargs={"n_points": 2000, "n_restarts_optimizer": 2},
        random_state=len(tried),
    )
    with warnings.catch_warnings(), threadpool_limits(1, "blas"):  # a few dozen points: threads only wait
        # A fit that stops at a bound of its kernel, and a point that was tried before, are no news to a user.
        warnings.simplefilter("ignore")
        values: dict[tuple[float, ...], float] = {}  # of a point tried twice, the better
        for trial in sorted(tried, key=lambda trial: -trial.objective):
            values[tuple(trial.knobs[name] for name in names)] = log(max(trial.objective, SMALLEST))
        optimizer.tell([list(point) for point in values], list(values.values()))
        points = optimizer.ask(n_points=count, strategy="cl_min")
    return [dict(zip(names, map(float, point), strict=True)) for point in points]


def digest(start: Graph, x: Tensor) -> str:
    """What the value of a trial depends on, as SHA-256: every op, its numbers, and the held-out samples."""
    told = hashlib.sha256(x.cpu().numpy().tobytes() + str(start).encode())
    for node in start:
        for tensor in node.op.tensors().values():
            told.update(tensor.cpu().numpy().tobytes())
    return told.hexdigest()
