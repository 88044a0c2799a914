"""What is fused into a kernel: work on its inputs before the sums, and on the sums before they are stored."""

from __future__ import annotations

from dataclasses import dataclass

from regroup.kernels.view import View

ACTIVATIONS = (
    "none",
    "relu",
    "relu6",
    "silu",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "leaky_relu",
    "tanh",
    "gelu",
)
"""`leaky_relu` has PyTorch's default slope 0.01; `gelu` is the exact one (erf)."""


@dataclass(frozen=True)
class Prologue:
    """What happens to an input element before the multiplication: `act(x * scale[c] + shift[c])`.

    Attributes:
        affine: there is a scale and a shift per channel of `x` as it is stored, so before a convolution's
            `order` (in `Pointwise`: per channel of `y`, so after it): parameters `in_scale`, `in_shift`.
        activation: one of `ACTIVATIONS`.
        gate: per-channel factors computed at run time (squeeze-and-excitation), applied first; its
            channels are in the same physical order as the input's.
    """

    affine: bool = False
    activation: str = "none"
    gate: View | None = None


@dataclass(frozen=True)
class Epilogue:
    """What happens to a sum before it is stored.

    In this order: `+ bias[c]`, `+ residual` if `residual_first`, activation, `* gate[c]`,
    `+ residual` if not `residual_first`.

    Attributes:
        bias: there is a bias per output channel: parameter `bias`.
        activation: one of `ACTIVATIONS`.
        residual: added; as large as the output, or smaller by `residual_scale`.
        residual_first: the sum goes through the activation (ResNet), or is added after it.
        residual_scale: 2 reads pixel (y // 2, x // 2) of the residual: nearest resize and add in one.
        gate: factors per output channel, computed at run time.
    """

    bias: bool = False
    activation: str = "none"
    residual: View | None = None
    residual_first: bool = True
    residual_scale: int = 1
    gate: View | None = None


NO_PROLOGUE, NO_EPILOGUE = Prologue(), Epilogue()
"""The input as it is; the sums as they are."""
