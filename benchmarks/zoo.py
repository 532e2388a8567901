"""torchvision's architectures as ONNX files, from both of torch's exporters, in a cache folder.

Weights are random: what is tested is structure. Every parameter that torchvision's initialisation leaves
constant (batch-norm scales, biases, the zero head of a vision transformer, ConvNeXt's 1e-6 layer scales) is
drawn anew, and the running statistics of batch-norms are those of a random batch, jittered, so that no fold
and no branch is hidden behind a zero or a one.

    dynamo           torch.onnx.export(dynamo=True), batch 1: batch-norm folded, weights in an external file
    dynamo-free      the same, with a free batch
    torchscript      torch.onnx.export(dynamo=False), batch 1: batch-norm folded, constants folded
    torchscript-raw  the same, with a free batch, batch-norm kept and nothing folded
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._common import ROOT
from converter.vision import torchvision

DIALECTS = ("dynamo", "dynamo-free", "torchscript", "torchscript-raw")
"""How a file can be exported."""


@dataclass(frozen=True)
class Architecture:
    """One torchvision model: its constructor's options, and the side of its square input."""

    name: str
    side: int = 224
    options: dict[str, Any] = field(default_factory=dict)
    segments: bool = False
    """Whether the model answers with a dictionary whose `out` is a map of classes."""


NO_AUXILIARY = {"aux_logits": False, "init_weights": False}
NO_WEIGHTS = {"weights_backbone": None}
ARCHITECTURES = (
    Architecture("alexnet"),
    Architecture("vgg11_bn"),
    Architecture("resnet18"),
    Architecture("resnet50"),
    Architecture("resnext50_32x4d"),
    Architecture("wide_resnet50_2"),
    Architecture("densenet121"),
    Architecture("googlenet", options=NO_AUXILIARY),
    Architecture("inception_v3", side=299, options=NO_AUXILIARY),
    Architecture("shufflenet_v2_x1_0"),
    Architecture("mobilenet_v2"),
    Architecture("mnasnet1_0"),
    Architecture("regnet_y_400mf"),
    Architecture("squeezenet1_1"),
    Architecture("convnext_tiny"),
    Architecture("efficientnet_b0"),
    Architecture("fcn_resnet50", side=96, options=NO_WEIGHTS, segments=True),
    Architecture("deeplabv3_resnet50", side=96, options=NO_WEIGHTS, segments=True),
    Architecture("vit_b_16"),
)


class Map(nn.Module):
    """A segmentation model that answers with its map alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, classes, h, w]."""
        out: Tensor = self.model(x)["out"]
        return out


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/ann2snn/zoo`, or `build/benchmarks` in the project where that is not set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base, "ann2snn", "zoo") if base else ROOT / "build" / "benchmarks"


def build(architecture: Architecture) -> nn.Module:
    """The model, in eval mode, its weights and statistics drawn with a seed made of its name."""
    torch.manual_seed(zlib.crc32(architecture.name.encode()))
    constructor: Callable[..., nn.Module] = torchvision().models.get_model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constructors announce changes of their defaults
        model = constructor(architecture.name, weights=None, **architecture.options)
    with torch.no_grad():
        for parameter in model.parameters():
            _unsettle(parameter)
        _set_statistics(model, min(architecture.side, 128))
    return Map(model).eval() if architecture.segments else model.eval()


def _unsettle(parameter: Tensor) -> None:
    """Draw `parameter` anew if it is constant: about 1 if it scales, about 0 if it shifts or mixes."""
    if float(parameter.max()) != float(parameter.min()):
        return
    if float(parameter.reshape(-1)[0]) != 0:
        parameter.uniform_(0.5, 1.5)
    else:
        fan_in = parameter[0].numel() if parameter.dim() == 2 else 100
        parameter.normal_(0, fan_in**-0.5)


def _set_statistics(model: nn.Module, side: int) -> None:
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the statistics become those of this one batch
    model.train()(torch.randn(4, 3, side, side))
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        assert norm.running_mean is not None
        assert norm.running_var is not None
        deviation = norm.running_var.clamp_min(1e-3).sqrt()
        norm.running_mean += 0.3 * deviation * torch.randn_like(deviation)
        norm.running_var.copy_(deviation.square() * torch.empty_like(deviation).uniform_(0.5, 2.0))


def path_of(name: str, dialect: str) -> Path:
    """Where the file of this architecture and exporter is, or will be."""
    return cache_folder() / dialect / name / f"{name}.onnx"


def exported(name: str, dialect: str) -> Path:
    """The file, exported in a process of its own if it is not there yet. Raises RuntimeError on failure."""
    path = path_of(name, dialect)
    if not path.is_file():
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.zoo", name, dialect]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        if done.returncode:
            raise RuntimeError(f"{name} could not be exported by {dialect}: {done.stderr.strip()[-2000:]}")
    return path


def export(name: str, dialect: str) -> Path:
    """Export one architecture into the cache; its folder appears when it is complete."""
    architecture = next(a for a in ARCHITECTURES if a.name == name)
    path = path_of(name, dialect)
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    model = build(architecture)
    x = torch.randn(2 if dialect == "dynamo-free" else 1, 3, architecture.side, architecture.side)
    options: dict[str, Any] = {"input_names": ["image"]}
    match dialect:
        case "dynamo":
            options |= {"dynamo": True, "verbose": False}
        case "dynamo-free":
            batch = {0: torch.export.Dim("batch")}
            options |= {"dynamo": True, "verbose": False, "dynamic_shapes": (batch,)}
        case "torchscript":
            options |= {"dynamo": False}
        case "torchscript-raw":
            options |= {"dynamo": False, "dynamic_axes": {"image": {0: "batch"}}}
            options |= {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
        case _:
            raise ValueError(f"there is no dialect {dialect!r}; one of {', '.join(DIALECTS)}")
    logging.disable(logging.WARNING)
    # A folder for each, because the weights may be a second file beside the first.
    with tempfile.TemporaryDirectory(dir=path.parent.parent, prefix=".") as unfinished:
        filled = Path(unfinished, name)
        filled.mkdir()
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(model, (x,), str(filled / path.name), **options)
        filled.rename(path.parent)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description="Export one architecture.")
    parser.add_argument("name", choices=[a.name for a in ARCHITECTURES])
    parser.add_argument("dialect", choices=DIALECTS)
    torch.set_num_threads(1)
    export(**vars(parser.parse_args()))
