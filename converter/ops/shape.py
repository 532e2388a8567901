"""Layout: reshape, transpose, join, repeat. Values move, none changes, and the batch stays whole.

Reshape, Flatten, Squeeze and Unsqueeze are one `Reshape`. Source: ONNX operator specification, all versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from converter.errors import Refusal
from converter.graph import BATCH, Constant, Node, batch_axes, show_shape
from converter.ops._basic import Movement
from converter.ops._batch import (
    axis_of,
    integers,
    listed,
    reshaped,
    resolve_target,
    transposed,
    without_batch_axes,
)
from converter.view import NodeView, lowerings


@dataclass(frozen=True, eq=False)
class Concat(Movement):
    """The inputs one after another along `dim`."""

    dim: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, self.dim)

    def code(self, name: str, *inputs: str) -> str:
        return f"torch.cat([{', '.join(inputs)}], {self.dim})"


@dataclass(frozen=True, eq=False)
class Expand(Movement):
    """Repeats dimensions of size 1 up to `shape`; −1 keeps what is there."""

    shape: tuple[int, ...]

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0].expand(self.shape)

    def code(self, name: str, *inputs: str) -> str:
        return f"{inputs[0]}.expand({self.shape})"


@dataclass(frozen=True, eq=False)
class ExpandBatch(Movement):
    """The first input, of size 1 along `dim`, once for each sample of the second."""

    dim: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        shape = list(inputs[0].shape)
        shape[self.dim] = inputs[1].shape[self.dim]
        return inputs[0].expand(shape)

    def code(self, name: str, *inputs: str) -> str:
        first, second = inputs
        return (
            f"{first}.expand(*{first}.shape[:{self.dim}], {second}.shape[{self.dim}], "
            f"*{first}.shape[{self.dim + 1}:])"
        )


@dataclass(frozen=True, eq=False)
class Tile(Movement):
    """The whole, `repeats[i]` times along dimension i."""

    repeats: tuple[int, ...]

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0].repeat(self.repeats)

    def code(self, name: str, *inputs: str) -> str:
        return f"{inputs[0]}.repeat({self.repeats})"


@lowerings.register("Reshape", 5)
def reshape(view: NodeView) -> Node:
    """The batch rule is `resolve_target`'s."""
    x = view.data(0)
    literal = integers(view, 1, "shape")
    copies = not view.attribute("allowzero", 0)
    return reshaped(view, x, resolve_target(x.shape, literal, zero_copies=copies))


@lowerings.register("Flatten", 1)
def flatten(view: NodeView) -> Node:
    """Two dimensions: those before `axis`, those from it on."""
    x = view.data(0)
    axis = view.attribute("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    return reshaped(view, x, (prod(x.shape[:axis]), prod(x.shape[axis:])))


@lowerings.register("Squeeze", 1)
def squeeze(view: NodeView) -> Node:
    """Without the given dimensions, or all, of size 1."""
    x = view.data(0)
    told = listed(view, "axes", 1, 13)
    axes = [axis_of(a, len(x.shape)) for a in told] if told else [i for i, d in enumerate(x.shape) if d == 1]
    if any(x.shape[a] != 1 for a in axes):
        raise Refusal(f"a dimension of {show_shape(x.shape)} that it removes is not of size 1")
    return reshaped(view, x, tuple(d for i, d in enumerate(x.shape) if i not in axes))


@lowerings.register("Unsqueeze", 1)
def unsqueeze(view: NodeView) -> Node:
    """With dimensions of size 1 at the given places of the result."""
    x = view.data(0)
    told = listed(view, "axes", 1, 13) or ()
    rank = len(x.shape) + len(told)
    axes = {axis_of(a, rank) for a in told}
    if len(axes) != len(told):
        raise Refusal(f"names an axis twice in {told}")
    sizes = iter(x.shape)
    return reshaped(view, x, tuple(1 if i in axes else next(sizes) for i in range(rank)))


@lowerings.register("Transpose", 1)
def transpose(view: NodeView) -> Node:
    """Reversed when no order is given."""
    x = view.data(0)
    return transposed(view, x, tuple(view.attribute("perm", list(reversed(range(len(x.shape)))))))


@lowerings.register("Concat", 4)
def concat(view: NodeView) -> Node:
    """A constant among the inputs is repeated for each sample."""
    nodes = [view.data(i) for i in range(len(view.values))]
    leader = next((n for n in nodes if batch_axes(n.shape)), nodes[0])
    dim = axis_of(view.required("axis"), len(leader.shape))
    without_batch_axes(leader, (dim,), "joins along")
    for i, node in enumerate(nodes):
        if not isinstance(node.op, Constant) or len(node.shape) != len(leader.shape):
            continue
        for batch in batch_axes(leader.shape):
            if node.shape[batch] == 1:
                nodes[i] = view.build(ExpandBatch(batch), node, leader, part=f"input{i}.expanded")
    return view.build(Concat(dim), *nodes)


@lowerings.register("Expand", 8)
def expand(view: NodeView) -> Node:
    """Broadcasts x and the shape against each other; the batch stays what it is."""
    x = view.data(0)
    told = integers(view, 1, "shape")
    rank = max(len(told), len(x.shape))
    have, want = (1,) * (rank - len(x.shape)) + x.shape, (1,) * (rank - len(told)) + told
    if any(w not in (1, h) and h != 1 for h, w in zip(have, want, strict=True)):
        raise Refusal(f"{show_shape(x.shape)} does not broadcast to {show_shape(told)}")
    if any(h == 1 and w >= BATCH for h, w in zip(have, want, strict=True)):
        raise Refusal("spreads a value of one sample over the batch")
    new = rank - len(x.shape)
    kept = [i >= new and want[i] in (1, have[i]) for i in range(rank)]
    if all(kept):
        return x
    return view.build(Expand(tuple(-1 if k else w for k, w in zip(kept, want, strict=True))), x)


@lowerings.register("Tile", 6)
def tile(view: NodeView) -> Node:
    """Repeats along every dimension but the batch."""
    x = view.data(0)
    repeats = integers(view, 1, "repeats")
    without_batch_axes(x, tuple(i for i, r in enumerate(repeats) if r != 1), "repeats")
    return view.build(Tile(repeats), x)


def _blocks(view: NodeView) -> tuple[Node, int, int, int, int, int]:
    x, block = view.data(0), view.required("blocksize")
    if len(x.shape) != 4 or any(a > 0 for a in batch_axes(x.shape)):
        raise Refusal(f"its input {show_shape(x.shape)} is not [batch, channel, height, width]")
    return (x, block, *x.shape)


@lowerings.register("DepthToSpace", 1)
def depth_to_space(view: NodeView) -> Node:
    """Channels become blocks of pixels; the block is the outer (DCR) or inner (CRD) part of the channel."""
    x, b, n, c, h, w = _blocks(view)
    mode = view.attribute("mode", "DCR")
    if c % (b * b) or mode not in ("DCR", "CRD"):
        raise Refusal(f"cannot make {b}x{b} blocks of {c} channels in mode {mode}")
    inner = c // (b * b)
    split = (n, b, b, inner, h, w) if mode == "DCR" else (n, inner, b, b, h, w)
    order = (0, 3, 4, 1, 5, 2) if mode == "DCR" else (0, 1, 4, 2, 5, 3)
    turned = transposed(view, reshaped(view, x, split, "split"), order, "turned")
    return reshaped(view, turned, (n, inner, h * b, w * b))


@lowerings.register("SpaceToDepth", 1)
def space_to_depth(view: NodeView) -> Node:
    """Blocks of pixels become channels, the place in the block outermost, or innermost (CRD, opset 28)."""
    x, b, n, c, h, w = _blocks(view)
    mode = view.attribute("mode", "DCR")
    if h % b or w % b or mode not in ("DCR", "CRD"):
        raise Refusal(f"{h}x{w} is not made of {b}x{b} blocks in mode {mode}")
    split = reshaped(view, x, (n, c, h // b, b, w // b, b), "split")
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    turned = transposed(view, split, order, "turned")
    return reshaped(view, turned, (n, c * b * b, h // b, w // b))
