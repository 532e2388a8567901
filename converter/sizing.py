"""How an image comes to the model's size, and how what is found there comes back to the image.

Resizing, padding and cropping together are a scale and a shift for each axis: a point (x, y) of the image
stands
at (x · scale_x + left, y · scale_y + top) of the model's input. `Placement` is that.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from converter.errors import DataError, UsageError

FITS = ("stretch", "letterbox", "corner")
"""What a resize to HEIGHTxWIDTH does where the proportions differ: change them; keep them and pad around the
image; keep them, the image at the top left, and pad below and to the right."""
Resize = tuple[int, int] | int | None


@dataclass(frozen=True)
class Placement:
    """Where an image of `height` x `width` stands in an input of `shown` (height, width)."""

    height: int
    width: int
    scale_y: float
    scale_x: float
    top: float
    left: float
    shown: tuple[int, int]

    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the whole image in the input; it may reach beyond it."""
        left, top = round(self.left), round(self.top)
        return left, top, left + round(self.width * self.scale_x), top + round(self.height * self.scale_y)


def placement(height: int, width: int, resize: Resize, crop: int | None, fit: str) -> Placement:
    """Where an image of this size stands in the end. Raises `DataError` for a crop too large."""
    high, wide = resized(height, width, resize, fit)
    top, left, shown = 0, 0, (high, wide)
    if fit != "stretch" and isinstance(resize, tuple):
        shown = resize
        if fit == "letterbox":
            top, left = (resize[0] - high) // 2, (resize[1] - wide) // 2
    if crop is not None:
        if min(shown) < crop:
            raise DataError(
                f"an image of {shown[0]}x{shown[1]} is smaller than the crop of {crop}",
                hint=f"--resize {crop * 8 // 7} makes its shorter side long enough",
            )
        # Python's rounding to even, as torchvision's centre crop has it
        top, left = top - round((shown[0] - crop) / 2), left - round((shown[1] - crop) / 2)
        shown = crop, crop
    return Placement(height, width, high / height, wide / width, float(top), float(left), shown)


def resized(height: int, width: int, resize: Resize, fit: str) -> tuple[int, int]:
    """The size that the image itself gets."""
    if resize is None:
        return height, width
    if isinstance(resize, int):
        short = min(width, height)
        return height * resize // short, width * resize // short
    if fit == "stretch":
        return resize
    scale = min(resize[0] / height, resize[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def sized(image: Image.Image, resize: Resize, crop: int | None, fit: str, pad: int) -> Image.Image:
    """The image resized (bilinear), padded with the value `pad`, and cropped."""
    place = placement(image.height, image.width, resize, crop, fit)
    high, wide = resized(image.height, image.width, resize, fit)
    if (wide, high) != image.size:
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
    top, left = int(place.top), int(place.left)
    if (top, left, place.shown) == (0, 0, (high, wide)):
        return image
    if fit == "stretch" or not isinstance(resize, tuple):
        return image.crop((-left, -top, -left + place.shown[1], -top + place.shown[0]))
    bands = (pad,) * len(image.getbands())
    canvas = Image.new(image.mode, (place.shown[1], place.shown[0]), pad if len(bands) == 1 else bands)
    canvas.paste(image, (left, top))
    return canvas


def check_fit(resize: Resize, fit: str, pad: int) -> None:
    """`UsageError` for a fit there is not, or one without the size to fit into."""
    if fit not in FITS:
        raise UsageError(f"there is no fit {fit!r}", hint=f"one of {', '.join(FITS)}")
    if fit != "stretch" and not isinstance(resize, tuple):
        raise UsageError(f"--fit {fit} needs --resize HEIGHTxWIDTH, the size to fit into")
    if not 0 <= pad <= 255:
        raise UsageError(f"--pad {pad} is no 8-bit value, 0 to 255")
