"""A detector and a segmenter small enough to be written down, and pictures they are right about.

On a dark picture of 32x32 a bright square fills one cell of 8x8. The segmenter names the bright pixels; the
detector averages cells: its grid says how bright a cell is, and boxes of a cell's size in the middle of it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image

from tests.models import parse

SIDE, CELL = 32, 8
IMAGE = "float[N,1,32,32] x"


def segmenter(path: Path) -> Path:
    """Two scores a pixel: half, and how bright it is."""
    weights = {"w": torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1), "b": torch.tensor([0.5, 0.0])}
    onnx.save(
        parse("r = Relu(x) y = Conv(r, w, b)", weights, inputs=IMAGE, outputs="float[N,2,32,32] y"), path
    )
    return path


def detector(path: Path) -> Path:
    """[6, 4, 4]: objectness σ(20·(brightness − ½)), centre tanh(·) = ½, size σ(·) = ¼, one class."""
    bias = [-10.0, math.atanh(0.5), math.atanh(0.5), -math.log(3), -math.log(3), 10.0]
    weights = {"w": torch.tensor([20.0, 0, 0, 0, 0, 0]).reshape(6, 1, 1, 1), "b": torch.tensor(bias)}
    body = (
        "r = Relu(x) p = AveragePool<kernel_shape=[8, 8], strides=[8, 8]>(r) c = Conv(p, w, b)"
        " s = Constant<value_ints=[1, 4, 1]>() o, m, k = Split<axis=1>(c, s)"
        " so = Sigmoid(o) sk = Sigmoid(k) y = Concat<axis=1>(so, m, sk)"
    )
    onnx.save(parse(body, weights, inputs=IMAGE, outputs="float[N,6,4,4] y"), path)
    return path


def pictures(folder: Path, count: int = 8) -> Path:
    """`images/`, masks in `masks/`, boxes in boxes.json: the last picture is empty."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    boxes: dict[str, list[list[int]]] = {}
    for i in range(count):
        pixels, mask = np.full((SIDE, SIDE), 20, np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        left, top = CELL * (i % 4), CELL * (i // 4)
        boxes[f"p{i}.png"] = []
        if i < count - 1:
            pixels[top : top + CELL, left : left + CELL] = 240
            mask[top : top + CELL, left : left + CELL] = 1
            boxes[f"p{i}.png"] = [[left, top, left + CELL, top + CELL]]
        Image.fromarray(pixels).save(folder / "images" / f"p{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"p{i}_mask.png")
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return folder
