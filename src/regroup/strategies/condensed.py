"""Condensed: groups of outputs learn which inputs they need and drop the others while they train.

Huang et al., CondenseNet (arXiv:1711.09224), section 3; official code ShichenLiu/CondenseNet.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import StrategyError
from regroup.ops.indexed import IndexedGroupConv, IndexedLinear
from regroup.ops.layers import NORMS, convolution_of, norm_of
from regroup.strategies import Strategy, strategy
from regroup.strategies.condensing import Condensing, CondensingConv, read_table
from regroup.strategies.learning import Learned


class CondensedConv(CondensingConv):
    """A convolution whose groups of outputs g, g + groups, ... learn their inputs. See `Condensed`."""

    kind, split, chosen = "condensed", "outputs", "inputs"

    def deploy(self) -> nn.Module:
        """Return gather, [batch norm, activation,] grouped convolution and channel shuffle."""
        index, normed = self.index(), isinstance(self.norm, NORMS)
        plain = IndexedGroupConv(self.spec, self.groups, index.shape[1], normed, self.activation)
        plain.index = index.flatten()
        if normed:
            plain.norm = norm_of(self.norm, plain.index)
        grouped = convolution_of(plain.conv)
        weight, bias = self.conv.weight, self.conv.bias
        rows = [weight[g :: self.groups][:, chosen] for g, chosen in enumerate(index)]
        grouped.weight = nn.Parameter(torch.cat(rows).detach())
        if bias is not None:
            grouped.bias = nn.Parameter(bias.detach().view(-1, self.groups).t().flatten())
        return plain.to(weight.device).eval()


class CondensedLinear(nn.Linear, Learned):
    """A classifier that drops the inputs of which its outputs make least use.

    At a given progress the inputs with the largest column L1 norms stay and the others go, all at once. The
    official code does so when training is over and nothing makes up for it (at=1); here the second half of
    training does, as it does for the convolutions.

    >>> layer = CondensedLinear(8, 2)
    >>> layer.set_progress(0.5)
    >>> layer.deploy()
    IndexedLinear(inputs=8, in_features=4, out_features=2, bias=True)

    Args:
        in_features: inputs.
        out_features: outputs.
        keep: share of the inputs that stay, rounded down to a whole number.
        at: progress at which the others are dropped.

    Raises:
        StrategyError: no input would stay, or more than there are.
    """

    def __init__(self, in_features: int, out_features: int, keep: float = 0.5, at: float = 0.5) -> None:
        super().__init__(in_features, out_features)
        self.number, self.at = int(in_features * keep), at
        if not 1 <= self.number <= in_features:
            raise StrategyError(
                "keep", keep, f"a share of in_features={in_features} that is at least one input"
            )
        self.kept: Tensor
        self.register_buffer("kept", torch.ones(in_features, dtype=torch.bool))

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * self.kept, self.bias)

    def set_progress(self, progress: float) -> None:
        """Drop the inputs with the smallest column L1 norms, if it is time."""
        if progress >= self.at:
            norms = self.weight.detach().abs().sum(0).masked_fill(~self.kept, -1)
            best = norms.argsort(descending=True, stable=True)[: self.number]
            self.kept &= torch.zeros_like(self.kept).scatter(0, best, True)

    def deploy(self) -> nn.Module:
        """Return the gather and the linear layer of the inputs that stay."""
        index = self.kept.nonzero().flatten()
        plain = IndexedLinear(self.in_features, self.out_features, len(index))
        plain.index = index
        plain.weight = nn.Parameter(self.weight.detach()[:, index])
        plain.bias = nn.Parameter(self.bias.detach().clone())
        return plain.eval()

    def grouping(self) -> dict:
        """Return one group, as of a convolution."""
        outputs = list(range(self.out_features))
        group = {"inputs": self.kept.nonzero().flatten().tolist(), "outputs": outputs}
        return {"kind": "condensed linear", "groups": [group]}

    def load_grouping(self, data: dict) -> None:
        """Take a grouping that `grouping` gave.

        Raises:
            PlanError: it is not of such a layer.
        """
        self.kept.copy_(read_table(data, self.grouping(), "inputs", self.in_features)[0])


@strategy("condensed", paper="arXiv:1711.09224")
class Condensed(Condensing):
    """A dense convolution that condenses into a grouped one: each group finds out which inputs it needs.

    Output k belongs to group k mod G, G = groups. The importance of input c for group g is the sum of |W_kc|
    over the outputs k of g and the kernel's taps. When twice the progress of training passes 1/(C-1),
    2/(C-1), ..., 1, C = factor, every group drops the inputs/C that are least important to it; so after half
    of the training each has one in C left, and the second half trains them. A group lasso makes the outputs
    of a group agree. As deployed: gather, convolution in G groups, channel shuffle, at 1/C of the dense cost.

    The paper has 1x1 convolutions only, and channels that factor divides. Here any convolution can be
    condensed, and a group keeps floor(inputs / factor) inputs.

    Args:
        groups: number of groups G; must divide the output channels.
        factor: condensation factor C: one in C inputs is left; as many as groups if none is given.
        lasso: weight of the group lasso; the paper has 1e-5 on ImageNet, and 0 on CIFAR.
    """

    layer = CondensedConv
    groups: int = 4
    factor: int | None = None
    lasso: float = 1e-5

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return the paper's two."""
        return cls(), cls(groups=8)
