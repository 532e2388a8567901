"""The operators: what a node can compute, one family a file; importing this registers every lowering."""

from converter.ops import resize, select  # they define no op of their own
from converter.ops._basic import (
    Add,
    Affine,
    AlongAxis,
    Clip,
    Gather,
    Linear,
    Movement,
    Pad,
    Reshape,
    Slice,
    Transpose,
)
from converter.ops._grid import Grid
from converter.ops.activation import LeakyRelu, PRelu, Relu, Smooth, Swish, ThresholdedRelu
from converter.ops.affine import Conv, ConvTranspose, MatMul
from converter.ops.arithmetic import Div, Max, Min, Mul, Pointwise, Pow
from converter.ops.norm import BatchNorm, GroupNorm, LayerNorm, LpNorm, Lrn, RmsNorm
from converter.ops.pooling import AvgPool, MaxPool
from converter.ops.reduce import (
    ReduceLogSumExp,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceNorm,
    ReduceSum,
)
from converter.ops.shape import Concat, Expand, ExpandBatch, Tile
from converter.ops.softmax import LogSoftmax, Softmax

__all__ = [
    "Add",
    "Affine",
    "AlongAxis",
    "AvgPool",
    "BatchNorm",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Div",
    "Expand",
    "ExpandBatch",
    "Gather",
    "Grid",
    "GroupNorm",
    "LayerNorm",
    "LeakyRelu",
    "Linear",
    "LogSoftmax",
    "LpNorm",
    "Lrn",
    "MatMul",
    "Max",
    "MaxPool",
    "Min",
    "Movement",
    "Mul",
    "PRelu",
    "Pad",
    "Pointwise",
    "Pow",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceNorm",
    "ReduceSum",
    "Relu",
    "Reshape",
    "RmsNorm",
    "Slice",
    "Smooth",
    "Softmax",
    "Swish",
    "ThresholdedRelu",
    "Tile",
    "Transpose",
    "resize",
    "select",
]
