"""What was found, drawn: boxes or masks of the ANN and of the spiking network over time, side by side.

A row for each image: the ANN, then the spiking network after each number of steps.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from converter.tasks.boxes import Boxes
from converter.tasks.judge import ANN, Found, Picture
from converter.tasks.labels import VOID

COLOURS = ((230, 86, 20), (30, 110, 190), (25, 150, 90), (170, 60, 170), (200, 160, 0), (0, 160, 170))
"""Of the classes, in turn."""
CERTAIN = 0.3
"""The least score that is drawn, unless told otherwise."""
TITLE = 22
PAPER, INK = (252, 252, 250), (28, 29, 32)


def drawn(image: np.ndarray, found: Found, width: int, certain: float = CERTAIN) -> Image.Image:
    """The image, `width` pixels wide, with what was found in it."""
    base = Image.fromarray(image).convert("RGB")
    height = max(1, round(base.height * width / base.width))
    canvas = base.resize((width, height), Image.Resampling.LANCZOS)
    if isinstance(found, Boxes):
        boxes(canvas, found, width / base.width, certain)
        return canvas
    mask = np.asarray(Image.fromarray(found).resize((width, height), Image.Resampling.NEAREST))
    pixels = np.asarray(canvas).astype(np.float32)
    for kind in np.unique(mask[(mask != 0) & (mask != VOID)]):
        colour = np.array(COLOURS[(int(kind) - 1) % len(COLOURS)], dtype=np.float32)
        pixels[mask == kind] = 0.45 * pixels[mask == kind] + 0.55 * colour
    return Image.fromarray(pixels.round().astype(np.uint8))


def boxes(canvas: Image.Image, found: Boxes, scale: float, certain: float) -> None:
    """Draw the boxes that score above `certain` onto the canvas, with class and score."""
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(10)
    chosen = found.at(found.scores > certain)
    each = zip(chosen.corners.tolist(), chosen.scores.tolist(), chosen.classes.tolist(), strict=True)
    for corners, score, kind in each:
        colour = COLOURS[kind % len(COLOURS)]
        left, top, right, bottom = (
            min(max(c * scale, 0), limit - 1) for c, limit in zip(corners, canvas.size * 2, strict=True)
        )
        if right <= left or bottom <= top:
            continue
        pen.rectangle((left, top, right, bottom), outline=colour, width=2)
        said = f"{kind}: {score:.2f}"
        wide = pen.textlength(said, font=font)
        above = top - 12 if top >= 12 else top
        pen.rectangle((left, above, left + wide + 4, above + 12), fill=colour)
        pen.text((left + 2, above), said, fill="white", font=font)


def title(time: int) -> str:
    """What stands above a column."""
    return "ANN" if time == ANN else f"SNN, T = {time}"


def sheet(
    pictures: Sequence[Picture], times: Sequence[int], width: int = 240, certain: float = CERTAIN
) -> Image.Image:
    """All of them as small multiples: an image a row, a time a column, the ANN first."""
    rows = [[drawn(image, found[t], width, certain) for t in (ANN, *times)] for image, found in pictures]
    gap, font = 6, ImageFont.load_default(13)
    high = TITLE + sum(row[0].height + gap for row in rows)
    canvas = Image.new("RGB", ((1 + len(times)) * (width + gap) + gap, high), PAPER)
    pen = ImageDraw.Draw(canvas)
    for column, time in enumerate((ANN, *times)):
        left = gap + column * (width + gap)
        pen.text((left, 3), title(time), fill=INK, font=font)
        top = TITLE
        for row in rows:
            canvas.paste(row[column], (left, top))
            top += row[column].height + gap
    return canvas


def animation(
    pictures: Sequence[Picture], times: Sequence[int], width: int = 320, certain: float = CERTAIN
) -> list[Image.Image]:
    """A frame for each time, the ANN to the left of it."""
    return [sheet(pictures, [time], width, certain) for time in times]


def png(image: Image.Image) -> bytes:
    """The image as a file."""
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()


def gif(frames: Sequence[Image.Image]) -> bytes:
    """The frames as one endless animation, 0.7 s each."""
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], duration=700, loop=0)
    return content.getvalue()
