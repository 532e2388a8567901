"""ann2snn: trained ONNX networks become spiking neural networks that can be run, measured and deployed.

    from converter import Settings, convert, open_source

The public names, each imported from its module when it is first asked for: `import converter` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converter.artefact import Artefact, read, write
    from converter.data import Source, open_source
    from converter.errors import ConversionError
    from converter.graph import Graph, Node, Op
    from converter.importer import load
    from converter.metrics import Measurement, measure
    from converter.pipeline import Conversion, Settings, convert
    from converter.preprocessing import Preprocessing
    from converter.rate import RateModel
    from converter.report import Report

_HOMES = {
    "artefact": ("Artefact", "read", "write"),
    "data": ("Source", "open_source"),
    "errors": ("ConversionError",),
    "graph": ("Graph", "Node", "Op"),
    "importer": ("load",),
    "metrics": ("Measurement", "measure"),
    "pipeline": ("Conversion", "Settings", "convert"),
    "preprocessing": ("Preprocessing",),
    "rate": ("RateModel",),
    "report": ("Report",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Artefact",
    "Conversion",
    "ConversionError",
    "Graph",
    "Measurement",
    "Node",
    "Op",
    "Preprocessing",
    "RateModel",
    "Report",
    "Settings",
    "Source",
    "convert",
    "load",
    "measure",
    "open_source",
    "read",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'converter' has no attribute {name!r}")
    return getattr(importlib.import_module(f"converter.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
