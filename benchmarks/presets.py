"""The networks whose accuracy is known: file, data, preprocessing, and the ANN's own figure.

Figures are those of ../shared/models/README.md, measured with onnxruntime; the digits network is
the project's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks._common import ROOT, SHARED
from converter.data import Source, open_source
from converter.graph import Graph
from converter.preprocessing import Preprocessing


@dataclass(frozen=True)
class Preset:
    """A network and the data it is measured on. `figure` is the ANN's known accuracy, in percent."""

    model: Path
    data: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    figure: float | None = None
    decimals: int = 2
    """To how many decimals the figure is given."""
    labels: str | None = None
    first: int | None = None
    """The figure is that of the first so many samples of the test part; None is all of it."""
    samples: int | None = None
    """How many samples the accuracy benchmark measures unless told otherwise: None is all."""

    def source(self, graph: Graph) -> Source:
        """The data, for the input of `graph`."""
        return open_source(self.data, self.preprocessing, graph.inputs[0].shape, labels=self.labels)


def _shared(model: str, data: str, preprocessing: Preprocessing, figure: float, **others: object) -> Preset:
    where = SHARED / "models" / f"{model}.onnx", str(SHARED / "data" / data)
    return Preset(*where, preprocessing, figure, **others)  # type: ignore[arg-type]


PRESETS = {
    "digits": Preset(ROOT / "converter" / "models" / "digits.onnx", "digits"),
    "resnet20": _shared("resnet20_cifar10", "cifar10.npz", Preprocessing.normalized("imagenet"), 91.63),
    "resnet44": _shared("resnet44_cifar10", "cifar10.npz", Preprocessing.normalized("imagenet"), 93.45),
    "resnet4b": _shared(
        "resnet4b_cifar10_robust", "cifar10.npz", Preprocessing.normalized("cifar10"), 76.8, decimals=1
    ),
    "convnet_nhwc": _shared(
        "convnet_nhwc_cifar10", "cifar10.npz", Preprocessing(layout="nhwc"), 75.3, decimals=1
    ),
    "mnist_cntk": _shared("mnist_cntk", "mnist.npz", Preprocessing(scale=1.0), 98.91),
    "convnet_maxpool": _shared(
        "convnet_maxpool_mnist", "mnist.npz", Preprocessing(), 97.1, decimals=1, first=2000, samples=2000
    ),
    "squeezenet": _shared(
        "squeezenet11_imagenet_fp16",
        "imagenet_sample_224.zip",
        Preprocessing(channels="bgr", scale=1.0, mean=(104.0, 117.0, 123.0)),
        60.0,
        decimals=1,
        labels="sorted",
        samples=100,
    ),
}
