"""Small data sources for tests, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from converter.data import Source, open_source
from converter.errors import DataError

RED_OVER_BLUE = np.array([[[255, 0, 0]], [[0, 0, 255]]], dtype=np.uint8)  # 2 high, 1 wide


def image(path: Path, pixels: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def grey(value: int, height: int = 2, width: int = 2) -> np.ndarray:
    return np.full((height, width), value, dtype=np.uint8)


def everything(source: Source) -> tuple[torch.Tensor, torch.Tensor | None]:
    return next(source.batches(range(len(source)), len(source)))


def refused(source: Path | str, *arguments: Any, **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        open_source(str(source), *arguments, **options)
    return caught.value


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)
