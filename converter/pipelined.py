"""PipelinedModel: time is cut into windows, and a layer says in one what it was told in the one before.

With windows of T steps, in window 0 the image is there and the first layer of neurons integrates it; in
window w the w-th layer fires and the next one integrates. What the last of S layers says in window S is read
out as it comes, so the answer is there T·(S + 1) steps after the image came, and an image goes through in
every window. Where a branch meets a longer one it waits in a buffer for whole windows: all that an op reads
is of the same image. Nothing is left of the errors of arrival: the network is its ANN with clip-quantised
activations (`converter.window`). The windows of different T differ, so each T is a run of its own.

Max-pools and ops kept analog act on window means; the head acts on the mean of the window that is read out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor

from converter.encodings import Encoding
from converter.graph import Graph, Listener, Node
from converter.spiking import L, Readout, SpikingModel, State, Values, refuse_early
from converter.window import refuse_unfit, stages, windowed

Inputs = Tensor | tuple[Tensor, ...]


class PipelinedModel(SpikingModel):
    """A rate-coded spiking network run window by window: the schedule `pipelined`.

    `forward(x, timesteps)` gives the answer of windows of that length, [batch, …] (a tuple of them when the
    network has several outputs). Raises `UsageError` for a hard reset, which would lose a window's charge,
    and for ops that work step by step.
    """

    schedule: ClassVar[str] = "pipelined"
    delay: ClassVar[int] = 0

    def __init__(self, graph: Graph, encoding: Encoding | None = None, *, seed: int = 0) -> None:
        super().__init__(graph, encoding, seed=seed)
        refuse_unfit(graph)

    def forward(self, x: Inputs, timesteps: int) -> Tensor | Readout:
        """The answer of a window of `timesteps` steps."""
        readout, _ = self.window(x, timesteps)
        return readout[0] if len(readout) == 1 else readout

    def window(self, x: Inputs, timesteps: int) -> tuple[Readout, dict[str, Tensor]]:
        """The answer, and by the name of each neuron the mean current that came in over its window."""
        refuse_early([timesteps], 0)
        currents: dict[str, Tensor] = {}
        graph = windowed(self.graph, timesteps)
        wanted = {node.inputs[0].name for node in self.neurons}

        def listen(node: Node, value: Tensor) -> None:
            if node.name in wanted:
                currents[node.name] = value

        readout = graph.run(*self.mean_input(x, timesteps), listen=listen)
        return readout, {node.name: currents[node.inputs[0].name] for node in self.neurons}

    def mean_input(self, x: Inputs, timesteps: int) -> tuple[Tensor, ...]:
        """What comes in over the window of the image, as a mean over its steps."""
        if self.encoding.constant:
            return x if isinstance(x, tuple) else (x,)
        drawn = list(islice(self.encoded(x), timesteps))
        return tuple(torch.stack(each).mean(0) for each in zip(*drawn, strict=True))

    def answers(
        self, x: Inputs, timesteps: Sequence[int], listener: Callable[[], L]
    ) -> Iterator[tuple[int, Readout, L]]:
        """(t, answer of a window of t steps, listener) for each of `timesteps`, a run each.

        The listener, made anew for each run, has heard every value of a whole window of every layer.
        """
        for time in sorted(set(timesteps)):
            readout, currents = self.window(x, time)
            listen = listener()
            self.tell(x, time, currents, listen)
            yield time, readout, listen

    def tell(self, x: Inputs, timesteps: int, currents: dict[str, Tensor], listen: Listener) -> None:
        """Let `listen` hear a window of every layer, step by step: all the charge is there at the first."""
        neurons = self.neurons
        charges: Values = {node: timesteps * currents[node.name] for node in neurons}
        nothing: Values = {node: charge.new_zeros(()) for node, charge in charges.items()}
        state = State()
        for given in islice(self.each_step(x), timesteps):
            state = self.pass_on(given, state, listen, nothing if state.time else charges)

    @property
    def stages(self) -> int:
        """How many layers of neurons stand one after the other, at most."""
        return max(stages(self.graph).values())

    def latency(self, timesteps: int) -> int:
        """How many steps after the image was given the answer of windows of `timesteps` steps is there."""
        return timesteps * (self.stages + 1)
