"""Resize and Upsample: along one axis after the other, each output a fixed mixture of inputs.

    nearest          y[o] = x[index[o]]                                      a `Gather`
    linear, cubic    y[o] = Σ_t k(t − p(o)) x[clamp(t)] / Σ_t k(t − p(o))     an `AlongAxis`

p(o) is the place of output o in the input after coordinate_transformation_mode, k the tent or Keys' cubic;
with antialias k is widened by 1 / scale. Places are computed in float32, as runtimes do: it decides ties.
Source: ONNX operator specification, Resize-10/11/13/18/19, Upsample-7/9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from converter.errors import Refusal
from converter.graph import BATCH, Node, show_shape
from converter.ops._basic import AlongAxis, Gather
from converter.ops._batch import axis_of
from converter.view import NodeView, lowerings


@dataclass(frozen=True)
class Axis:
    """One resized axis: `inputs` and `outputs` long; `scale` is what the file says, or outputs / inputs."""

    inputs: int
    outputs: int
    scale: float


Places = Callable[[Axis, Tensor], Tensor]

PLACES: dict[str, Places] = {
    "half_pixel": lambda a, o: (o + 0.5) / a.scale - 0.5,
    "half_pixel_symmetric": lambda a, o: (
        a.inputs / 2 * (1 - a.outputs / (a.scale * a.inputs)) + (o + 0.5) / a.scale - 0.5
    ),
    "pytorch_half_pixel": lambda a, o: (
        (o + 0.5) / a.scale - 0.5 if a.scale * a.inputs != 1 else torch.full_like(o, -0.5)
    ),
    "tf_half_pixel_for_nn": lambda a, o: (o + 0.5) / a.scale,
    "asymmetric": lambda a, o: o / a.scale,
    "align_corners": lambda a, o: (
        o * (a.inputs - 1) / (a.scale * a.inputs - 1) if a.scale * a.inputs != 1 else torch.zeros_like(o)
    ),
}
"""coordinate_transformation_mode -> the place in the input, in input pixels, of output `o`."""

ROUND: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda p: torch.ceil(p - 0.5),
    "round_prefer_ceil": lambda p: torch.floor(p + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def tent(distance: Tensor) -> Tensor:
    """The linear kernel, 1 at 0 and 0 from 1 on."""
    return torch.clamp(1 - distance.abs(), min=0)


def keys_cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel (1981), of support 2."""
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def places(axis: Axis, transformation: str) -> Tensor:
    """Where in the input each output lies, float32 [outputs]."""
    if transformation not in PLACES:
        raise Refusal(f"has coordinate_transformation_mode = {transformation}, which is not supported")
    return PLACES[transformation](axis, torch.arange(axis.outputs, dtype=torch.float32))


def mixture(
    axis: Axis,
    at: Tensor,
    kernel: Callable[[Tensor], Tensor],
    support: int,
    *,
    antialias: bool = False,
    exclude_outside: bool = False,
) -> Tensor:
    """[outputs, inputs]: the share of each input in each output; beyond the edge the edge counts again."""
    narrow = min(axis.scale, 1.0) if antialias else 1.0
    reach = math.ceil(support / narrow)
    taps = torch.floor(at)[:, None] + torch.arange(-reach, reach + 1)
    share = kernel((taps - at[:, None]) * narrow)
    if exclude_outside:
        share = torch.where((taps < 0) | (taps >= axis.inputs), torch.zeros_like(share), share)
    share = share / share.sum(1, keepdim=True)
    inside = taps.clamp(0, axis.inputs - 1).long()
    return torch.zeros(axis.outputs, axis.inputs).scatter_add_(1, inside, share)


@lowerings.register("Upsample", 7)
def upsample(view: NodeView) -> Node:
    """Resize as it was before opset 11: asymmetric, floor."""
    x = view.data(0)
    told = view.required("scales") if view.opset < 9 else view.constant(1, "scales").tolist()
    axes = _scaled(x, tuple(range(len(x.shape))), tuple(told))
    return _build(view, x, axes, view.attribute("mode", "nearest"), "asymmetric", "floor")


@lowerings.register("Resize", 10)
def resize_10(view: NodeView) -> Node:
    """As Upsample, also to smaller sizes, where runtimes take the next and not the last pixel."""
    x = view.data(0)
    axes = _scaled(x, tuple(range(len(x.shape))), tuple(view.constant(1, "scales").tolist()))
    rounding = "ceil" if any(a.scale < 1 for a in axes.values()) else "floor"
    return _build(view, x, axes, view.attribute("mode", "nearest"), "asymmetric", rounding)


@lowerings.register("Resize", 11)
def resize(view: NodeView) -> Node:
    """By scales or to sizes, on all axes or on `axes`."""
    x = view.data(0)
    view.value(1)  # the region of interest, which only tf_crop_and_resize looks at
    view.attribute("extrapolation_value", 0.0)  # likewise
    rank = len(x.shape)
    chosen = tuple(axis_of(a, rank) for a in view.attribute("axes", list(range(rank))))
    scales, sizes = view.optional(2, "scales"), view.integers(3, "sizes")
    policy = view.attribute("keep_aspect_ratio_policy", "stretch")
    if sizes:
        axes = _sized(x, chosen, sizes, policy)
    elif scales is not None and scales.numel():
        axes = _scaled(x, chosen, tuple(scales.tolist()))
    else:
        raise Refusal("has neither scales nor sizes")
    transformation = view.attribute("coordinate_transformation_mode", "half_pixel")
    rounding = view.attribute("nearest_mode", "round_prefer_floor")
    return _build(view, x, axes, view.attribute("mode", "nearest"), transformation, rounding)


def _scaled(x: Node, chosen: tuple[int, ...], scales: tuple[float, ...]) -> dict[int, Axis]:
    if len(scales) != len(chosen):
        raise Refusal(f"has {len(scales)} scales for {len(chosen)} axes of {show_shape(x.shape)}")
    axes = {}
    for dim, scale in zip(chosen, scales, strict=True):
        if scale == 1:
            continue
        if x.shape[dim] >= BATCH:
            raise Refusal("resizes the batch dimension")
        axes[dim] = Axis(x.shape[dim], int(torch.tensor(scale) * x.shape[dim]), scale)
    return axes


def _sized(x: Node, chosen: tuple[int, ...], sizes: tuple[int, ...], policy: str) -> dict[int, Axis]:
    """`policy` other than stretch keeps the aspect ratio: one scale for all axes, the smallest or largest."""
    if len(sizes) != len(chosen):
        raise Refusal(f"has {len(sizes)} sizes for {len(chosen)} axes of {show_shape(x.shape)}")
    wanted = dict(zip(chosen, sizes, strict=True))
    if policy != "stretch":
        ratios = [size / x.shape[dim] for dim, size in wanted.items()]
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        return {d: Axis(x.shape[d], math.floor(x.shape[d] * ratio + 0.5), ratio) for d in wanted}
    axes = {}
    for dim, size in wanted.items():
        if size == x.shape[dim] or (x.shape[dim] == BATCH and size == 1):  # 1: exported at batch 1
            continue
        if x.shape[dim] >= BATCH or size >= BATCH:
            raise Refusal("resizes the batch dimension")
        axes[dim] = Axis(x.shape[dim], size, size / x.shape[dim])
    return axes


def _build(
    view: NodeView, x: Node, axes: dict[int, Axis], mode: str, transformation: str, rounding: str
) -> Node:
    antialias, exclude = bool(view.attribute("antialias", 0)), bool(view.attribute("exclude_outside", 0))
    coefficient = view.attribute("cubic_coeff_a", -0.75)
    for dim, axis in axes.items():
        if axis.outputs < 1:
            raise Refusal(f"leaves nothing of dimension {dim} of {show_shape(x.shape)}")
        at = places(axis, transformation)
        if mode == "nearest":
            index = ROUND[rounding](at).clamp(0, axis.inputs - 1).long()
            x = view.build(Gather(index, dim), x, part=f"axis{dim}")
            continue
        if mode in ("linear", "bilinear"):
            matrix = mixture(axis, at, tent, 1, antialias=antialias, exclude_outside=exclude)
        elif mode == "cubic":
            kernel = lambda d: keys_cubic(d, coefficient)  # noqa: E731
            matrix = mixture(axis, at, kernel, 2, antialias=antialias, exclude_outside=exclude)
        else:
            raise Refusal(f"has mode = {mode}, which ONNX does not define")
        x = view.build(AlongAxis(matrix, dim), x, part=f"axis{dim}")
    return x
