"""Dense: every output reads every input. The baseline."""

from __future__ import annotations

from torch import Tensor, nn

from regroup.ops import reach
from regroup.ops.layers import conv, explicit, give
from regroup.spec import DIMS, ConvSpec, Cost, Extent
from regroup.strategies import Strategy, strategy
from regroup.strategies.starting import DenseWeights


@strategy("dense", paper="LeCun et al., Proc. IEEE 86(11), 1998")
class Dense(Strategy):
    """The convolution itself.

    y = W * x + b, with W of shape (out_channels, in_channels, *kernel size).
    """

    dims = DIMS

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return the nn.Conv1d, 2d or 3d of `spec`."""
        return conv(spec)

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take them as they are."""
        give(module, dense.kernel, dense.bias)
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return K C S parameters, each used once a pixel (S: kernel positions)."""
        return spec.cost(size)

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones."""
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute W * x + b."""
        return explicit(module, x)
