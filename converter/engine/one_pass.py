"""A neuron's kernel as one pass over memory, once or some steps in a row: `torch.compile` makes it.

On a GPU that is one kernel of Triton's, which reads and writes each membrane once. It is compiled once for
each neuron and layout, on numbers drawn for that, and tried on others: what has not the kernel's own bits is
no pass, and `words` says why. TORCH_COMPILE_DISABLE=1 is torch's own switch for it.

The compiled function checks nothing of what it is called with, so that no shape compiles it anew: `fused`
sees to it that all is float32 without gaps, as it was here.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from converter.stateful import Kernel, State, Stateful

OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {
    "emulate_precision_casts": True,  # no product is added to something before it is rounded
    "eager_numerics.division_rounding": True,
    "eager_numerics.disable_ftz": True,
    "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,
}
"""The bits of torch's own operators, and a call that takes no longer than a few of them."""
LARGE, SMALL = (61, 19, 127), ((1, 1, 1), (3, 5, 1), (4, 4, 4), (2, 17, 3))
"""[outer, channels, places] to compile for, in all so many that blocks are large, and to try it on besides.

No two axes of the first are alike: what is alike when it is compiled is taken for the same."""
Pass = Callable[[State, Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], None]
"""(states, currents, room for the spikes, what is given for each channel): writes states and spikes."""


@dataclass(frozen=True)
class Kind:
    """What has a pass of its own."""

    kernel: Kernel
    states: int
    settings: tuple[float | None, ...]
    """What the kernel takes after state and input; None where that is a tensor."""
    inner: bool
    """Whether channels are innermost in memory, [outer, channels]; else [outer, channels, places]."""
    given: str
    """Spikes are written `over` the currents, or `beside` them; or each step has the `same` currents."""
    steps: int
    device: torch.device


@dataclass(frozen=True)
class Built:
    """A pass, or why there is none, and the seconds that took."""

    run: Pass | None
    why: str
    seconds: float


BUILT: dict[Kind, Built] = {}
"""All that was asked for in this process."""


def built(kind: Kind) -> Built:
    """The pass of this kind, compiled when it is first asked for."""
    if kind not in BUILT:
        began, run, why = time.perf_counter(), None, ""
        try:
            with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch of itself, and of matrix products
                run = compiled(kind)
                why = "" if right(kind, run) else "what torch.compile makes of them has other bits"
        except Exception as error:  # a compiler's, a driver's, torch's own: it raises anything
            why = f"torch.compile: {' '.join(str(error).split())[:200]}"
        BUILT[kind] = Built(None if why else run, why, time.perf_counter() - began)
    return BUILT[kind]


def compiled(kind: Kind) -> Pass:
    """The pass of this kind, not tried yet: compiled on memory that has nothing in common."""
    if torch._dynamo.config.disable:
        raise RuntimeError("it is switched off")
    run: Pass = torch.compile(function_of(kind), fullgraph=True, dynamic=True, options=OPTIONS)
    state, values, out, given = drawn(kind, LARGE)
    apart = values[:1] * kind.steps if kind.given == "same" else [v.clone() for v in values]
    run(state, apart, apart if kind.given == "over" else [v.clone() for v in out], given)
    return run


def function_of(kind: Kind) -> Pass:
    """What a pass of this kind does, as a function."""
    kernel, settings = kind.kernel, kind.settings

    def steps(state: State, values: Sequence[Tensor], out: Sequence[Tensor], given: Sequence[Tensor]) -> None:
        tensors, now = iter(given), state
        arguments = [next(tensors) if s is None else s for s in settings]
        for value, place in zip(values, out, strict=True):
            now, said = kernel(now, value, *arguments)
            place.copy_(said)
        for old, new in zip(state, now, strict=True):
            old.copy_(new)

    # torch finds what it compiled by the code object alone, as nothing is checked: each kind has its own
    return FunctionType(steps.__code__.replace(), steps.__globals__, "steps", None, steps.__closure__)


def right(kind: Kind, run: Pass) -> bool:
    """Whether a pass has its kernel's own bits on drawn numbers, two chunks of steps after one another."""
    for sizes in (LARGE, *SMALL):
        state, values, out, given = drawn(kind, sizes)
        tensors, now, want = iter(given), tuple(s.clone() for s in state), []
        arguments = [next(tensors) if s is None else s for s in kind.settings]
        for value in (*values, *values):
            now, said = kind.kernel(now, value, *arguments)
            want.append(said)
        got = []
        for _ in range(2):
            room = [v.clone() for v in values] if kind.given == "over" else values
            run(state, room, room if kind.given == "over" else out, given)
            got += [v.clone() for v in (room if kind.given == "over" else out)]
        if not all(map(torch.equal, (*got, *state), (*want, *now))):
            return False
    return True


def drawn(kind: Kind, sizes: tuple[int, int, int]) -> tuple[State, list[Tensor], list[Tensor], list[Tensor]]:
    """States, currents, room for spikes and what is given for each channel, steps being views of one chunk.

    Of the currents some are halves of what is given, so that membranes come to lie on it, some smaller than
    normal numbers.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (sizes[0] * sizes[2], sizes[1]) if kind.inner else sizes
    channels = (sizes[1],) if kind.inner else (sizes[1], 1)
    given = [torch.rand(channels, generator=generator) + 0.25 for s in kind.settings if s is None]
    unit = given[0] if given else torch.ones(channels)
    halves = torch.randint(-4, 8, (kind.steps, *shape), generator=generator)
    chunk = torch.randn((kind.steps, *shape), generator=generator)
    which = torch.rand((kind.steps, *shape), generator=generator)
    chunk = torch.where(which < 0.4, halves * unit / 2, torch.where(which < 0.5, chunk * 1e-39, chunk))
    counts = [torch.randint(0, 3, shape, generator=generator).float() for _ in range(kind.states - 1)]
    state = unit / 2 * torch.randint(0, 2, shape, generator=generator), *counts
    chunk = chunk.to(kind.device)
    values = list(chunk[:1].expand_as(chunk)) if kind.given == "same" else list(chunk)
    there = [t.to(kind.device) for t in (*state, *given)]
    return tuple(there[: len(state)]), values, list(torch.empty_like(chunk)), there[len(state) :]


def words(ops: Collection[Stateful], device: torch.device) -> str:
    """How these neurons are run on a device where they may have a pass, as far as they were run."""
    kernels = {op.kernel for op in ops}
    asked = {k: b for k, b in BUILT.items() if k.kernel in kernels and k.device == device}
    if not asked:
        return ""
    one = f"in one pass over memory, which took {sum(b.seconds for b in asked.values()):.0f} s to compile"
    whys = dict.fromkeys(b.why for b in asked.values() if b.why)
    each = f"operator by operator ({'; '.join(whys)})"
    slow = dict.fromkeys(k.kernel.__name__ for k, b in asked.items() if b.why)
    if len(slow) == len({k.kernel for k in asked}):
        return f"neurons {each}"
    return f"neurons {one}" + (f", but {', '.join(slow)} {each}" if slow else "")
