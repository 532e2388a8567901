"""How a run of a spiking graph is executed: instructions over memory that each step uses again."""

from converter.engine.codes import Codes
from converter.engine.frame import Frame
from converter.engine.functions import Convolution, Function, exactly, function_of
from converter.engine.layers import codes_of
from converter.engine.program import Program, compiled
from converter.engine.tiles import Tiling, stepwise, tiling_for

__all__ = [
    "Codes",
    "Convolution",
    "Frame",
    "Function",
    "Program",
    "Tiling",
    "codes_of",
    "compiled",
    "exactly",
    "function_of",
    "stepwise",
    "tiling_for",
]
