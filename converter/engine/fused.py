"""A layer of neurons charged, fired and reset in one pass over memory, where `one_pass` has one for them.

Some steps go together, as far as there are so many: their membranes are read and written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from converter.engine.frame import channels_last
from converter.engine.functions import version_of
from converter.engine.one_pass import Kind, built
from converter.stateful import State, Stateful

DEVICES = ("cuda",)
"""Where it pays: a CPU has `native`, and would compile for longer than most runs take."""
TOGETHER = 4
"""Steps that share a pass, as far as there are so many."""
MOST = 1 << 31
"""So many neurons would need other indices."""


@dataclass(frozen=True)
class Layout:
    """How values lie in memory: [outer, channels, places]."""

    sizes: tuple[int, int, int]

    @staticmethod
    def of(x: Tensor, given: Sequence[Tensor]) -> Layout | None:
        """That of `x` and of what its channels are given; None where it has gaps or no channels."""
        last = channels_last(x)
        axes = {i - t.dim() for t in given for i, size in enumerate(t.shape) if size > 1}
        axis = min(axes, default=-3 if last else -1)
        if len(axes) > 1 or -axis > x.dim() or not (axis == -3 if last else x.is_contiguous()):
            return None
        channels, places = x.shape[axis], 1 if last else prod(x.shape[axis + 1 :] if axis < -1 else ())
        if not 0 < x.numel() < MOST or any(t.numel() not in (1, channels) for t in given):
            return None
        return Layout((x.numel() // (channels * places), channels, places))

    @property
    def inner(self) -> bool:
        """Whether channels are innermost."""
        return self.sizes[2] == 1

    def steps(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """`count` steps of `x`, each as a pass takes it."""
        sizes = self.sizes[:2] if self.inner else self.sizes
        strides = [prod(sizes[i:]) for i in range(len(sizes) + 1)]
        return x.as_strided((count, *sizes), strides).unbind()

    def each(self, given: Tensor) -> Tensor:
        """A number for each channel."""
        return given.reshape(-1).expand(self.sizes[1]).clone().reshape((-1,) if self.inner else (-1, 1))


@dataclass
class Fused:
    """A layer that may have a pass; what is given for each of its channels is laid out once."""

    laid: dict[Layout, list[Tensor]] = field(default_factory=dict)
    versions: tuple[int, ...] = ()

    def fire(self, op: Stateful, state: State, values: Tensor, out: Tensor, steps: int) -> State | None:
        """The state of `op` after some steps; None, and nothing is done, where there is no pass for them.

        `values` and `out`, which may be the same, are [steps · batch, …]; or each step has the same `values`
        [batch, …].
        """
        if out.device.type not in DEVICES:
            return None
        arguments = [getattr(op, name) for name in op.arguments]
        given = [a for a in arguments if isinstance(a, Tensor)]
        one = out[: len(out) // steps]
        layout = Layout.of(one, given)
        floats = all(t.dtype == torch.float32 for t in (values, out, *given, *state))
        if layout is None or not floats or not alike(values, one):
            return None
        same, over = len(values) < len(out), values is out
        settings = tuple(None if isinstance(a, Tensor) else a for a in arguments)
        about = op.kernel, len(state), settings, layout.inner
        how = "same" if same else "over" if over else "beside"
        counts = [TOGETHER] * (steps // TOGETHER) + [1] * (steps % TOGETHER)
        passes = [built(Kind(*about, how, count, out.device)).run for count in counts]
        state = tuple(
            s if s.shape == one.shape and alike(s, one) else torch.empty_like(one).copy_(s) for s in state
        )
        views = tuple(layout.steps(s, 1)[0] for s in state)
        now = layout.steps(values, 1) * steps if same else layout.steps(values, steps)
        said = now if over else layout.steps(out, steps)
        if None in passes:
            return None
        for run, count in zip(passes, counts, strict=True):
            run(views, now[:count], said[:count], self._laid(layout, given))  # type: ignore[misc]
            now, said = now[count:], said[count:]
        return state

    def _laid(self, layout: Layout, given: Sequence[Tensor]) -> list[Tensor]:
        if (versions := tuple(map(version_of, given))) != self.versions:
            self.versions, self.laid = versions, {}
        if layout not in self.laid:
            self.laid = {layout: [layout.each(t) for t in given]}
        return self.laid[layout]


def alike(x: Tensor, y: Tensor) -> bool:
    """Whether both lie in memory without gaps, and in the same order."""
    return channels_last(x) == channels_last(y) and (channels_last(x) or x.is_contiguous())
