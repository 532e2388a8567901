"""The memory of a run: values of a chunk of steps, states, and buffers that every chunk uses again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from converter.graph import BATCH, Node
from converter.stateful import State


@dataclass
class Frame:
    """The memory of a run: what it knows of its inputs, the state of each node, the values of a chunk."""

    static: dict[Node, Tensor]
    samples: int
    last: int = 0
    """The step at which the run ends."""
    exact: dict[Node, Tensor] = field(default_factory=dict)
    """What `static` rounds, in float64, for layers in whole numbers."""
    codes: dict[Node, Tensor] = field(default_factory=dict)
    """Spikes of this chunk as codes of a byte: [K·B, …]."""
    time: int = 0
    """Steps done before this chunk."""
    steps: int = 1
    values: dict[Node, Tensor] = field(default_factory=dict)
    states: dict[Node, State] = field(default_factory=dict)
    kept: dict[Node, Tensor] = field(default_factory=dict)
    """Memory for what a node emits, used again in the next chunk."""
    spread: dict[Node, Tensor] = field(default_factory=dict)
    """Static values repeated for every step of a chunk."""
    counted: dict[Node, Tensor] = field(default_factory=dict)
    """Static values in whole units, for the layer that they charge."""

    def read(self, node: Node) -> Tensor:
        """What `node` says in this chunk: [K·B, …]."""
        if (value := self.values.get(node)) is not None:
            return value
        value = self.static[node]
        if self.steps == 1 or BATCH not in node.shape:
            return value
        have = self.spread.get(node)
        if have is None or len(have) != self.steps * len(value):
            self.spread[node] = have = torch.cat([value] * self.steps)
        return have

    def at(self, value: Tensor, step: int) -> Tensor:
        """One step of a chunk of values."""
        return value if self.steps == 1 else value[step * self.samples : (step + 1) * self.samples]

    def each(self, value: Tensor) -> Sequence[Tensor]:
        """The steps of a chunk of values, one after the other."""
        return (value,) if self.steps == 1 else value.split(self.samples)

    def out(self, node: Node, like: Tensor) -> Tensor:
        """Memory for what `node` emits in this chunk, the size of a chunk of `like` [B, …]."""
        count = self.steps * len(like)
        have = self.kept.get(node)
        if have is None or len(have) != count:
            size = (count, *like.shape[1:])
            layout = torch.channels_last if channels_last(like) else torch.contiguous_format
            self.kept[node] = have = torch.empty(
                size, dtype=like.dtype, device=like.device, memory_format=layout
            )
        return have

    def code(self, node: Node) -> Tensor:
        """Memory for the codes of `node` in this chunk, in channels_last where there are four dimensions."""
        size = (self.steps * self.samples, *node.shape[1:])
        have = self.codes.get(node)
        if have is None or have.shape != size:
            layout = torch.channels_last if len(size) == 4 else torch.contiguous_format
            self.codes[node] = have = torch.empty(size, dtype=torch.uint8, memory_format=layout)
        return have

    def whole(self, node: Node, exponent: int) -> Tensor:
        """A static value in whole units of 2^exponent, channels innermost: int32, or float64 if too large."""
        if node not in self.counted:
            value = self.exact[node]
            value = value.permute(0, 2, 3, 1) if value.dim() == 4 else value
            value = value * 2.0**-exponent
            fits = float(value.abs().max()) < 1 << 31
            self.counted[node] = value.to(torch.int32 if fits else torch.float64).contiguous()
        return self.counted[node]

    def keep(self, samples: Tensor) -> None:
        """Go on with these samples alone (their indices); the others have been answered."""
        before, self.samples = self.samples, len(samples)

        def chosen(node: Node, value: Tensor) -> Tensor:
            if not value.dim() or len(value) != before or BATCH not in node.shape[:1]:
                return value
            kept = value.index_select(0, samples)
            return kept.contiguous(memory_format=torch.channels_last) if channels_last(value) else kept

        self.static = {n: chosen(n, v) for n, v in self.static.items()}
        self.exact = {n: chosen(n, v) for n, v in self.exact.items()}
        self.states = {n: tuple(chosen(n, v) for v in s) for n, s in self.states.items()}
        self.kept, self.spread, self.codes, self.counted = {}, {}, {}, {}


def channels_last(x: Tensor) -> bool:
    """Whether x lies in channels_last."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
