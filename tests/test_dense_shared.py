"""The detectors and segmenters of ../shared: the ANN's figures by our decoders, labels and metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.dense import DENSE, ann_figures, parted
from converter.graph import BATCH
from converter.importer import load
from converter.ops import Slice
from converter.passes import apply
from converter.sources.reading import Reading
from tests.models import judge, weight, worst

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


def test_fastestdet_is_the_same_with_the_batch_in_front(shared: Path) -> None:
    """Its 13 channel shuffles become slices of every other channel, so corrections can run it."""
    path = shared / "models" / "fastestdet_coco.onnx"
    graph = load(path)
    changed, _ = apply(graph)
    assert any(node.shape[0] != BATCH for node in graph)
    assert all(node.shape[0] == BATCH for node in changed)
    slices = [node.op for node in changed if isinstance(node.op, Slice)]
    assert [(op.dim, op.start, op.step) for op in slices] == [(1, 0, 2), (1, 1, 2)] * 13
    x = weight(2, 3, 352, 352, seed=1, scale=0.5)
    (ours,) = changed.run(x)
    assert worst(ours, torch.cat([judge(path, x[i : i + 1])[0] for i in range(2)])) < 1e-4


def test_every_nth_is_measured_and_the_others_are_not() -> None:
    names = tuple("abcdefg")
    reading = Reading(7, lambda i, c: (torch.tensor([i]).numpy(), None), False, lambda: "", names=names)
    found = parted(reading, [0, 2, 3, 5, 6], 2)
    assert found.parts == {"test": range(0, 3), "train": range(3, 7)}
    assert found.names == ("a", "d", "g", "b", "c", "e", "f")
    assert [int(found.read(i, None)[0][0]) for i in range(7)] == [0, 3, 6, 1, 2, 4, 5]
