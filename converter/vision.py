"""torchvision, imported when it is needed and also beside a torch without CUDA.

The wheel on PyPI is built for CUDA. Beside a CPU build of torch its operators do not load and its import
stops at "operator torchvision::nms does not exist". Data sets, transforms and models need none of these
operators: declaring their schemas is enough (`torchvision.ops.nms` itself still refuses to run).
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch

from converter.errors import ConversionError

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@functools.cache
def torchvision() -> ModuleType:
    """The module `torchvision`; raises `ConversionError` where it is not installed."""
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        hint = "pip install 'ann2snn[vision]'"
        raise ConversionError("torchvision is not installed", hint=hint) from error
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _declare_operators()
        return importlib.import_module("torchvision")


@functools.cache
def _declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}{SCHEMA}")
    return library  # the declarations live as long as this object: the cache keeps it
