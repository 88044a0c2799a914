"""Attention: pixels of an image look at those of another one, by heads of channels and windows of pixels.

It is found by `frontend/arrangements`, whatever shapes a network has its tokens in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regroup.engine.graph import Node, Shape
from regroup.engine.operator import Operator
from regroup.engine.placing.tasks import Tasks
from regroup.kernels import problems as kernels
from regroup.kernels.problems import Tokens


@dataclass(frozen=True, eq=False)
class Attention(Operator):
    """softmax(scale * q k^T + bias) v, of queries, keys and values: three images (arXiv:1706.03762).

    Attributes:
        heads: of the queries; their channels follow one another. Keys and values have as many, or one.
        depth: channels of a head of the queries and keys.
        width: channels of a head of the values.
        scale: of the products.
        queries: pixels of the first image, and of the result.
        tokens: pixels of the keys and values.
        bias: what is added, (1 or windows, 1 or heads, queries, keys).
        safe: a query whose scores are all minus infinity gives 0, not NaN.
    """

    heads: int
    depth: int
    width: int
    scale: float
    queries: Tokens
    tokens: Tokens
    bias: Tensor | None = None
    safe: bool = False

    arity = 3

    def evaluate(self, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        q, k, v = (
            self._apart(image, tokens, channels)
            for image, tokens, channels in zip(
                inputs,
                (self.queries, self.tokens, self.tokens),
                (self.depth, self.depth, self.width),
                strict=True,
            )
        )
        scores = self.scale * q @ k.transpose(-1, -2)
        if self.bias is not None:
            scores = scores + self.bias.to(x.dtype)
        shares = torch.ops.aten._safe_softmax(scores, -1) if self.safe else scores.softmax(-1)
        result = (shares @ v).permute(0, 2, 4, 1, 3)  # images, heads, width, windows, queries
        y = torch.empty(len(x), self.heads * self.width, x.shape[2] * x.shape[3], dtype=x.dtype)
        y[:, :, _pixels(self.queries)] = result.flatten(1, 2)
        return y.unflatten(2, x.shape[2:])

    def _apart(self, image: Tensor, tokens: Tokens, channels: int) -> Tensor:
        """Return an image as (images, windows, heads, tokens, channels)."""
        heads = image.flatten(2).unflatten(1, (-1, channels))
        return heads[..., _pixels(tokens)].permute(0, 3, 1, 4, 2)

    def shape(self, *inputs: Shape) -> Shape:
        q, k, v = inputs
        for image, one, tokens, most in (
            (q, self.depth, self.queries, (self.heads,)), (k, self.depth, self.tokens, (1, self.heads)),
            (v, self.width, self.tokens, (1, self.heads)),
        ):  # fmt: skip
            if image[0] not in [one * heads for heads in most]:
                raise ValueError(f"{image[0]} channels for {self.heads} heads of {one}")
            if len(tokens.windows) * len(tokens.pixels) != image[1] * image[2]:
                raise ValueError(f"{len(tokens.windows)} windows of {len(tokens.pixels)} pixels")
        return (self.heads * self.width, *q[1:])

    def lower(self, node: Node, tasks: Tasks) -> None:
        q, k, v = (tasks.aligned(value, tuple(range(value.shape[0]))) for value in node.inputs)
        y = tasks.settle(node, tuple(range(node.output.shape[0])))
        shape = () if self.bias is None else tuple(self.bias.shape)

        def problem() -> kernels.Problem:
            options = self.heads, self.scale, self.queries, self.tokens, shape, self.safe
            return kernels.Attention(q.view(), y.view(), k.view(), v.view(), *options)

        tasks.add(node.op.word, (q, k, v), y, problem, {"bias": self.bias}, node)


def _pixels(tokens: Tokens) -> Tensor:
    """Return the number of each pixel, (windows, tokens)."""
    return torch.tensor(tokens.windows)[:, None] + torch.tensor(tokens.pixels)
