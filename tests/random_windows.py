"""Steps of a random network that look at neighbours: convolutions, pools, padding, resizing."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from tests.onnx_builder import Builder, Shape


def is_image(shape: Shape) -> bool:
    return 2 < len(shape) < 6


def conv(b: Builder) -> None:
    if x := b.recent(is_image):
        (_, channels, *size), r = b.shapes[x], b.rng
        groups = r.choice([g for g in range(1, channels + 1) if channels % g == 0])
        kernel = [r.randint(1, min(3, d)) for d in size]
        out, inner = groups * r.randint(1, 3), channels // groups
        w = b.normal(out, inner, *kernel, scale=(inner * math.prod(kernel)) ** -0.5)
        bias = [b.normal(out, scale=0.3)] if r.random() < 0.5 else []
        b.add("Conv", x, w, *bias, group=groups, **window(r, size, kernel, 2))


def conv_transpose(b: Builder) -> None:
    if x := b.recent(is_image):
        (_, channels, *size), r = b.shapes[x], b.rng
        groups = r.choice([g for g in range(1, channels + 1) if channels % g == 0])
        kernel = [r.randint(1, 3) for _ in size]
        out, inner = r.randint(1, 2), channels // groups
        w = b.normal(channels, out, *kernel, scale=(inner * math.prod(kernel)) ** -0.5)
        bias = [b.normal(groups * out, scale=0.3)] if r.random() < 0.5 else []
        strides = [r.randint(1, 2) for _ in size]
        extra = [r.randint(0, s - 1) for s in strides]
        pads = [r.randint(0, 1) for _ in range(2 * len(size))]
        b.add("ConvTranspose", x, w, *bias, group=groups, strides=strides, output_padding=extra, pads=pads)


def window(r: random.Random, size: Sequence[int], kernel: Sequence[int], most: int) -> dict[str, Any]:
    """Strides, dilations and padding up to `most`, told in one of the ways there are."""
    told: dict[str, Any] = {"strides": [r.randint(1, 2) for _ in size]}
    if r.random() < 0.3:
        return told | {"auto_pad": r.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])}
    return told | {
        "dilations": [r.randint(1, 2 if 2 * k - 1 <= d else 1) for k, d in zip(kernel, size, strict=True)],
        "pads": [r.randint(0, most) for _ in range(2 * len(size))],
    }


def pool(b: Builder) -> None:
    if x := b.recent(lambda s: is_image(s) and min(s[2:]) > 2):
        r, size = b.rng, b.shapes[x][2:]
        kernel = [r.randint(2, 3) for _ in size]
        told = window(r, size, kernel, 1) | {"kernel_shape": kernel}
        if "auto_pad" not in told:
            told["ceil_mode"] = r.randint(0, 1)
        average = {"count_include_pad": r.randint(0, 1)} if r.random() < 0.5 else {}
        made = b.add("AveragePool" if average else "MaxPool", x, **told, **average)
        if told.get("ceil_mode"):  # ONNX's shape inference also counts windows that start in the padding
            b.ends += made
            b.leave(*made)


def global_pool(b: Builder) -> None:
    if x := b.recent(is_image):
        b.add(b.rng.choice(["GlobalAveragePool", "GlobalMaxPool"]), x)


def pad(b: Builder) -> None:
    r, x = b.rng, b.recent(lambda s: 2 < len(s) < 5 and min(s[2:]) > 1)
    if x is None:
        return
    rank, mode = len(b.shapes[x]), r.choice(["constant", "constant", "reflect", "edge"])
    first = 1 if mode == "constant" else 2
    amounts = [r.randint(0, 1) if i >= first else 0 for i in (*range(rank), *range(rank))]
    value = [b.constant(r.choice([0.0, 0.5]))] if mode == "constant" else []
    b.add("Pad", x, b.constant(amounts), *value, mode=mode)


def resize(b: Builder) -> None:
    if x := b.recent(lambda s: len(s) == 4):
        r, (_, c, h, w) = b.rng, b.shapes[x]
        ways = [("nearest", "asymmetric"), ("linear", "half_pixel"), ("linear", "align_corners")]
        mode, where = r.choice(ways)
        told: dict[str, Any] = {
            "mode": mode,
            "coordinate_transformation_mode": where,
            "nearest_mode": "floor",
        }
        if b.dynamic or r.random() < 0.5:
            b.add("Resize", x, "", b.constant([1.0, 1.0, 2.0, r.choice([1.0, 2.0])]), **told)
        else:
            sizes = [1, c, max(h + r.randint(-2, 3), 2), max(w + r.randint(-2, 3), 2)]
            b.add("Resize", x, "", "", b.constant(sizes), **told)
