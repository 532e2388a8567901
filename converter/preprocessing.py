"""From a raw sample to the model's input: size, layout, channel order, (pixels · scale − mean) / std.

A raw sample is an array. Three-dimensional ones are images, [height, width, channels] or
[channels, height, width]; 8-bit pixels are 0…255, floating-point values are whatever they are. What was
done is recorded in the artefact, so that a later evaluation repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from converter import sizing
from converter.errors import DataError, UsageError
from converter.graph import Shape, show_shape

Array = np.ndarray[Any, np.dtype[Any]]

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((), ()),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
"""Mean and standard deviation, R G B, of pixels in 0…1."""


@dataclass(frozen=True)
class Preprocessing:
    """What happens to every sample, in the order of the fields. Data are taken to be RGB.

    `resize`    (height, width), or the length the shorter side gets; bilinear, 8-bit images only
    `crop`      side of the square cut from the centre, after `resize`
    `fit`       where a resize to (height, width) would change the proportions: `stretch`, `letterbox`,
    `corner`
    `pad`       the 8-bit value around an image that keeps its proportions
    `layout`    `nchw` or `nhwc`: the order of the model's input
    `channels`  `rgb` or `bgr`: the order of the model's colour channels
    `scale`     multiplies the values; None is 1/255 for 8-bit data and 1 for floating point
    `mean`, `std`  one value, or one a channel in the model's order, applied after `scale`
    """

    resize: tuple[int, int] | int | None = None
    crop: int | None = None
    fit: str = "stretch"
    pad: int = 0
    layout: str = "nchw"
    channels: str = "rgb"
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    LAYOUTS: ClassVar[tuple[str, ...]] = ("nchw", "nhwc")
    CHANNELS: ClassVar[tuple[str, ...]] = ("rgb", "bgr")

    def __post_init__(self) -> None:
        """Raise `UsageError` for values that mean nothing."""
        sides = (self.resize,) if isinstance(self.resize, int) else (self.resize or ())
        if any(side < 1 for side in (*sides, *(() if self.crop is None else (self.crop,)))):
            raise UsageError("resize and crop are lengths in pixels, 1 or more")
        sizing.check_fit(self.resize, self.fit, self.pad)
        if self.layout not in self.LAYOUTS:
            raise UsageError(f"there is no layout {self.layout!r}", hint=f"one of {', '.join(self.LAYOUTS)}")
        if self.channels not in self.CHANNELS:
            hint = f"one of {', '.join(self.CHANNELS)}"
            raise UsageError(f"there is no channel order {self.channels!r}", hint=hint)
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale != 0):
            raise UsageError(f"a scale of {self.scale} leaves nothing of the data")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or not all(s > 0 for s in self.std):
            raise UsageError("mean and std are finite numbers, and every std is above 0")

    @classmethod
    def normalized(cls, normalize: str, **others: Any) -> Preprocessing:
        """With the mean and std of `imagenet`, `cifar10`, `none`, or those of `0.5/0.25`, `4,5,6/1,1,1`.

        The known ones follow `channels`; numbers are in the order of the model's channels as they stand.
        """
        if normalize in NORMALIZATIONS:
            order = -1 if others.get("channels") == "bgr" else 1
            known_mean, known_std = (numbers[::order] for numbers in NORMALIZATIONS[normalize])
            return cls(mean=known_mean, std=known_std, **others)
        try:
            mean, std = ([float(number) for number in part.split(",")] for part in normalize.split("/"))
        except ValueError as error:
            hint = f"{', '.join(NORMALIZATIONS)}, or MEAN/STD such as 0.5/0.25 or 0.4,0.5,0.6/0.2,0.2,0.2"
            raise UsageError(f"normalize {normalize!r} is not understood", hint=hint) from error
        return cls(mean=tuple(mean), std=tuple(std), **others)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """What `to_dict` wrote, also after a way through JSON."""
        options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            return cls(**options)
        except TypeError as error:
            raise DataError("the recorded preprocessing is not understood", why=str(error)) from error

    def placement(self, sample: Array) -> sizing.Placement:
        """Where the image `sample`, [height, width, …], stands in the model's input."""
        return sizing.placement(sample.shape[0], sample.shape[1], self.resize, self.crop, self.fit)

    def wanted_channels(self, expected: Shape | None) -> int | None:
        """How many channels the model's input of shape `expected` has; None when it is no image."""
        if expected is None or len(expected) != 4:
            return None
        return expected[1 if self.layout == "nchw" else 3]

    def __call__(self, raw: Sequence[Array], expected: Shape | None) -> Tensor:
        """Raw samples -> float32 [len(raw), …], of the shape `expected` (batch first) where that is given.

        Raises `DataError` when they differ among themselves, do not fit, or hold NaN or infinity.
        """
        if self.resize is not None or self.crop is not None:
            raw = [self._sized(sample) for sample in raw]
        if len(shapes := {sample.shape for sample in raw}) > 1:
            told = " and ".join(show_shape(s) for s in sorted(shapes)[:2])
            hint = self._size_hint(expected)
            raise DataError(f"the samples differ in shape: {told}", hint=hint)
        stacked = np.stack(raw)
        values = self._arranged(stacked, expected)
        scale = self.scale if self.scale is not None else (1 / 255 if stacked.dtype == np.uint8 else 1.0)
        values = values * scale if scale != 1.0 else values
        if self.mean:
            values = values - self._per_channel(self.mean, "mean", values)
        if self.std:
            values = values / self._per_channel(self.std, "std", values)
        if not bool(torch.isfinite(values).all()):
            raise DataError("the data hold NaN or infinite values", hint="look for them with numpy.isfinite")
        return values.contiguous()

    def _sized(self, sample: Array) -> Array:
        if sample.dtype != np.uint8 or not (sample.ndim == 2 or (sample.ndim == 3 and sample.shape[2] <= 4)):
            told = f"{sample.dtype} {show_shape(sample.shape)}"
            raise DataError(f"only 8-bit images, channels last, are resized and cropped; these are {told}")
        grey = sample.ndim == 3 and sample.shape[2] == 1
        image = Image.fromarray(sample[:, :, 0] if grey else sample)
        image = sizing.sized(image, self.resize, self.crop, self.fit, self.pad)
        sized = np.asarray(image)
        return sized[:, :, None] if grey else sized

    def _arranged(self, stacked: Array, expected: Shape | None) -> Tensor:
        """[n, …] of any number type -> float32 in the model's layout and channel order."""
        if stacked.dtype.kind not in "uifb":
            raise DataError(f"the data are of type {stacked.dtype}, not numbers")
        values = torch.from_numpy(np.asarray(stacked, dtype=np.float32))
        last = 1 if self.layout == "nchw" else -1
        wanted = None if expected is None else tuple(expected[1:])
        if values.dim() == 3 and (wanted is None or len(wanted) == 3):
            values = values.unsqueeze(last)
        elif values.dim() == 4:
            channels = self.wanted_channels(expected)
            if self._stored_layout(stacked, channels) != self.layout:
                values = values.permute((0, 3, 1, 2) if self.layout == "nchw" else (0, 2, 3, 1))
        if self.channels == "bgr":
            if values.dim() != 4 or values.shape[last] != 3:
                has = values.shape[last] if values.dim() == 4 else "none"
                raise DataError(f"bgr is an order of 3 channels, the data have {has}")
            values = values.flip(last)
        if wanted is not None and len(wanted) == 1 and values[0].numel() == wanted[0]:
            values = values.flatten(1)
        if wanted is not None and tuple(values.shape[1:]) != wanted:
            assert expected is not None
            given = show_shape(tuple(stacked.shape[1:]))
            raise DataError(
                f"the data's samples are {given}, the model's input is {show_shape(expected)}",
                hint=self._fit_hint(tuple(values.shape[1:]), expected, stacked.dtype == np.uint8),
            )
        return values

    def _stored_layout(self, images: Array, channels: int | None) -> str:
        """The layout of image arrays: by the axis that has the model's channels, else 1, 3 or 4 of them.

        Where both axes could be it, 8-bit images have their channels last, as image files do, and floating
        point is taken to be in the model's layout already.
        """
        likely = (1, 3, 4) if channels is None else (channels,)
        first, last = images.shape[1] in likely, images.shape[3] in likely
        if first == last:
            return "nhwc" if last and images.dtype == np.uint8 else self.layout
        return "nchw" if first else "nhwc"

    def _per_channel(self, numbers: tuple[float, ...], what: str, values: Tensor) -> Tensor:
        axis = 1 if self.layout == "nchw" or values.dim() != 4 else 3
        if len(numbers) not in (1, values.shape[axis]):
            given, has = len(numbers), values.shape[axis]
            raise DataError(f"--{what} has {given} values, the data have {has} channels")
        shape = [1] * values.dim()
        shape[axis] = len(numbers)
        return torch.tensor(numbers, dtype=torch.float32).reshape(shape)

    def _size_hint(self, expected: Shape | None) -> str:
        if self.wanted_channels(expected) is None:
            return "--resize HEIGHTxWIDTH makes images one size"
        assert expected is not None
        height, width = expected[2:] if self.layout == "nchw" else expected[1:3]
        crop = f", or --resize {height * 8 // 7} --crop {height} keeps their proportions" * (height == width)
        return f"--resize {height}x{width} makes images this size{crop}"

    def _fit_hint(self, sample: Shape, expected: Shape, eight_bit: bool) -> str:
        wanted = tuple(expected[1:])
        if len(sample) != 3 or len(wanted) != 3:
            return "store the samples in the model's shape"
        here, there = (0, 2) if self.layout == "nchw" else (2, 0)
        if wanted[there] in (1, 3, 4) and wanted[here] not in (1, 3, 4):
            return f"--layout {'nhwc' if there else 'nchw'}: the model's channels seem to stand there"
        if sample[here] != wanted[here]:
            return "the number of channels differs: is this the data the model was trained on?"
        return self._size_hint(expected) if eight_bit else "store the samples in the model's shape"


def range_warning(low: float, high: float, batch: Tensor) -> str | None:
    """A warning when `batch` is not scaled as the calibration data were, which lay in [low, high]; or None.

    It speaks when values leave that range by more than its width, when a range that had negative values has
    none any more or the other way round, and when the batch fills less than a sixteenth of it.
    """
    least, most, width = float(batch.min()), float(batch.max()), high - low
    beyond = least < low - width or most > high + width
    sign = (low < -width / 8 and least >= 0) or (low >= 0 and least < -width / 8)
    if not (beyond or sign or most - least < width / 16):
        return None
    return (
        f"the data lie in {least:.4g} … {most:.4g}, calibration saw {low:.4g} … {high:.4g}: "
        "were they scaled the same way (--scale, --normalize)?"
    )
