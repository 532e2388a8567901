"""How a run of a spiking graph is executed: instructions over memory that each step uses again."""

from converter.engine.frame import Frame
from converter.engine.functions import Function, function_of
from converter.engine.program import Program, compiled
from converter.engine.tiles import Tiling, tiling_for

__all__ = ["Frame", "Function", "Program", "Tiling", "compiled", "function_of", "tiling_for"]
