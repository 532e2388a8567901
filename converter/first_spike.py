"""FirstSpikeModel: every neuron spikes at most once, and the time of its spike is what it says.

The windows are those of `PipelinedModel`: a layer integrates the spikes of one window and fires in the next.
A spike at step k of its window carries θ₀·κ(k) of its layer's scale (`converter.kernels`), and a membrane is
the sum of what came in, bias once; so the network is its ANN with `decode(encode(·))` for each activation,
which is how it is run. `StepByStep` has the same spikes one step after the other, `converter.events` spike by
spike. A max-pool over spikes passes on the earliest of its window, which carries the largest value. In
continuous time nothing is rounded, and as far as windows reach the network says what its ANN does.

An image that is there as a constant is there at step 0, and with it all that the first layer will ever
integrate: that layer fires at once, there is no window of the image, and S layers take S windows. Windows
overlap where neurons have an `offset`: each layer begins so many steps after the one before, and compares
with what has arrived (early firing); a shorter branch waits so many steps for each layer it skips. The whole
network is then run in views, one after the other in the batch: what has been said of a window in its first
`offset` steps, and up to each step after that. The last view, all of the window, is what is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from converter.encodings import Encoding
from converter.errors import Unsupported, UsageError
from converter.graph import Graph, Node
from converter.kernels import kernel_thresholds
from converter.neurons import Neuron
from converter.neurons.first_spike import FirstSpike
from converter.pipelined import Inputs, PipelinedModel
from converter.spiking import L, Readout
from converter.unroll import refuse_astray
from converter.window import windowed


def first_spikes(graph: Graph) -> bool:
    """Whether the neurons of `graph` are first-spike neurons. Raises `UsageError` where only some are."""
    kinds = {isinstance(node.op, FirstSpike) for node in graph if isinstance(node.op, Neuron)}
    if len(kinds) > 1:
        strange = next(n for n in graph if isinstance(n.op, Neuron) and not isinstance(n.op, FirstSpike))
        raise UsageError(f"{strange.where} has no first-spike code, others of {graph.name} have")
    return kinds == {True}


class FirstSpikeModel(PipelinedModel):
    """A first-spike-coded network; `timesteps` is the length of a window, 1 in continuous time.

    `forward(x, timesteps)` gives the answer, [batch, …] (a tuple of them when the network has several
    outputs). Raises `UsageError` for a window too small for its kernel.
    """

    def __init__(self, graph: Graph, encoding: Encoding | None = None, *, seed: int = 0) -> None:
        super().__init__(graph, encoding, seed=seed)
        if not first_spikes(graph):
            raise UsageError(f"{graph.name} has no first-spike neurons")
        if self.code.offset is not None:
            refuse_astray(self.graph, (*self.plan.step, *self.plan.head))

    def window(self, x: Inputs, timesteps: int) -> tuple[Readout, dict[str, Tensor]]:
        """The answer, and by the name of each neuron what its membrane has integrated: [views · batch, …]."""
        self.code.check(timesteps)
        readout, currents = super().window(x, timesteps)
        return tuple(self.whole(each, timesteps) for each in readout), currents

    def mean_input(self, x: Inputs, timesteps: int) -> tuple[Tensor, ...]:
        """What comes in over the window of the image, the same in each view."""
        views = self.code.views(timesteps)
        return tuple(torch.cat([each] * views) for each in super().mean_input(x, timesteps))

    def whole(self, value: Tensor, timesteps: int) -> Tensor:
        """The last view of a value, all of its window: [views · batch, …] -> [batch, …]."""
        return value.chunk(self.code.views(timesteps))[-1]

    def spikes(self, x: Inputs, timesteps: int) -> tuple[Readout, dict[str, Tensor]]:
        """The answer, and by the name of each neuron when it spikes: see `FirstSpike.times`."""
        readout, currents = self.window(x, timesteps)
        return readout, {n.name: spike_of(n).times(currents[n.name], timesteps) for n in self.neurons}

    def answers(
        self, x: Inputs, timesteps: Sequence[int], listener: Callable[[], L]
    ) -> Iterator[tuple[int, Readout, L]]:
        """(t, answer with windows of t steps, listener) for each of `timesteps`, a run each.

        The listener, made anew for each run, has heard once what each spike of a window carries.
        """
        told = frozenset(self.plan.step)
        for time in sorted(set(timesteps)):
            self.code.check(time)
            listen = listener()
            graph = windowed(self.graph, time)
            own = dict(zip(graph, self.graph, strict=True))

            def hear(
                node: Node, value: Tensor, own: dict[Node, Node] = own, listen: L = listen, time: int = time
            ) -> None:
                if own[node] in told:
                    listen(own[node], self.whole(value, time))

            readout = graph.run(*self.mean_input(x, time), listen=hear)
            yield time, tuple(self.whole(each, time) for each in readout), listen

    def mean(self, total: Tensor, timesteps: int) -> Tensor:
        return total

    @property
    def code(self) -> FirstSpike:
        """The code that all neurons share."""
        return spike_of(self.neurons[0])

    @property
    def continuous(self) -> bool:
        """Whether time has no steps: its unit is a window."""
        return self.code.continuous

    def latency(self, timesteps: int) -> int:
        """How many steps after the image was given the answer is there.

        The first layer fires at once, or after a window of an image that is drawn anew at each step; each
        later one begins `offset` steps after the one before, and the last one's window is read out whole.
        """
        return self.drawn(timesteps) + (self.stages - 1) * self.code.begins(timesteps) + timesteps

    def latency_in_turn(self, timesteps: int) -> int:
        """Steps from image to answer if no two layers of neurons fired at the same time.

        `latency` lets layers that do not depend on each other fire in the same window.
        """
        return self.drawn(timesteps) + timesteps * len(self.neurons)

    def drawn(self, timesteps: int) -> int:
        """Steps before all of the image is there: none of a constant one."""
        return 0 if self.encoding.constant else timesteps


@dataclass(frozen=True)
class StepByStep:
    """A `Fire` for `converter.unroll`: the spikes of a window one step after the other.

    What comes in and is emitted is `timesteps` times what the spikes carry, so that the mean over the steps
    of a window is their sum, as in all of `unroll`.
    """

    timesteps: int

    def __call__(self, node: Node, currents: Tensor) -> Tensor:
        """[steps, batch, …] -> [steps, batch, …]. Raises `Unsupported` for other neurons."""
        if not isinstance(node.op, FirstSpike) or node.op.continuous or node.op.offset:
            why = "has no first-spike code in whole windows of steps"
            raise Unsupported("first spikes step by step", [(node.where, why)])
        tau = node.op.reach(self.timesteps)
        falling = kernel_thresholds(node.op.form, self.timesteps, tau, node.op.coder).to(currents)
        worth = [node.op.worth(step, self.timesteps).to(currents) for step in torch.arange(self.timesteps)]
        scale, membrane = node.op.calibrated(), torch.zeros_like(currents[0])
        for current in currents:
            membrane = membrane + current / self.timesteps
        silent, emitted = torch.ones_like(membrane, dtype=torch.bool), []
        for step in range(self.timesteps):
            fires = silent & (membrane >= scale * falling[step])
            silent = silent & ~fires
            emitted.append(torch.where(fires, self.timesteps * worth[step], 0.0))
        return torch.stack(emitted)


def spike_of(node: Node) -> FirstSpike:
    """The first-spike neuron of a node of a first-spike model."""
    assert isinstance(node.op, FirstSpike)
    return node.op
