"""What a kernel can be asked to do: one small dataclass per kind of work, shapes and layout included."""

from __future__ import annotations

from regroup.kernels.problems.attention import Attention, Tokens
from regroup.kernels.problems.base import Problem, Shape
from regroup.kernels.problems.blocks import BlockFloatingPoint, Blocks, IntegerConv, Integers, ToIntegers
from regroup.kernels.problems.chain import Chain
from regroup.kernels.problems.channels import (
    AcrossChannels,
    LayerNorm,
    LocalResponseNorm,
    Modulate,
    Moments,
    NormScales,
    Softmax,
)
from regroup.kernels.problems.conv import Conv, Linear
from regroup.kernels.problems.dynamic import DynamicConv, Largest
from regroup.kernels.problems.fused import NO_EPILOGUE, NO_PROLOGUE, Epilogue, Prologue
from regroup.kernels.problems.pointwise import Constant, Pointwise
from regroup.kernels.problems.pool import AdaptivePool, Pool
from regroup.kernels.problems.resize import Pick, Resize

__all__ = [
    "NO_EPILOGUE",
    "NO_PROLOGUE",
    "AcrossChannels",
    "AdaptivePool",
    "Attention",
    "BlockFloatingPoint",
    "Blocks",
    "Chain",
    "Constant",
    "Conv",
    "DynamicConv",
    "Epilogue",
    "IntegerConv",
    "Integers",
    "Largest",
    "LayerNorm",
    "Linear",
    "LocalResponseNorm",
    "Modulate",
    "Moments",
    "NormScales",
    "Pick",
    "Pointwise",
    "Pool",
    "Problem",
    "Prologue",
    "Resize",
    "Shape",
    "Softmax",
    "ToIntegers",
    "Tokens",
]
