"""RateModel: a network in which every layer fires at every step, run through time as a PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from typing import ClassVar

import torch
from torch import Tensor

from converter.encodings import Encoding
from converter.engine import (
    Codes,
    Convolution,
    Frame,
    Function,
    Program,
    Tiling,
    codes_of,
    compiled,
    exactly,
    function_of,
    gpu,
    one_pass,
    onednn,
    stepwise,
    tiling_for,
)
from converter.errors import UsageError
from converter.graph import Graph, Listener, Node
from converter.plan import Plan
from converter.spiking import L, Readout, SpikingModel, State, Values, refuse_early
from converter.stateful import Stateful

ENGINES = ("auto", "float")
"""Layers whose weights are codes of 8 bits run in whole numbers, or all in floating point."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Numbers that synapses are computed in; membranes are float32 in all of them."""
PULSE = 100
"""So often a long run says where it is, though no answer is asked for there."""


class RateModel(SpikingModel):
    """A rate-coded spiking network in which every layer fires at every step: the schedule `stream`.

    `forward(x, timesteps)` gives the read-out after every step, [timesteps, batch, …] (a tuple of them when
    the network has several outputs), so one run is the whole accuracy-against-time curve.

    The first `delay` steps, while the spikes of the first layers are still on their way, are run and not
    counted: the read-out is the mean over the steps after them (during them, that of the step alone).

    A run is executed by `converter.engine`, in the layouts and by the routines that are fastest here. They
    add up in another order than the ops called by themselves, as `step` and an emitted model call them, so a
    membrane within rounding of its threshold may fall either way. A `plain` model's runs call the ops.
    """

    schedule: ClassVar[str] = "stream"

    def __init__(
        self,
        graph: Graph,
        encoding: Encoding | None = None,
        *,
        seed: int = 0,
        delay: int = 0,
        plain: bool = False,
        engine: str = "auto",
        precision: str = "float32",
    ) -> None:
        for kind, asked, there in (("engine", engine, ENGINES), ("precision", precision, PRECISIONS)):
            if asked not in there:
                raise UsageError(f"there is no {kind} {asked!r}", hint=" or ".join(there))
        self.plain, self.engine, self.precision = plain, engine, precision
        super().__init__(graph, encoding, seed=seed)
        if delay < 0:
            raise UsageError(f"the delay of the read-out is {delay} steps; it is 0 or more")
        self.delay = delay

    def _bind(self, graph: Graph) -> None:
        super()._bind(graph)
        number = PRECISIONS[self.precision]
        self.functions = {n: n.op if self.plain else function_of(n.op, number) for n in self.graph}
        self.codes: Codes | None = None
        self.instead = ""
        """Why layers in whole numbers run in floating point, in words."""
        self.exact: dict[Node, Function] = {}
        self.program: Program = compiled(self.graph, self.plan, self.functions)
        self.heard: dict[frozenset[Node], Program] = {}
        whole = self.engine != "float" and self.precision == "float32"
        if self.program.chunks and self.encoding.constant and not self.plain and whole:
            self._bind_codes()

    def _bind_codes(self) -> None:
        """Run layers whose weights are codes in whole numbers, where this machine adds them up exactly."""
        floats = [t for t in self.buffers() if t.is_floating_point()]
        here = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in floats)
        graph = self.graph if here else self.graph.to("cpu")
        codes = codes_of(graph, self.plan if here else Plan.of(graph))
        why = codes.why_left if codes.left else ""
        if codes.charges and not (here and onednn.whole()):
            why = "oneDNN adds up no bytes exactly here" if here else "its numbers are no float32 on a CPU"
        self.instead = f"in floating point, though weights are codes of bytes: {why}" if why else ""
        if codes.charges and not why:
            self.codes = codes
            self.program = compiled(self.graph, self.plan, self.functions, codes)
            units = {n: codes.units[n.inputs[0]] for n in self.plan.static if n.inputs}
            self.exact = {n: exactly(n.op, unit) for n, unit in units.items()}

    def at_precision(self, precision: str) -> RateModel:
        """The same network with its synapses computed in these numbers, one of `PRECISIONS`."""
        other = RateModel(
            self.graph, self.encoding, seed=self.seed, delay=self.delay, plain=self.plain, precision=precision
        )
        return other.to(self.device)

    def program_for(self, listen: Listener | None) -> Program:
        """The program that lets `listen` hear what it listens to: all values, or those it names in `told`."""
        if listen is None or self.codes is None:
            return self.program
        told = frozenset(getattr(listen, "told", self.plan.step))
        if told not in self.heard:
            self.heard[told] = compiled(self.graph, self.plan, self.functions, self.codes, told)
        return self.heard[told]

    def step(
        self, x: Tensor | tuple[Tensor, ...], state: State | None = None, listen: Listener | None = None
    ) -> tuple[Readout, State]:
        """One time step with this step's input: the read-out so far, one tensor an output, and the state."""
        return self.advance(self.currents(x), state or State(), listen)

    def advance(
        self, currents: Values, state: State, listen: Listener | None = None
    ) -> tuple[Readout, State]:
        """One time step from `currents(x)`. `listen(node, value)` sees every value of the step."""
        now = self.pass_on(currents, state, listen)
        counted = max(now.time - self.delay, 1)
        if counted > 1:
            now = replace(now, sums=tuple(a + b for a, b in zip(state.sums, now.sums, strict=True)))
        return self.read(now.sums, counted), now

    def read(self, sums: Sequence[Tensor], time: int) -> Readout:
        """The outputs for these sums over `time` steps: means, and what the head makes of them."""
        have = {node: total / time for node, total in zip(self.plan.frontier, sums, strict=True)}
        for node in self.plan.head:
            have[node] = node.op(*(have[i] for i in node.inputs))
        return tuple(have[o] for o in self.graph.outputs)

    def tiling(self, batch: int) -> Tiling:
        """How many samples and steps of a batch of this size are run at once."""
        if self.codes is not None:
            return stepwise(self.codes.largest, batch)
        if self.plain:
            return Tiling(batch, 1)
        tiling = gpu.tiling_on_gpu if self.device.type == "cuda" else tiling_for
        return tiling(self.graph, self.plan, batch, chunks=self.program.chunks)

    def tiles(self, batch: int) -> list[slice]:
        """The portions of a batch that stay in the caches; all of it where samples share draws of chance."""
        if self.plain or not (self.program.chunks and self.encoding.constant):
            return [slice(0, batch)]
        return list(self.tiling(batch).tiles(batch))

    def execution(self, batch: int) -> str:
        """How batches of this size are run, in words."""
        most = max(tile.stop - tile.start for tile in self.tiles(batch))
        run = f"{self.tiling(most).schedule}, up to {most} sample{'s' * (most > 1)} at a time"
        how = self.codes.words if self.codes is not None else self.instead
        narrow = "" if self.precision == "float32" else f"synapses in {self.precision}"
        splits = any(isinstance(f := self.functions[n], Convolution) and f.may_split for n in self.plan.step)
        few = "convolutions spike by spike where there are few" if splits and self.codes is None else ""
        kinds = [node.op for node in self.plan.step if isinstance(node.op, Stateful)]
        passes = one_pass.words(kinds, self.device)
        return "; ".join(filter(None, (run, few, how, passes, narrow, gpu.words(self.device))))

    def begin(self, x: Tensor | tuple[Tensor, ...], last: int) -> tuple[Frame, Iterator[Values]]:
        """The memory of a run of `x` up to step `last`, and what the input determines at later steps."""
        given = x if isinstance(x, tuple) else (x,)
        if self.codes is not None:
            exact = self.currents(tuple(map(laid_out, given)), self.exact)
            return Frame({n: v.float() for n, v in exact.items()}, len(given[0]), last, exact), repeat(exact)
        inputs = self.each_step(given if self.plain else tuple(map(laid_out, given)), self.functions)
        return Frame(next(inputs), len(given[0]), last), inputs

    def run(
        self,
        x: Tensor | tuple[Tensor, ...],
        timesteps: Sequence[int],
        listen: Listener | None = None,
        tiling: Tiling | None = None,
    ) -> Iterator[tuple[int, Readout]]:
        """(t, read-out) after each of the steps `timesteps`, ascending: one run for all, without gradients.

        What `listen` has heard up to there are all steps up to t. Draws of the encoding start from `seed`.
        """
        with torch.no_grad():
            last, program = max(timesteps), self.program_for(listen)
            frame, inputs = self.begin(x, last)
            at_once = tiling or self.tiling(frame.samples)
            sums: list[Tensor] = []
            wanted = frozenset(timesteps)
            ends = sorted(wanted) if listen is not None else [last]
            while frame.time < last:
                start = frame.time
                steps = min(at_once.steps, next(t for t in ends if t > start) - start)
                if self.program.inputs:
                    chunk = [frame.static if start + k == 0 else next(inputs) for k in range(steps)]
                    frame.static = chunk[0]
                    frame.values = {n: torch.cat([c[n] for c in chunk]) for n in self.program.inputs}
                for time, values in enumerate(program.advance(frame, steps, listen), start + 1):
                    sums, counted = self.summed(sums, values, time)
                    if time in wanted:
                        yield time, self.read(sums, counted)

    def summed(self, sums: list[Tensor], values: Sequence[Tensor], time: int) -> tuple[list[Tensor], int]:
        """`sums` with what step `time` adds to the read-out, and how many steps count in it."""
        counted = max(time - self.delay, 1)
        if counted == 1:
            return [value.clone() for value in values], counted
        for total, value in zip(sums, values, strict=True):
            total.add_(value)
        return sums, counted

    def answers(
        self, x: Tensor | tuple[Tensor, ...], timesteps: Sequence[int], listener: Callable[[], L]
    ) -> Iterator[tuple[int, Readout, L]]:
        """(t, read-out, listener) for the steps `timesteps` and every `PULSE`-th, in order: one run for all.

        The listener, made once, has heard every value up to there; a value is only there while it is heard.
        Raises `UsageError` for a step within the delay.
        """
        refuse_early(timesteps, self.delay)
        listen = listener()
        pulse = range(PULSE, max(timesteps), PULSE)
        for time, readout in self.run(x, sorted({*timesteps, *pulse}), listen):
            yield time, readout, listen

    def latency(self, timesteps: int) -> int:
        """How many steps after the image was given the answer of `timesteps` steps is there: as many."""
        return timesteps

    def forward(
        self,
        x: Tensor | tuple[Tensor, ...],
        timesteps: int,
        at: Sequence[int] | None = None,
        listen: Listener | None = None,
    ) -> Tensor | Readout:
        """The read-out after every step of `timesteps` (or after the steps `at` only): [steps, batch, …].

        Samples are run a tile at a time where nobody listens.
        """
        if timesteps < 1:
            raise UsageError(f"timesteps is {timesteps}; a simulation takes at least 1")
        wanted = [t for t in range(1, timesteps + 1) if at is None or t in at]
        if not wanted:
            raise UsageError(f"none of the steps {list(at or ())} is among the {timesteps} of the simulation")
        given = x if isinstance(x, tuple) else (x,)
        batch = len(given[0])
        found = []
        for part in self.tiles(batch) if listen is None else [slice(0, batch)]:
            kept = [readout for _, readout in self.run(tuple(g[part] for g in given), wanted, listen)]
            found.append([torch.stack(each) for each in zip(*kept, strict=True)])
        stacked = tuple(torch.cat(each, 1) if len(each) > 1 else each[0] for each in zip(*found, strict=True))
        return stacked[0] if len(stacked) == 1 else stacked


def laid_out(x: Tensor) -> Tensor:
    """An image batch in channels_last, in which convolutions are fastest; what is no image as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
