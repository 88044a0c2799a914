"""What a kernel can be asked to do: one small dataclass per kind of work, shapes and layout included."""

from __future__ import annotations

from regroup.kernels.problems.base import Problem, Shape
from regroup.kernels.problems.blocks import BlockFloatingPoint, Blocks, IntegerConv, Integers, ToIntegers
from regroup.kernels.problems.chain import Chain
from regroup.kernels.problems.channels import LocalResponseNorm, Softmax
from regroup.kernels.problems.conv import Conv, Linear
from regroup.kernels.problems.dynamic import DynamicConv, Largest
from regroup.kernels.problems.fused import NO_EPILOGUE, NO_PROLOGUE, Epilogue, Prologue
from regroup.kernels.problems.pointwise import Pointwise
from regroup.kernels.problems.pool import AdaptivePool, Pool
from regroup.kernels.problems.resize import Resize

__all__ = [
    "NO_EPILOGUE",
    "NO_PROLOGUE",
    "AdaptivePool",
    "BlockFloatingPoint",
    "Blocks",
    "Chain",
    "Conv",
    "DynamicConv",
    "Epilogue",
    "IntegerConv",
    "Integers",
    "Largest",
    "Linear",
    "LocalResponseNorm",
    "Pointwise",
    "Pool",
    "Problem",
    "Prologue",
    "Resize",
    "Shape",
    "Softmax",
    "ToIntegers",
]
