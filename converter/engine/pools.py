"""Max-pools as machine code takes them."""

from __future__ import annotations

from converter.engine import native
from converter.graph import Node
from converter.ops import MaxPool


def plain(node: Node) -> bool:
    """Whether `node` is a max-pool of images, each window of which has something in it."""
    op = node.op
    if not isinstance(op, MaxPool) or len(op.kernel) != 2 or len(node.shape) != 4:
        return False
    inside = all(a < k for a, k in zip(op.pad, (op.kernel[1],) * 2 + (op.kernel[0],) * 2, strict=False))
    return inside and min(op.pad, default=0) >= 0


def pool_of(node: Node) -> native.Pool:
    """The geometry of a max-pool; what it pads with is never the largest."""
    op, (_, channels, height, width), (rows, columns) = node.op, node.inputs[0].shape, node.shape[2:]
    assert isinstance(op, MaxPool)
    pool = native.Pool(channels=channels, height=height, width=width, rows=rows, columns=columns)
    left, _, top, _ = (*op.pad, 0, 0, 0, 0)[:4]
    pool.kernel, pool.stride = op.kernel, op.stride or op.kernel
    pool.padding = tuple(a + b for a, b in zip(op.padding or (0, 0), (top, left), strict=True))
    pool.dilation = op.dilation or (1, 1)
    return pool
