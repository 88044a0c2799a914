"""What attention means, in float64 by its definition, and how far rounding may take it; random problems."""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor

from regroup.kernels import problems as p
from regroup.kernels.problems.view import View
from regroup.ops.bounds import unit_roundoff

U = unit_roundoff(torch.float32)


def expected(
    problem: p.Attention, tensors: dict[str, Tensor], parameters: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the result, and how far off it may be: a score's error is a relative one of its power."""
    queries, keys, values = (tensors[name].double().flatten(1) for name in ("x", "keys", "values"))
    result = torch.zeros(problem.y.channels, queries.shape[1], dtype=torch.float64)
    error = result.clone()
    bias = parameters.get("bias", torch.zeros(1, 1, 1, 1)).double()
    bias = bias.expand(len(problem.queries.windows), problem.heads, *bias.shape[2:])
    for w, (mine, theirs) in enumerate(zip(problem.queries.windows, problem.tokens.windows, strict=True)):
        ns, ms = (torch.tensor([first + n for n in tokens.pixels])
                  for first, tokens in ((mine, problem.queries), (theirs, problem.tokens)))  # fmt: skip
        for head in range(problem.heads):
            q = queries[head * problem.depth : (head + 1) * problem.depth][:, ns]
            k, v = (
                (whole if len(whole) == one else whole[head * one : (head + 1) * one])[:, ms]
                for whole, one in ((keys, problem.depth), (values, problem.width))
            )
            scores = problem.scale * q.T @ k + bias[w, head]
            off = U * ((problem.depth + 2) * abs(problem.scale) * q.abs().T @ k.abs() + 2 * scores.abs())
            off = off + U * (8 + 4 * (scores - scores.amax(1, keepdim=True)).abs())
            share = scores.softmax(1)
            if problem.safe:
                share = torch.where(scores.isneginf().all(1, keepdim=True), 0.0, share)
            y, size = share @ v.T, share @ v.abs().T
            whole = (share * off) @ v.abs().T + (share * off).sum(1, keepdim=True) * size
            rows = slice(head * problem.width, (head + 1) * problem.width)
            result[rows, ns], error[rows, ns] = y.T, (whole + (2 * len(ms) + 8) * U * size).T
    shape = (problem.y.channels, problem.y.height, problem.y.width)
    return result.view(shape), error.view(shape)


def tokens(rng: Random, image: View, down: int, across: int) -> p.Tokens:
    """Return windows of an image, `down` x `across` of them, beside one another or interleaved."""
    high, wide = image.height // down, image.width // across
    if rng.random() < 0.5:
        windows = [(r * high, c * wide) for r in range(down) for c in range(across)]
        pixels = [(r, c) for r in range(high) for c in range(wide)]
    else:
        windows = [(r, c) for r in range(down) for c in range(across)]
        pixels = [(r * down, c * across) for r in range(high) for c in range(wide)]
    return p.Tokens(*(tuple(r * image.width + c for r, c in of) for of in (windows, pixels)))


def attention(rng: Random, view: object, shared: bool) -> p.Attention:
    """Return an attention; `view` makes views."""
    heads, depth, width = rng.randint(1, 4), rng.randint(1, 40), rng.randint(1, 40)
    down, across = rng.choice(((1, 1), (1, 1), (2, 1), (2, 3)))
    sizes = [(down * rng.randint(1, 6), across * rng.randint(1, 7)) for _ in range(2)]
    if rng.random() < 0.2:
        sizes[1] = (down, across * rng.randint(100, 200))
    of = 1 if shared else heads
    x, keys, values, y = (
        view(rng, *size, channels)
        for size, channels in (
            (sizes[0], heads * depth), (sizes[1], of * depth),
            (sizes[1], of * width), (sizes[0], heads * width),
        )
    )  # fmt: skip
    queries, looked_at = tokens(rng, x, down, across), tokens(rng, keys, down, across)
    shape = (rng.choice((1, down * across)), rng.choice((1, heads)))
    bias = (*shape, len(queries.pixels), len(looked_at.pixels)) if rng.random() < 0.4 else ()
    scale = rng.choice((1.0, depth**-0.5, -0.3))
    return p.Attention(x, y, keys, values, heads, scale, queries, looked_at, bias, rng.random() < 0.5)
