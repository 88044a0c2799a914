"""Small models that do at random what Python code does in a `forward`, beside computing.

A model is a list of steps, each made of a few numbers, so that a failing one shrinks. Everything they compute
is an integer: two ways to compute it are equal to the last bit, or one is wrong.
"""

from __future__ import annotations

import random
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 5
"""Channels, height and width of every image, and one of the batch sizes: what confuses them is found."""

GLOBALS = {"total": 0}
COUNT = 0

Pair = namedtuple("Pair", "first second")


@dataclass
class Out:
    """A class that nobody has registered with PyTorch."""

    y: Tensor
    n: int


class Box:
    """An object with a slot."""

    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content = 0


Step = Callable[[Any, Tensor, Tensor, int], Tensor]
STEPS: list[Step] = []


def step(function: Step) -> Step:
    """Add a step: (model, the last value, another value, a number) -> a value."""
    STEPS.append(function)
    return function


def _is_image(x: Tensor) -> bool:
    return x.dim() == 4 and tuple(x.shape[1:]) == (SIDE,) * 3


def _alike(x: Tensor, y: Tensor) -> Tensor:
    return y if y.shape == x.shape else x


# ---- networks


@step
def _conv(s, x, y, n):
    return F.relu6(s.convs[n % 3](x)) if _is_image(x) else x + 1


@step
def _conv_again(s, x, y, n):
    return F.relu6(s.convs[n % 3](x)) if _is_image(x) else x - 1


@step
def _activation(s, x, y, n):
    return F.relu6(x) if n % 2 else F.max_pool2d(x, 3, 1, 1) if _is_image(x) else F.relu(x)


@step
def _add(s, x, y, n):
    return x + _alike(x, y)


@step
def _channels(s, x, y, n):
    if not _is_image(x):
        return x.flip(-1) if x.dim() else x
    a, b, *_ = x.split((2, 3), 1)
    return torch.cat([b, a], 1) if n % 2 else x[:, [4, 2, 0, 1, 3]]


@step
def _pixels(s, x, y, n):
    if not _is_image(x):
        return x.roll(1, -1) if x.dim() else x
    moved = (
        lambda: x.flip(2 + n % 2),
        lambda: x.roll((1, -2), (1 + n % 3, 3)),
        lambda: F.pad(x, (2, 0, 1, 1), ("reflect", "replicate")[n % 2])[:, :, 2:, :-2],
        lambda: F.pad(x, (-1, 2, 1, -1), value=float(n % 3))[..., 1:].repeat(1, 1, 1, 2)[..., :SIDE],
        lambda: torch.cat([x, _alike(x, y)], 2 + n % 2)[:, :, n % 2 and 0 : SIDE, :SIDE],
        lambda: x[..., [4, 4, 0, 2, 1]],
        lambda: x.transpose(1 + n % 2, 3),
        lambda: (
            F.pixel_shuffle(F.pad(x[:, :4], (1, 0, 1, 0)), 2).reshape(len(x), 1, 12, 12)[..., :SIDE, :SIDE]
            + x
        ),
        lambda: F.pixel_unshuffle(F.pad(x, (1, 0, 1, 0)), 2)[:, 3:8].sum(3, keepdim=True)[:, :, :1] + x,
    )
    return F.relu6(moved[n % len(moved)]())


@step
def _reduced(s, x, y, n):
    if not _is_image(x):
        return x
    dims = ((1,), (2,), (3,), (2, 3), (1, 3))[n % 5]
    small = (x.amax if n % 2 else x.sum)(dims, keepdim=True)
    return F.relu6((x - small, small - x, x + small, x * small)[n % 4])


@step
def _weights(s, x, y, n):
    bias = (s.convs[0].bias * 2).sum() + (s.plain if n % 2 else s.table[1])
    return x + bias


# ---- the batch size


@step
def _times_batch(s, x, y, n):
    return F.relu6(x * x.shape[0] if n % 2 else x * s.batch)


@step
def _plus_batch(s, x, y, n):
    sizes = (
        x.shape[0] if x.dim() else 1,
        len(s.image),
        x.numel() % 7,
        s.image.stride(0) % 3,
        s.image.size(0),
    )
    return x + sizes[n % 5]


@step
def _half_batch(s, x, y, n):
    return F.relu6(x) if s.batch > n % 6 else x - 1


@step
def _equals(s, x, y, n):
    return F.relu6(x) + 1 if s.batch == n % 6 else x


@step
def _loop(s, x, y, n):
    for i in range(s.batch):
        x = x + i * (n % 3)
    return x


@step
def _reshape(s, x, y, n):
    shapes = [(x.shape[0], -1), (-1, SIDE), (SIDE, -1), (1, -1), (s.batch, -1)] if x.numel() else [x.shape]
    shape = shapes[n % len(shapes)]
    known = int(np.prod([size for size in shape if size > 0]))
    return x.reshape(shape) if x.dim() and known and x.numel() % known == 0 else x


@step
def _to_image(s, x, y, n):
    return x.reshape(-1, SIDE, SIDE, SIDE) if x.numel() % SIDE**3 == 0 and x.numel() else x


@step
def _transpose(s, x, y, n):
    if x.dim() < 2:
        return x
    return x.transpose(0, 1) if n % 3 else x.transpose(-1, -2)


@step
def _flatten(s, x, y, n):
    return x.flatten(0, 1) if n % 2 and x.dim() > 1 else x.flatten(1) if x.dim() > 1 else x.flatten()


@step
def _squeeze(s, x, y, n):
    return x.squeeze() if n % 3 == 0 else x.squeeze(0) if n % 3 == 1 else x.unsqueeze(0)


@step
def _repeat(s, x, y, n):
    if x.dim() != 4 or x.numel() > 4000:
        return x
    return (x.repeat(2, 1, 1, 1), torch.cat([x, _alike(x, y)]), torch.stack([x, x]).flatten(0, 1), x)[n % 4]


@step
def _slices(s, x, y, n):
    if not x.dim() or not x.numel():
        return x
    return (x[:1], x[-1:], x[::2], x[: s.batch // 2 + 1], x[0:0] if n > 60 else x[0], x[n % len(x) :])[n % 6]


@step
def _across(s, x, y, n):
    if not x.dim() or not x.numel():
        return x
    return (x + x.sum(0, keepdim=True), x.flip(0), x.roll(1, 0), x - x.amax(0, keepdim=True))[n % 4]


@step
def _made(s, x, y, n):
    if x.dim() != 4:
        return x
    made = (torch.ones(x.shape[0], 1, 1, 1), x.new_full((x.shape[0], 1, 1, 1), 2), torch.zeros(1))
    return x + made[n % 3] if n % 4 else x + torch.arange(len(x)).view(-1, 1, 1, 1)


@step
def _images_in_turn(s, x, y, n):
    if not x.dim() or not len(x) or len(x) > 12:
        return x
    return torch.stack([x[i] + i for i in range(len(x))]) if n % 2 else torch.stack([*x.unbind(0)])


@step
def _permute(s, x, y, n):
    return x.permute((0, 2, 3, 1) if n % 2 else (0, 1, 3, 2)) if x.dim() == 4 else x


@step
def _matrix(s, x, y, n):
    rows = x.flatten(1) if x.dim() > 1 else x
    return F.relu6(rows @ rows.t()) if x.dim() > 1 and x.numel() and n % 3 == 0 else x


@step
def _tokens(s, x, y, n):
    """Tokens beside a class token or a constant for each, a linear layer on them, and perhaps back."""
    if not _is_image(x):
        return x
    rows = x.flatten(2).transpose(1, 2) if n % 2 else x.permute(0, 2, 3, 1).flatten(1, 2)
    if n % 3 == 0:
        rows = torch.cat([torch.arange(float(SIDE)).expand(len(x), 1, SIDE), rows], 1)[:, (n % 5 > 1) :]
    if n % 3 == 1:
        rows = rows + (torch.arange(len(rows[0])) % 4 - 1)[:, None]
    rows = F.relu6(F.linear(rows, s.convs[1].weight[:, :, 0, 0], s.convs[n % 2].bias))
    back = rows.transpose(1, 2)[..., -(SIDE**2) :].reshape(x.shape)
    return (back, rows, rows.amax(1), rows.flatten(0, 1), rows[:, 0], back)[n % 6]


@step
def _attend(s, x, y, n):
    """Attention whose scores are so far apart that one key gets everything: then it is exact."""
    if not _is_image(x):
        return x
    x, y = F.hardtanh(x, -4, 4), F.hardtanh(_alike(x, y), -4, 4)
    q, k, v = (
        F.conv2d(z, s.convs[1].weight[:, (0, 2, 1, 4, 3)]).repeat(1, 2, 1, 1)[:, : 2 * (2 + n % 4)]
        for z in (x, y, x)
    )
    if n % 3 == 1:
        k, v = k[:, :, : SIDE - 1], v[:, :, : SIDE - 1]
    if n % 5 == 1:  # rows are windows
        q, k, v = (
            z.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, (2, -1)).transpose(1, 2) for z in (q, k, k)
        )
    else:
        q, k, v = (z.flatten(2).unflatten(1, (2, -1)).transpose(2, 3) for z in (q, k, v))
    keys = k.shape[2]
    nearer = torch.arange(float(keys)).flip(0) * 256
    if n % 2:
        z = F.scaled_dot_product_attention(
            q, k, v, attn_mask=nearer.expand(1, 1, q.shape[2], keys), scale=256.0 * keys
        )
    else:
        z = ((q @ k.transpose(-2, -1)) * (256.0 * keys) + nearer).softmax(-1) @ v
    z = z.transpose(1, 2).flatten(2)
    if n % 5 == 1:
        return (
            F.relu6(z.reshape(len(x), SIDE, SIDE, -1).permute(0, 3, 1, 2))[:, :SIDE].amax(1, keepdim=True) + x
        )
    z = z.transpose(1, 2).reshape(len(x), -1, SIDE, SIDE)
    return F.relu6(z.amax(1, keepdim=True) + x) if n % 7 else z


@step
def _expand(s, x, y, n):
    one = x[:1]
    return x + one.expand_as(x) if x.dim() and x.numel() else x


# ---- state


@step
def _count(s, x, y, n):
    s.count += 1
    return x + s.count


@step
def _last(s, x, y, n):
    x, s.last = x if s.last is None else x + s.last.flatten()[:1].sum(), x
    return x


@step
def _log(s, x, y, n):
    s.log.append(n if n % 2 else tuple(x.shape))
    return x + len(s.log)


@step
def _cache(s, x, y, n):
    key = s.batch if n % 2 else "x"
    if key not in s.cache:
        s.cache[key] = x.sum() if n % 3 else s.batch
    return x + s.cache[key]


@step
def _buffer(s, x, y, n):
    if n % 3:
        s.total += 1
    else:
        s.total = s.total + 1
    return x + s.total


@step
def _same(s, x, y, n):
    s.same, s.names = s.convs[0].bias * 2, ["a", {"b": n % 2}]
    return x + s.same.sum()


@step
def _first_call(s, x, y, n):
    if not hasattr(s, "scale"):
        s.scale = torch.ones(1) * n if n % 2 else (x.sum() if n % 3 else s.batch)
    return x + s.scale


@step
def _class(s, x, y, n):
    type(s).calls = getattr(type(s), "calls", 0) + 1
    return x + type(s).calls


@step
def _closure(s, x, y, n):
    return x + s.tick(n % 3)


@step
def _global(s, x, y, n):
    global COUNT
    if n % 2:
        COUNT += 1
    else:
        GLOBALS["total"] += 1
    return x + COUNT + GLOBALS["total"]


@step
def _array(s, x, y, n):
    if n % 3 == 0:
        s.array += 1
    elif n % 3 == 1:
        s.plain.numpy()[...] += 1
    else:
        s.box.content += 1
    return x + float(s.array[0]) + s.plain + s.box.content


@step
def _set_and_undo(s, x, y, n):
    s.count += 1
    x = x + s.count
    s.count -= 1
    return x


@step
def _parameter(s, x, y, n):
    if n % 3 == 0:
        s.convs[1].bias.data = s.convs[1].bias.data + 1
    elif n % 3 == 1:
        s.convs[1].bias.add_(1)
    else:
        s.extra = nn.Parameter(torch.ones(1))
    return x


# ---- randomness


@step
def _random(s, x, y, n):
    draws = (
        lambda: torch.randint(5, (1,)),
        lambda: random.randrange(5),
        lambda: int(np.random.randint(5)),
        lambda: s.random.randrange(5),
        lambda: torch.randint_like(x, 3),
        lambda: next(s.iterator),
        lambda: int(s.numpy_random.integers(5)),
    )
    return x + draws[n % 7]()


@step
def _dropout(s, x, y, n):
    return F.dropout(x, 0.5, training=n % 5 == 0).round()


# ---- writing in place


@step
def _in_place(s, x, y, n):
    if n % 4 == 0:
        x += 1
    elif n % 4 == 1:
        x.relu_()
    elif n % 4 == 2 and x.dim() and len(x):
        x[0] = n
    elif x.dim() > 1:
        x[:, :2] += 1
    return x


@step
def _copy_in_place(s, x, y, n):
    copies = (x.clone, lambda: x + 0, x.contiguous, lambda: x.reshape(x.shape), x.detach)
    copy = copies[n % 5]()
    copy.mul_(2 if n % 2 else 1).add_(1)
    return copy


@step
def _view_in_place(s, x, y, n):
    if x.dim() < 2 or not x.numel():
        return x
    views = (x.transpose(0, 1), x[:1], x.transpose(0, 1).contiguous(), x.transpose(-1, -2), x.unsqueeze(0))
    views[n % 5].add_(1)
    return x


@step
def _reshape_input(s, x, y, n):
    if n % 4 == 0:
        s.image.unsqueeze_(0).squeeze_(0)
    elif n % 4 == 1:
        s.image.transpose_(2, 3)
    elif n % 4 == 2:
        s.image.data = s.image.data + 1
    return x


# ---- numbers


@step
def _numbers(s, x, y, n):
    if not x.numel():
        return x
    looks = (
        lambda: x if x.sum() > 0 else -x,
        lambda: x + float(x.max()),
        lambda: torch.from_numpy(x.detach().numpy() + 1),
        lambda: torch.tensor(x.tolist()),
        lambda: x + x.amax().item(),
        lambda: x[x > 0][:7],
        lambda: x.clone() if x.is_contiguous() else x + 1,
        lambda: torch.as_tensor(np.asarray(x) + 1),
    )
    return looks[n % 8]()


@step
def _fail(s, x, y, n):
    if s.batch == n % 9:
        raise ValueError(f"no batch of {n % 9}")
    return x


# ---- results

RESULTS: list[Callable[[Any, Tensor, Tensor], Any]] = [
    lambda s, x, y: x,
    lambda s, x, y: x,
    lambda s, x, y: (x, y),
    lambda s, x, y: {"x": x, "n": s.batch, "shape": x.shape},
    lambda s, x, y: [x, (x, None, {"y": y})],
    lambda s, x, y: Pair(x, s.batch + 0.5),
    lambda s, x, y: Out(x, s.batch),
    lambda s, x, y: (x, s.total, s.convs[0].bias),
    lambda s, x, y: (x, s.total * 2, torch.ones(2), torch.zeros(s.batch)),
    lambda s, x, y: (x, s.image),
    lambda s, x, y: (x, s.image.flatten(1)),
    lambda s, x, y: (x, x.flatten()),
    lambda s, x, y: tuple(x.unbind(0)) if x.dim() and len(x) < 9 else x,
    lambda s, x, y: OrderedDict(b=x, a=x + 1),
    lambda s, x, y: s.log if s.log else x,
    lambda s, x, y: (s.total[:1], x, s.plain),
    lambda s, x, y: (x, x.clone(), x + 0),
    lambda s, x, y: x.chunk(2, -1) if x.dim() and x.shape[-1] > 1 else x,
    lambda s, x, y: None,
    lambda s, x, y: {s.batch: x},
]


def _noted(s, module, args, result):
    s.log.append(tuple(result.shape))


def _kept(s, module, args, result):
    s.last = result


def _doubled(s, module, args, result):
    return result * 2


HOOKS: list[Callable | None] = [None] * 12 + [_noted, _kept, _doubled]


def make(program: list[tuple[int, int, int]], result: int, hook: int, seed: int = 0) -> nn.Module:
    """Return a model with a class and closures of its own."""
    ticks = 0

    def tick(n: int) -> int:
        nonlocal ticks
        ticks += n
        return ticks

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(
                [
                    nn.Conv2d(SIDE, SIDE, 3, padding=1),
                    nn.Conv2d(SIDE, SIDE, 1),
                    nn.Conv2d(SIDE, SIDE, 3, 1, 1, groups=SIDE),
                ]
            )
            self.register_buffer("total", torch.zeros(2)[:1].clone())
            self.count, self.last, self.log, self.cache = 0, None, [], {}
            self.plain, self.table, self.array = torch.zeros(1), {1: torch.ones(1)}, np.zeros(1)
            self.box, self.tick, self.random = Box(), tick, random.Random(seed)
            self.numpy_random, self.iterator = np.random.default_rng(seed), None
            if any(STEPS[what % len(STEPS)] is _random for what, _, _ in program):
                self.iterator = iter(range(10**9))

        def forward(self, x: Tensor) -> Any:
            self.image, self.batch = x, x.shape[0]
            try:
                values = [x]
                for what, which, number in program:
                    values.append(
                        STEPS[what % len(STEPS)](self, values[-1], values[which % len(values)], number)
                    )
                return RESULTS[result % len(RESULTS)](self, values[-1], values[-1 - result % len(values)])
            finally:
                del self.image, self.batch

    model = Model().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=generator).float())
    if HOOKS[hook % len(HOOKS)] is not None:
        chosen = HOOKS[hook % len(HOOKS)]
        model.convs[0].register_forward_hook(lambda module, args, y: chosen(model, module, args, y))
    return model
