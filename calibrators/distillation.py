"""Distillation: all weights, biases and thresholds tuned together, until the spiking answer is the ANN's.

What is left after each layer has been mended by itself adds up over dozens of layers, and none of them sees
what it does to the answer. Here the network as a whole is the student of its ANN, on unlabelled samples: run
as it will be, all its spikes over T steps; how far its read-out and its layers are from the ANN's is `_aims`;
the gradient of that goes back through rates and not through time (`_rates`), so a step costs a run and twice
the ANN. Adam, small steps, a cosine to zero. A quarter of the samples is held out, and the point that does
best there is taken, which may be the start: run it after `bias-correction` or `regression`. It depends on T,
and needs some dozens of samples.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import ClassVar

import torch
from torch import Tensor

from calibrators import calibrators
from calibrators._aims import Aim, said_by
from calibrators._layerwise import check_run, check_thresholds
from calibrators._rates import Parameters, rates, read_out
from calibrators._run import samples
from converter.errors import UsageError
from converter.graph import Graph, size_of
from converter.observe import Batches
from converter.schedules import check, model_of

RATE = 0.02
"""The size of the first steps, in units of each parameter (`Parameters`), shared by the layers of neurons."""
DECAYS = (0.9, 0.99)
"""Adam's (Kingma & Ba, ICLR 2015); the second is shorter than usual, as the runs are."""
TOGETHER = 4, 32
"""How many samples a step looks at: few of large inputs, in which each place is one to learn from, …"""
SMALL = 1 << 16
"""… and many where the input has so few values."""
MEMORY = 1 << 29
"""Bytes that the values of the ANN may take of the samples that are computed at a time."""
LOOKS = 5
"""So often the held-out samples are asked."""


@calibrators.register
@dataclass(frozen=True)
class Distillation:
    """`timesteps`, `schedule` and `delay` of the run it is meant for; `iterations` of Adam.

    `budget`: seconds after which it ends, also with fewer iterations. `layers`: what the layers weigh against
    the answer. `flip`: every second image is mirrored.
    """

    timesteps: int = 32
    schedule: str = "stream"
    delay: int = 0
    iterations: int = 100
    budget: float = 600.0
    layers: float = 1.0
    flip: bool = False
    changes_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise `UsageError` for a run or a descent without steps or time, or a schedule there is not."""
        check_run(self.timesteps, self.iterations, self.schedule)
        check(self.schedule, self.delay, (self.timesteps,))
        if self.budget <= 0 or self.layers < 0:
            raise UsageError(
                f"the budget is {self.budget:g} seconds and the layers' weight {self.layers:g}",
                hint="the budget lies above 0, the weight is at least 0",
            )

    def __call__(self, graph: Graph, batches: Batches, ann: Graph | None = None) -> Graph:
        """The graph with other weights and thresholds; the latter must be set.

        Raises `DataError` for fewer than two samples.
        """
        begun = time.perf_counter()
        check_thresholds(graph, "distillation")
        ann = ann or graph
        x = samples("distillation", batches, sys.maxsize)
        least, most = TOGETHER
        together = most if size_of(graph.inputs[0].shape) <= SMALL else least
        fit, held = x.split([len(x) - (kept := max(1, min(len(x) // 4, 4 * together))), kept])
        part = max(1, MEMORY // (4 * sum(size_of(node.shape) for node in graph)))
        with torch.no_grad():
            aim = Aim.of(ann, fit[: 4 * together], part)
        parameters = Parameters.of(graph, fit[:part]).learning()
        rate = RATE / max(1, len(aim.layers))
        adam = torch.optim.Adam(parameters.moved.values(), lr=rate, betas=DECAYS)
        best, lowest = graph, self._missed(parameters, aim, ann, held.split(part))
        generator = torch.Generator().manual_seed(0)
        waiting: list[int] = []
        done = 0.0
        for step in range(1, self.iterations + 1):
            if len(waiting) < together:
                waiting += torch.randperm(len(fit), generator=generator).tolist()
            drawn, waiting = fit[waiting[:together]], waiting[together:]
            if self.flip:
                mirrored = torch.rand(len(drawn), generator=generator) < 0.5
                drawn[mirrored] = drawn[mirrored].flip(-1)
            for group in adam.param_groups:
                group["lr"] = rate * (1 + cos(pi * done)) / 2
            self._missed(parameters, aim, ann, drawn.split(part), learn=True)
            adam.step()
            adam.zero_grad()
            before, done = done, max(step / self.iterations, (time.perf_counter() - begun) / self.budget)
            if int(LOOKS * done) > int(LOOKS * before):
                missed = self._missed(parameters, aim, ann, held.split(part))
                if missed < lowest:
                    best, lowest = parameters.settled(), missed
            if done >= 1:
                break
        return best

    def _missed(
        self,
        parameters: Parameters,
        aim: Aim,
        ann: Graph,
        parts: Sequence[Tensor],
        learn: bool = False,
    ) -> float:
        """How far the network is from its aim on average over `parts`; `learn`: with gradients, gathered."""
        model = model_of(parameters.settled(), schedule=self.schedule, delay=self.delay)
        count, total = sum(map(len, parts)), 0.0
        for x in parts:
            with torch.no_grad():
                wanted = said_by(read_out(ann), x, aim.layers)
                spoken = rates(model, x, self.timesteps)
            with torch.set_grad_enabled(learn):
                told = said_by(parameters.through(spoken, self.timesteps), x, aim.layers)
                answer, layers = aim.missed(told, wanted)
                missed = (answer + self.layers * layers) * (len(x) / count)
            if learn:
                missed.backward()
            total += float(missed.detach())
        return total
