"""What networks do to images as tokens, heads and windows, for images of 12 channels and 5 x 6 pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_scores, _queries = torch.rand(2, 30, 30), torch.rand(1, 2, 30, 6)
_qkv, _out, _vector = torch.rand(36, 12) / 4, torch.rand(12, 12), torch.rand(12)
_token, _positions = torch.rand(1, 1, 12), torch.rand(1, 31, 12)
_hidden = torch.rand(30, 30) < 0.3
_mask = torch.zeros(30, 30).masked_fill(_hidden & ~torch.eye(30, dtype=torch.bool), -torch.inf)
"""None of the weights is negative: then the results for positive images say how far rounding may lead."""


def tokens(x: Tensor) -> Tensor:
    """Return (images, pixels, channels)."""
    return x.flatten(2).transpose(1, 2)


def image(x: Tensor, height: int = 5) -> Tensor:
    """Return an image of tokens."""
    return x.transpose(1, 2).unflatten(2, (height, -1))


def apart(x: Tensor, heads: int = 2) -> tuple[Tensor, ...]:
    """Return queries, keys and values of tokens, each (images, heads, tokens, channels)."""
    qkv = F.linear(x, _qkv.to(x))
    return qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def together(x: Tensor) -> Tensor:
    """Return tokens of what heads have made."""
    return x.transpose(1, 2).flatten(2)


def by_products(x: Tensor, bias: Tensor | None = None, after: float = 1.0) -> Tensor:
    """Return attention as products and softmax."""
    q, k, v = apart(x)
    scores = q @ k.transpose(-2, -1) * 0.4
    scores = scores if bias is None else scores + bias.to(x)
    return together((scores * after).softmax(-1) @ v)


def turned(x: Tensor) -> Tensor:
    """Return attention with channels before pixels, as LeViT has it when it is trained."""
    q, k, v = F.conv2d(x, _qkv[:, :, None, None].to(x)).flatten(2).chunk(3, 1)
    q, k, v = (part.unflatten(1, (2, 6)) for part in (q, k, v))
    shares = ((q.transpose(-2, -1) @ k) * 0.3 + _scores.to(x)).softmax(-1)
    return (v @ shares.transpose(-2, -1)).flatten(1, 2).unflatten(2, x.shape[2:])


def windows(x: Tensor, grid: bool) -> Tensor:
    """Return attention of six windows of five pixels, beside one another or interleaved."""
    if grid:
        parts = (
            x.unflatten(3, (2, 3)).unflatten(2, (1, 5)).permute(0, 2, 5, 3, 4, 1).flatten(0, 2).flatten(1, 2)
        )
        y = by_products(parts).unflatten(0, (len(x), 1, 3)).unflatten(3, (5, 2)).permute(0, 5, 1, 3, 4, 2)
    else:
        parts = x.unflatten(3, (2, 3)).permute(0, 3, 2, 4, 1).flatten(0, 1).flatten(1, 2)
        y = by_products(parts).unflatten(0, (len(x), 2)).unflatten(2, (5, 3)).permute(0, 4, 2, 1, 3)
    return y.reshape(x.shape)


def smaller_keys(x: Tensor) -> Tensor:
    """Return attention to pixels of a pooled image, whose keys and values all heads share."""
    q = F.conv2d(x, _out[:, :, None, None].to(x)).flatten(2).unflatten(1, (3, 4)).transpose(-1, -2)
    small = F.avg_pool2d(x, 2)
    k, v = (small[:, i : i + 4].flatten(2).transpose(1, 2).unsqueeze(1) for i in (0, 5))
    return together(F.scaled_dot_product_attention(q, k, v)).transpose(1, 2).reshape(x.shape)


def with_a_token(x: Tensor) -> Tensor:
    """Return a transformer's block on tokens beside a class token, with embedded positions."""
    y = torch.cat([_token.to(x).expand(len(x), -1, -1), tokens(x)], 1) + _positions.to(x)
    y = y + F.linear(together(F.scaled_dot_product_attention(*apart(y))), _out.to(x), _vector.to(x))
    return y + F.linear(F.gelu(F.linear(y, _qkv.to(x))), _qkv.t().to(x)) * _vector.to(x)


def block(x: Tensor) -> Tensor:
    """Return a transformer's block between convolutions."""
    y = tokens(x)
    q, k, v = apart(F.layer_norm(y, (12,), _vector.to(x)))
    y = y + together(F.scaled_dot_product_attention(q, k, v))
    return F.conv2d(image(y), _out[:, :, None, None].to(x)).relu()


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "attention": lambda x: image(together(F.scaled_dot_product_attention(*apart(tokens(x))))),
    "attention scaled": lambda x: together(F.scaled_dot_product_attention(*apart(tokens(x)), scale=0.2)),
    "attention with a bias": lambda x: together(
        F.scaled_dot_product_attention(*apart(tokens(x)), attn_mask=_scores.to(x))
    ),
    "attention with a mask": lambda x: together(
        F.scaled_dot_product_attention(*apart(tokens(x)), attn_mask=_mask.to(x))
    ),
    "attention of three heads by products": lambda x: image(by_products(tokens(x))),
    "attention by products with a bias, scaled twice": lambda x: by_products(tokens(x), _scores, 0.7),
    "attention by products with one bias for all heads": lambda x: by_products(tokens(x), _mask),
    "attention, channels first": turned,
    "attention in windows": lambda x: windows(x, grid=False),
    "attention in interleaved windows": lambda x: windows(x, grid=True),
    "attention to fewer keys of one head": smaller_keys,
    "a class token alone": lambda x: with_a_token(x)[:, 0],
    "all tokens": with_a_token,
    "tokens without the first": lambda x: image(with_a_token(x)[:, 1:]),
    "mean of tokens": lambda x: with_a_token(x).mean(1),
    "a block of tokens": block,
    "scores": lambda x: apart(tokens(x))[0] @ apart(tokens(x))[1].transpose(-2, -1),
    "scores and shares": lambda x: (apart(x[:, :, 0].transpose(1, 2))[0] @ _out[:6, :7].to(x)).softmax(-1),
    "tokens normalised": lambda x: F.batch_norm(
        F.linear(tokens(x), _out.to(x)).flatten(0, 1), _vector.to(x), _vector.to(x), eps=0.1
    ),
    "linear of heads": lambda x: F.linear(tokens(x).unflatten(2, (3, 4)), _out[:5, :4].to(x)),
    "gated channels": lambda x: F.glu(x, 1),
    "gated tokens": lambda x: F.glu(tokens(x), -1),
    "attention of a query of the model's": lambda x: together(
        F.scaled_dot_product_attention(_queries.to(x).expand(len(x), -1, -1, -1), *apart(tokens(x))[1:])
    ),
    "pixels as channels": lambda x: F.linear(x.flatten(2), _scores[0].to(x)),
    "products of images": lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
    "products with another image's": lambda x: x.flatten(2).flip(0).transpose(1, 2) @ x.flatten(2),
    "tokens first": lambda x: tokens(x).transpose(0, 1).relu() + _vector.to(x),
    "channel by channel of rows": lambda x: (x.permute(0, 2, 3, 1) + torch.arange(6.0)[:, None].to(x)) * 2,
}
"""By what they are; some of them stay with PyTorch, in part or as a whole."""
