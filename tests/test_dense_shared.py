"""The detectors and segmenters of ../shared: the ANN's figures by our decoders, labels and metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.dense import DENSE, ann_figures, parted
from converter.sources.reading import Reading

TOLERANCE = {"fastestdet": 0.001, "yunet": 0.005, "ultraface": 0.01, "unet": 0.001, "deeplab": 0.001}
"""How near to the README's figure ours is. YuNet's is 0.882 here and UltraFace's 0.767: it does not say how
images were resized there, nor how precision was averaged over recall. Resized without averaging what becomes
smaller, as OpenCV does by default, UltraFace has 0.778; by the area under all points of its curve, 0.781."""


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE)
def test_the_ann_has_its_known_figure(name: str, shared: Path, tell: Callable[[str], None]) -> None:
    torch.set_num_threads(1)
    dense = DENSE[name]
    found = ann_figures(dense)[dense.named]
    tell(f"{name}: {dense.named} {found:.4f}, known {dense.figure}")
    assert found == pytest.approx(dense.figure, abs=TOLERANCE[name])


def test_every_nth_is_measured_and_the_others_are_not() -> None:
    names = tuple("abcdefg")
    reading = Reading(7, lambda i, c: (torch.tensor([i]).numpy(), None), False, lambda: "", names=names)
    found = parted(reading, [0, 2, 3, 5, 6], 2)
    assert found.parts == {"test": range(0, 3), "train": range(3, 7)}
    assert found.names == ("a", "d", "g", "b", "c", "e", "f")
    assert [int(found.read(i, None)[0][0]) for i in range(7)] == [0, 3, 6, 1, 2, 4, 5]
