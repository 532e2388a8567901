"""What is in each image: boxes from COCO JSON, YOLO text or JSON by file name, masks from pictures.

    instances.json        COCO: images, annotations (bbox: left, top, width, height; iscrowd is ignored),
    categories
    labels.json           {"photo.jpg": [[left, top, right, bottom(, class)], …]}, pixels
    labels/ set.zip/lab   YOLO: photo.txt with lines `class cx cy width height`, fractions; no file: nothing
    is there
    masks/  set.zip/mask  photo.png or photo_mask.png, a pixel's value being its class; 255 is not looked at

An image and its label share the file's name without its ending. An image that the labels do not speak of is
not
measured (but for YOLO, where it is empty); labels that speak of none of the images are an error.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from converter.errors import DataError
from converter.sources.images import ENDINGS
from converter.sources.tree import DAMAGE, Tree, is_tree, open_tree, read_one

VOID = 255
"""The value of a mask's pixels that are not measured."""


@dataclass(frozen=True, eq=False)
class Objects:
    """The boxes in an image: `corners` [n, 4] in pixels, `classes` [n]; `crowd` ones count neither way."""

    corners: Tensor
    classes: Tensor
    crowd: Tensor


@dataclass(frozen=True, eq=False)
class Labels:
    """`boxes(stem, height, width)` and `mask(stem)` of an image by its name; None: not labelled.

    One of the two is there. `classes` are the names of the classes by number, where the file says them.
    """

    words: str
    boxes: Callable[[str, int, int], Objects | None] | None = None
    mask: Callable[[str], np.ndarray[Any, np.dtype[np.uint8]] | None] | None = None
    classes: Mapping[int, str] | None = None
    known: frozenset[str] = frozenset()
    """The images that the labels speak of."""
    every: bool = False
    """Whether an image that they do not speak of is empty."""

    def labelled(self, names: Sequence[str], indices: Sequence[int]) -> list[int]:
        """Those of the samples `indices` that are labelled. Raises `DataError` when none of `names` is."""
        stems = [stem(name) for name in names]
        if not self.known.intersection(stems):
            shown, other = (min(each, default="none") for each in (self.known, stems))
            raise DataError(
                f"{self.words} label none of the {len(stems)} images",
                why=f"they speak of '{shown}', the first image is '{other}'",
                hint="an image and its label have the same name, up to the ending",
            )
        return [i for i in indices if self.every or stems[i] in self.known]


def stem(name: str) -> str:
    """`images/photo.jpg` -> `photo`."""
    return PurePosixPath(name).stem


def read_labels(spec: str, foreground: int | None = None) -> Labels:
    """The labels that `spec` names. Raises `DataError`.

    `foreground` for masks: the value that is class 1, all others being class 0 (but 255).
    """
    path = Path(spec).expanduser()
    if path.suffix.lower() == ".json":
        return of_json(spec, read_one(path))
    if not is_tree(path):
        raise DataError(
            f"there are no labels {spec}",
            hint="a COCO or other .json, a folder of YOLO .txt files or of masks",
        )
    tree = open_tree(path)
    texts, pictures = tree.visible(frozenset((".txt",))), tree.visible(ENDINGS)
    if texts and not pictures:
        return of_texts(spec, tree, unique(spec, texts))
    if pictures and not texts:
        return of_masks(spec, tree, unique(spec, pictures), foreground)
    both = "both pictures and .txt files" if pictures else "neither pictures nor .txt files"
    raise DataError(
        f"{spec} holds {both}", hint="name the folder of the labels alone; in an archive: set.zip/folder"
    )


def of_json(spec: str, content: bytes) -> Labels:
    """COCO's form, or lists of boxes by file name."""
    try:
        values = json.loads(content)
        boxes, classes = _coco(values) if "annotations" in values else _by_name(values)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise DataError(
            f"{spec} holds no labels that are understood",
            why=f"{type(error).__name__}: {error}",
            hint='COCO\'s {"images", "annotations", "categories"}, or {"photo.jpg": [[x1, y1, x2, y2], …]}',
        ) from error
    return Labels(spec, lambda name, height, width: boxes.get(name), None, classes, frozenset(boxes))


def objects(rows: Sequence[Sequence[float]]) -> Objects:
    """Boxes from rows (left, top, right, bottom, class, crowd)."""
    table = torch.tensor(np.asarray(rows, dtype=np.float64).reshape(-1, 6))
    if not bool(torch.isfinite(table).all()):
        raise ValueError("a box is not finite")
    return Objects(table[:, :4], table[:, 4].long(), table[:, 5] != 0)


def _coco(values: Mapping[str, Any]) -> tuple[dict[str, Objects], dict[int, str]]:
    numbers = {c["id"]: i for i, c in enumerate(sorted(values["categories"], key=lambda c: c["id"]))}
    rows: dict[Any, list[list[float]]] = {image["id"]: [] for image in values["images"]}
    for each in values["annotations"]:
        left, top, width, height = each["bbox"]
        box = [left, top, left + width, top + height, numbers[each["category_id"]], each.get("iscrowd", 0)]
        rows[each["image_id"]].append(box)
    found = {stem(image["file_name"]): objects(rows[image["id"]]) for image in values["images"]}
    return found, {numbers[c["id"]]: str(c.get("name", c["id"])) for c in values["categories"]}


def _by_name(values: Mapping[str, Any]) -> tuple[dict[str, Objects], None]:
    return {
        stem(name): objects([[*box[:4], box[4] if len(box) > 4 else 0, 0] for box in boxes])
        for name, boxes in values.items()
    }, None


def unique(spec: str, names: Sequence[str]) -> dict[str, str]:
    """Stem -> file; of masks, also without `_mask`."""
    found: dict[str, str] = {}
    for name in names:
        if (key := stem(name).removesuffix("_mask")) in found:
            raise DataError(f"{spec} has two files for the image '{key}': {found[key]} and {name}")
        found[key] = name
    return found


def of_texts(spec: str, tree: Tree, files: Mapping[str, str]) -> Labels:
    """YOLO's text files, read when they are asked for."""

    def boxes(name: str, height: int, width: int) -> Objects:
        if name not in files:
            return objects([])
        rows = []
        try:
            for line in tree.read(files[name]).decode().splitlines():
                if not line.strip():
                    continue
                kind, cx, cy, wide, high = map(float, line.split()[:5])
                if kind != int(kind) or kind < 0:
                    raise ValueError(f"{kind} is no class")
                corners = (cx - wide / 2) * width, (cy - high / 2) * height
                rows.append([*corners, corners[0] + wide * width, corners[1] + high * height, kind, 0])
        except (ValueError, *DAMAGE) as error:
            raise DataError(
                f"{spec}/{files[name]} is not understood",
                why=str(error),
                hint="a line for each box: class cx cy width height, as fractions of the image",
            ) from error
        return objects(rows)

    return Labels(spec, boxes, None, None, frozenset(files), every=True)


def of_masks(spec: str, tree: Tree, files: Mapping[str, str], foreground: int | None) -> Labels:
    """Pictures of classes."""

    def mask(name: str) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        if name not in files:
            return None
        try:
            with Image.open(io.BytesIO(tree.read(files[name]))) as image:
                if image.mode not in ("1", "L", "P"):
                    raise ValueError(f"its pixels are {image.mode}, not one 8-bit class each")
                values = np.asarray(image).astype(np.uint8)
        except DAMAGE as error:
            raise DataError(f"the mask {spec}/{files[name]} cannot be read", why=str(error)) from error
        if foreground is not None:
            values = np.where(values == VOID, VOID, values == foreground).astype(np.uint8)
        return values

    return Labels(spec, None, mask, None, frozenset(files))
