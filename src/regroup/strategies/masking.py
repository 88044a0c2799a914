"""Masking: a dense convolution whose learned mask says at every step which channels form a group.

Shared by `assigned` and `groupable`: they differ in what the mask is made of.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from regroup.errors import PlanError
from regroup.ops.layers import conv_like, pad_and_conv
from regroup.ops.ragged import Groups, ragged_conv
from regroup.spec import ConvSpec
from regroup.strategies.learning import Learned


class MaskedConv(Learned):
    """A dense convolution times a mask of zeros and ones; every channel belongs to one group.

    Subclasses say what the mask and the groups are.

    Args:
        spec: of the convolution.
    """

    kind: ClassVar[str]
    """Of a table of groups: the name of the strategy."""

    def __init__(self, spec: ConvSpec) -> None:
        super().__init__()
        self.spec = spec
        self.pad, self.conv = pad_and_conv(spec)

    def mask(self) -> Tensor:
        """Return which connections are there, with the gradient that learns them: (K, C), of 0 and 1."""
        raise NotImplementedError(f"{type(self).__name__} has no mask()")

    def groups(self) -> Groups:
        """Return the inputs and the outputs of each group."""
        raise NotImplementedError(f"{type(self).__name__} has no groups()")

    def forward(self, x: Tensor) -> Tensor:
        layer = self.conv
        mask = self.mask()
        weight = layer.weight * mask.view(*mask.shape, *(1,) * self.spec.dims)
        return conv_like(layer, self.pad(x), weight)

    def deploy(self) -> nn.Module:
        """Return the convolution inside the groups, between channel orders."""
        return ragged_conv(self.spec, self.groups(), self.conv.weight, self.conv.bias).eval()

    def grouping(self) -> dict:
        """Return {"kind": ..., "groups": [{"inputs": [...], "outputs": [...]}, ...]}: channel numbers."""
        groups = [{"inputs": list(inputs), "outputs": list(outputs)} for inputs, outputs in self.groups()]
        return {"kind": self.kind, "groups": groups}

    def read_groups(self, data: dict) -> Groups:
        """Return the groups of a table that `grouping` gave.

        Raises:
            PlanError: it is damaged, or of another kind of layer or of other channels.
        """
        try:
            kind = data["kind"]
            groups = [(list(group["inputs"]), list(group["outputs"])) for group in data["groups"]]
        except (TypeError, KeyError) as error:
            raise self.refusal(f"has no kind or no groups: {error!r}") from None
        if kind != self.kind:
            raise self.refusal(f"is of kind {kind!r}")
        for side, name in ((0, "inputs"), (1, "outputs")):
            channels = self.conv.weight.shape[1 - side]
            named = [channel for group in groups for channel in group[side]]
            if len(named) != channels or set(named) != set(range(channels)):
                raise self.refusal(f"must name each of the {channels} {name} once")
        return groups

    def refusal(self, reason: str) -> PlanError:
        """Return the error that says why a table is not taken."""
        return PlanError("grouping", f"does not fit this {self.kind} layer: {reason}")
