"""Networks from files, as others are: for any number of images, with scores instead of probabilities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regroup.engine.frontend.onnx import OnnxModel
from regroup.engine.frontend.onnx.model import OnnxNode

_SAME = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Transpose")
"""Operators that leave the numbers as they are."""


class InBatches(nn.Module):
    """A network that takes `batch` images at once, given any number: what is missing in the last are zeros.

    >>> InBatches(nn.Flatten(), 2)(torch.ones(3, 1, 2, 2)).shape
    torch.Size([3, 4])
    """

    def __init__(self, network: nn.Module, batch: int) -> None:
        super().__init__()
        self.network, self.batch = network, batch

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of all images."""
        missing = -len(images) % self.batch
        whole = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
        return torch.cat([self.network(part) for part in whole.split(self.batch)])[: len(images)]


class Logarithm(nn.Module):
    """A network that gives probabilities, as one that gives scores: their softmax is the probabilities."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logarithms."""
        found = self.network(images)
        return found.clamp(min=torch.finfo(found.dtype).tiny).log()


def gives_probabilities(model: OnnxModel) -> bool:
    """Tell whether a softmax is the last that an ONNX file computes."""
    makers = {
        name: node for node in model.nodes.values() if isinstance(node, OnnxNode) for name in node.makes
    }
    node = makers.get(model.outputs[0])
    while node is not None and node.operator in _SAME:
        node = makers.get(node.reads[0])
    return node is not None and node.operator == "Softmax"
