"""Reactivated: groups of inputs learn which outputs need them and drop the others while they train.

Yang et al., CondenseNet V2 (arXiv:2104.04382), section 3.2; official code jianghaojun/CondenseNetV2.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from regroup.ops.layers import NORMS, convolution_of
from regroup.ops.scattered import ScatteredGroupConv
from regroup.strategies import Strategy, strategy
from regroup.strategies.condensing import Condensing, CondensingConv


class ReactivatedConv(CondensingConv):
    """A convolution whose groups of inputs g, g + groups, ... learn their outputs. See `Reactivated`.

    With `norm` it is the sparse feature reactivation of CondenseNet V2, whose result is added to the features
    that are there. The official layer sets weight and bias of its batch norm to 0, but the official network
    then sets the weight to 1 again; here it is 1 from the start, for with ReLU 0 would stay 0 forever.
    """

    kind, split, chosen = "reactivated", "inputs", "outputs"

    def deploy(self) -> nn.Module:
        """Return [batch norm, activation,] shuffle, grouped convolution, and addition to the outputs."""
        index = self.index()
        normed = isinstance(self.norm, NORMS)
        plain = ScatteredGroupConv(self.spec, self.groups, index.shape[1], normed, self.activation)
        plain.index = index.flatten()
        plain.norm = copy.deepcopy(self.norm)
        grouped = convolution_of(plain.conv)
        weight, bias = self.conv.weight, self.conv.bias
        rows = [weight[chosen, g :: self.groups] for g, chosen in enumerate(index)]
        grouped.weight = nn.Parameter(torch.cat(rows).detach())
        if bias is not None:
            plain.bias = nn.Parameter(bias.detach().clone())
        return plain.to(weight.device).eval()


@strategy("reactivated", paper="arXiv:2104.04382")
class Reactivated(Condensing):
    """The transpose of `condensed`: each group of inputs finds out which outputs it is needed for.

    Input c belongs to group c mod G, G = groups. The importance of output k for group g is the sum of |W_kc|
    over the inputs c of g and the kernel's taps. When twice the progress of training passes 1/(S-1), 2/(S-1),
    ..., 1, S = factor, every group drops the outputs/S that are least important to it; so after half of the
    training each feeds one in S. As deployed: channel shuffle, convolution in G groups, addition of each
    result to its output, at 1/S of the dense cost.

    CondenseNet V2 adds the result, of 1x1 convolutions, to features that are there. As a layer of its own an
    output that no group feeds is 0, or the bias.

    Args:
        groups: number of groups G; must divide the input channels.
        factor: sparsity factor S: a group feeds one in S outputs; as many as groups if none is given.
        lasso: weight of the group lasso; the paper has none.
    """

    resembles = "condensed"
    layer = ReactivatedConv
    groups: int = 4
    factor: int | None = None
    lasso: float = 0.0

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return the default."""
        return (cls(),)
