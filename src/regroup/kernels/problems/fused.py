"""What is fused into a kernel: work on its inputs before the sums, and on the sums before they are stored."""

from __future__ import annotations

from dataclasses import dataclass

from regroup.kernels.problems.view import View

ACTIVATIONS = (
    "none",
    "relu",
    "relu6",
    "silu",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "tanh",
    "gelu",
    "gelu_tanh",
    "mish",
)
"""Those without numbers of their own; `gelu` is the exact one (erf).

>>> leaky_relu(0.2), clamp(-1.0, 1.0)
('leaky_relu:0.2', 'clamp:-1.0,1.0')
"""

_WITH_NUMBERS = ("leaky_relu", "clamp", "elu", "softplus")


def leaky_relu(slope: float) -> str:
    """Return the activation that multiplies what is not above zero by `slope`."""
    return f"leaky_relu:{float(slope)!r}"


def clamp(low: float, high: float) -> str:
    """Return the activation that keeps numbers within `low` ... `high` (hard tanh)."""
    return f"clamp:{float(low)!r},{float(high)!r}"


def elu(alpha: float, scale: float = 1.0, input_scale: float = 1.0) -> str:
    """Return the activation x, below zero alpha (e ** (input_scale x) - 1), both times `scale`."""
    return f"elu:{float(alpha)!r},{float(scale)!r},{float(input_scale)!r}"


def softplus(beta: float, threshold: float) -> str:
    """Return the activation log(1 + e ** (beta x)) / beta, and x where beta x is above the threshold."""
    return f"softplus:{float(beta)!r},{float(threshold)!r}"


def parsed(activation: str) -> tuple[str, tuple[float, ...]]:
    """Return the name of an activation and its numbers."""
    name, _, numbers = activation.partition(":")
    assert name in (_WITH_NUMBERS if numbers else ACTIVATIONS), activation
    return name, tuple(map(float, numbers.split(","))) if numbers else ()


@dataclass(frozen=True)
class Prologue:
    """What happens to an input element before the multiplication: `act(x * scale[c] + shift[c])`.

    Attributes:
        affine: there is a scale and a shift per channel of `x` as it is stored, so before a convolution's
            `order` (in `Pointwise`: per channel of `y`, so after it): parameters `in_scale`, `in_shift`.
        activation: one of `ACTIVATIONS`, or one with numbers.
        gate: per-channel factors computed at run time (squeeze-and-excitation), applied first; its
            channels are in the same physical order as the input's.
    """

    affine: bool = False
    activation: str = "none"
    gate: View | None = None


@dataclass(frozen=True)
class Epilogue:
    """What happens to a sum before it is stored.

    In this order: `+ bias[c]`, `+ residual` if `residual_first`, activation or slope, `* gate[c]`,
    `+ residual` if not `residual_first`.

    Attributes:
        bias: there is a bias per output channel: parameter `bias`.
        activation: one of `ACTIVATIONS`, or one with numbers.
        residual: added; as large as the output, or smaller by `residual_scale`.
        residual_first: the sum goes through the activation (ResNet), or is added after it.
        residual_scale: 2 reads pixel (y // 2, x // 2) of the residual: nearest resize and add in one.
        gate: factors per output channel, computed at run time.
        slope: factors per output channel for what is not above zero (PReLU), a vector that lies beside the
            kernel's weights: parameter `slope`.
    """

    bias: bool = False
    activation: str = "none"
    residual: View | None = None
    residual_first: bool = True
    residual_scale: int = 1
    gate: View | None = None
    slope: View | None = None

    @property
    def views(self) -> tuple[View, ...]:
        """The residual, the gate and the slopes, as far as there are any."""
        return tuple(view for view in (self.residual, self.gate, self.slope) if view is not None)

    @property
    def view_names(self) -> tuple[str, ...]:
        """In the order of `views`."""
        return tuple(name for name in ("residual", "gate", "slope") if getattr(self, name) is not None)


NO_PROLOGUE, NO_EPILOGUE = Prologue(), Epilogue()
"""The input as it is; the sums as they are."""
