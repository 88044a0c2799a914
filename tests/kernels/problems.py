"""Random problems of every kind: awkward sizes, slices of wider tensors, halos wider than needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from regroup.kernels import problems as p
from regroup.kernels.problems.dynamic import DynamicConv, Largest
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.templates.halo import Zeros
from tests.kernels import attention as attentions
from tests.kernels.reference import ACTIVATION

_NO_HALO = Halo()

EXACT = ("none", "relu", "relu6")
"""Activations that do not round."""


def view(rng: Random, height: int, width: int, channels: int, halo: Halo = _NO_HALO) -> View:
    """Return a channels-last view, often a slice of wider pixels, with at least `halo` around it."""
    if rng.random() < 0.4:
        halo = halo.union(Halo(*(rng.randint(0, 3) for _ in range(4))))
    pitch = channels + rng.choice((0, 0, 1, 4, 13))
    made = View.nhwc(height, width, channels, halo=halo, pitch=pitch)
    return replace(made, row_pitch=made.row_pitch + rng.choice((0, 0, 0, 5)))


def sides(rng: Random, most: int) -> list[int]:
    """Return height and width of an image, small mostly, some as long in one direction as lines of text."""
    size = [rng.randint(1, most), rng.randint(1, most)]
    if rng.random() < 0.2:
        size[rng.randrange(2)] = rng.randint(most, 300)
    return size


def epilogue(rng: Random, y: View, exact: bool) -> p.Epilogue:
    """Return an epilogue for output `y`."""
    residual, scale = None, 1
    if rng.random() < 0.3:
        scale = rng.choice((1, 1, 2))
        residual = view(rng, -(-y.height // scale), -(-y.width // scale), y.channels)
    slope = View.vector(y.channels) if rng.random() < 0.2 else None
    kinds = EXACT if exact else list(ACTIVATION)
    return p.Epilogue(
        bias=rng.random() < 0.6,
        activation=rng.choice(kinds) if slope is None and rng.random() < 0.6 else "none",
        residual=residual,
        residual_first=rng.random() < 0.6,
        residual_scale=scale,
        gate=View.vector(y.channels) if rng.random() < 0.15 else None,
        slope=slope,
    )


def prologue(rng: Random, x: View, exact: bool) -> p.Prologue:
    """Return a prologue for input `x`."""
    return p.Prologue(
        affine=not exact and rng.random() < 0.6,
        activation=rng.choice(EXACT),
        gate=View.vector(x.channels) if rng.random() < 0.3 else None,
    )


def conv(rng: Random, exact: bool, groups: tuple[int, int, int] | None = None) -> p.Conv:
    """Return a convolution; `groups` is (groups, inputs of one, outputs of one)."""
    count, group_in, group_out = groups or (1, rng.choice((1, 2, 3, 5, 8, 16, 24, 33)), rng.randint(1, 70))
    k, s, d = (
        tuple(rng.choice(c) for _ in range(2)) for c in ((1, 1, 2, 3, 3, 4), (1, 1, 2, 3), (1, 1, 1, 2))
    )
    pad = tuple(rng.randint(0, (k[i] - 1) * d[i]) for i in range(2))
    if groups is None and rng.random() < 0.4:
        k, s, pad = (1, 1), (rng.choice((1, 1, 2)),) * 2, (0, 0)
    size = tuple(rng.randint(1, 18) for _ in range(2))
    size = tuple(max(size[i], (k[i] - 1) * d[i] + 1 - pad[i]) for i in range(2))
    after = tuple(rng.randint(0, pad[i]) for i in range(2))
    out = tuple((size[i] + pad[i] + after[i] - (k[i] - 1) * d[i] - 1) // s[i] + 1 for i in range(2))
    order = None
    stored = count * group_in
    if rng.random() < 0.3:
        stored = rng.randint(1, 2 * count * group_in)
        order = tuple(rng.randrange(stored) for _ in range(count * group_in))
    elif count > 1 and rng.random() < 0.4:
        order = _side_by_side(rng, count, group_in)
    y = view(rng, *out, count * group_out)
    bare = View.nhwc(*size, stored)
    made = p.Conv(bare, y, kernel_size=k, stride=s, padding=pad, dilation=d, groups=count, order=order)
    before = p.Prologue()
    planar = stored <= 8 and rng.random() < 0.4 and size != (1, 1)
    x = View.nchw(*size, stored) if planar else view(rng, *size, stored, made.x_halo)
    if k == (1, 1) and pad == (0, 0) and not planar and rng.random() < 0.4:
        before = prologue(rng, x, exact)
    return replace(made, x=x, prologue=before, epilogue=epilogue(rng, y, exact))


def winograd(rng: Random, exact: bool) -> p.Conv:
    """Return a 3x3 convolution of stride 1 whose channels are enough for Winograd's algorithm."""
    groups, inputs, outputs = rng.choice((1, 1, 1, 2, 3)), rng.randint(12, 40), rng.randint(12, 70)
    pad, after = ([rng.randint(0, 2) for _ in range(2)] for _ in range(2))
    size = [rng.randint(max(1, 3 - a - b), 18) for a, b in zip(pad, after, strict=True)]
    out = [n + a + b - 2 for n, a, b in zip(size, pad, after, strict=True)]
    stored, order = groups * inputs, None
    if groups == 1 and rng.random() < 0.3:
        stored = rng.randint(inputs // 2, inputs * 5 // 4)
        order = tuple(rng.randrange(stored) for _ in range(inputs))
    y = view(rng, *out, groups * outputs)
    bare = p.Conv(
        View.nhwc(*size, stored), y, kernel_size=(3, 3), padding=tuple(pad), groups=groups, order=order
    )
    return replace(bare, x=view(rng, *size, stored, bare.x_halo), epilogue=epilogue(rng, y, exact))


def _side_by_side(rng: Random, groups: int, inputs: int) -> tuple[int, ...]:
    """Return an order in which the j-th inputs of some neighbouring groups follow one another."""
    together, js = rng.choice((2, 4, 8, groups)), list(range(inputs))
    rng.shuffle(js)
    stored = sorted((g // together, js[j], g % together, j) for g in range(groups) for j in range(inputs))
    where = {(b * together + g, j): i for i, (b, _, g, j) in enumerate(stored)}
    return tuple(where[g, j] for g in range(groups) for j in range(inputs))


def grouped(rng: Random, exact: bool) -> p.Conv:
    """Return a convolution of several groups, narrow or wide."""
    widths = (1, 2, 3, 4, 5, 7, 8, 12, 17)
    return conv(rng, exact, (rng.choice((2, 3, 4, 4, 5, 8, 17)), rng.choice(widths), rng.choice(widths)))


def depthwise(rng: Random, exact: bool) -> p.Conv:
    """Return a depthwise convolution."""
    made = conv(rng, exact, (rng.randint(2, 70), 1, 1))
    return replace(made, order=None, x=made.x) if made.order is None else made


def linear(rng: Random, exact: bool) -> p.Linear:
    """Return a linear layer."""
    x, y = View.vector(rng.randint(1, 90)), View.vector(rng.randint(1, 90))
    order = (
        tuple(rng.randrange(x.channels) for _ in range(rng.randint(1, 60))) if rng.random() < 0.4 else None
    )
    after = replace(epilogue(rng, y, exact), residual=None, residual_scale=1)
    return p.Linear(x, y, p.Prologue(), after, order)


def pool(rng: Random, exact: bool) -> p.Pool:
    """Return a max or average pooling as PyTorch would allow it."""
    k, s = (tuple(rng.choice(c) for _ in range(2)) for c in ((1, 2, 3, 5), (1, 2, 2, 3)))
    pad = tuple(rng.randint(0, k[i] // 2) for i in range(2))
    size = tuple(max(side, k[i] - pad[i]) for i, side in enumerate(sides(rng, 18)))
    ceil = rng.random() < 0.4
    out = []
    for i in range(2):
        room = size[i] + 2 * pad[i] - k[i]
        count = (-(-room // s[i]) if ceil else room // s[i]) + 1
        out.append(count - 1 if ceil and (count - 1) * s[i] >= size[i] + pad[i] else count)
    channels = rng.randint(1, 40)
    return p.Pool(
        view(rng, *size, channels),
        view(rng, *out, channels),
        kind=rng.choice(("max", "average")),
        kernel_size=k,
        stride=s,
        padding=pad,
        count_include_pad=rng.random() < 0.5,
        padded=pad,
        divisor=rng.choice((0, 0, 0, 5)),
        activation=rng.choice(EXACT),
    )


def adaptive(rng: Random, exact: bool) -> p.AdaptivePool:
    """Return an adaptive pooling."""
    size, channels = sides(rng, 20), rng.randint(1, 70)
    out = [1, 1] if rng.random() < 0.4 else [rng.randint(1, 9) for _ in range(2)]
    kind = rng.choice(("average", "average", "max"))
    return p.AdaptivePool(view(rng, *size, channels), view(rng, *out, channels), kind)


def resize(rng: Random, exact: bool) -> p.Resize:
    """Return a resizing."""
    size, out = sides(rng, 20), sides(rng, 20)
    scale = (None, None)
    if rng.random() < 0.5:
        scale = (rng.choice((0.5, 1.05, 1.5, 2.0, 2.05, 3.0)), rng.choice((1.0, 1.7, 2.0, 4.0)))
        out = [max(1, int(n * factor)) for n, factor in zip(size, scale, strict=True)]
    channels, mode = rng.randint(1, 40), rng.choice(("nearest", "nearest-exact", "bilinear"))
    corners = mode == "bilinear" and rng.random() < 0.5
    return p.Resize(view(rng, *size, channels), view(rng, *out, channels), mode, corners, scale)


def pick(rng: Random, exact: bool) -> p.Pick:
    """Return pixels from anywhere, some filled with a constant."""
    size, out, channels = sides(rng, 12), sides(rng, 12), rng.randint(1, 40)
    filled = rng.choice((0, 0, 1))
    rows, columns = (
        tuple(rng.randrange(-filled * rng.randint(0, 1), n) for _ in range(count))
        for n, count in zip(size, out, strict=True)
    )
    return p.Pick(
        view(rng, *size, channels), view(rng, *out, channels), rows, columns, rng.choice((0.0, 1.5))
    )


def across(rng: Random, exact: bool) -> p.AcrossChannels:
    """Return one channel of all."""
    size = sides(rng, 9)
    kind = rng.choice(("sum", "max") if exact else ("average", "sum", "max"))
    return p.AcrossChannels(view(rng, *size, rng.randint(1, 70)), view(rng, *size, 1), kind)


def layer_norm(rng: Random, exact: bool) -> p.LayerNorm:
    """Return a norm of each pixel's channels."""
    size, channels = sides(rng, 6), rng.randint(2, 70)
    return p.LayerNorm(view(rng, *size, channels), view(rng, *size, channels), rng.choice((1e-5, 1e-3)))


def moments(rng: Random, exact: bool) -> p.Moments:
    """Return the moments of channels."""
    channels = rng.randint(1, 70)
    return p.Moments(view(rng, *sides(rng, 20), channels), View.vector(2 * channels))


def norm_scales(rng: Random, exact: bool) -> p.NormScales:
    """Return what the moments of groups make of those of channels."""
    groups, each = rng.randint(1, 9), rng.randint(1, 40)
    vector = View.vector(2 * groups * each)
    return p.NormScales(vector, vector, groups, rng.choice((1e-5, 1e-3)))


def modulate(rng: Random, exact: bool) -> p.Modulate:
    """Return scales and shifts that were computed."""
    size, channels = sides(rng, 9), rng.randint(1, 70)
    x, y = view(rng, *size, channels), view(rng, *size, channels)
    return p.Modulate(x, y, View.vector(2 * channels), rng.choice(EXACT))


def pointwise(rng: Random, exact: bool) -> p.Pointwise:
    """Return elementwise work, or a copy in another order or layout."""
    size, channels = sides(rng, 18), rng.randint(1, 40)
    order, stored = None, channels
    if rng.random() < 0.4:
        stored = rng.randint(1, 60)
        order = tuple(rng.randrange(stored) for _ in range(channels))
    x = View.nchw(*size, stored) if rng.random() < 0.2 else view(rng, *size, stored)
    if rng.random() < 0.2:
        return p.Pointwise(x, View.nchw(*size, channels), order=order)
    y = view(rng, *size, channels)
    factor = view(rng, *size, channels) if rng.random() < 0.3 else None
    return p.Pointwise(x, y, prologue(rng, y, exact), epilogue(rng, y, exact), order, factor)


def softmax(rng: Random, exact: bool) -> p.Softmax:
    """Return a softmax."""
    size, channels = [rng.randint(1, 6) for _ in range(2)], rng.randint(1, 70)
    return p.Softmax(view(rng, *size, channels), view(rng, *size, channels))


def attention(rng: Random, exact: bool) -> p.Attention:
    """Return an attention, of as many heads of keys as of queries or of one for all."""
    return attentions.attention(rng, view, rng.random() < 0.3)


def response_norm(rng: Random, exact: bool) -> p.LocalResponseNorm:
    """Return a local response normalisation."""
    size, channels = [rng.randint(1, 6) for _ in range(2)], rng.randint(1, 40)
    x, y = view(rng, *size, channels), view(rng, *size, channels)
    return p.LocalResponseNorm(x, y, rng.randint(1, 6), 0.02, rng.choice((0.5, 0.75, 1.0)), 2.0)


def block_float(rng: Random, exact: bool) -> p.BlockFloatingPoint:
    """Return a rounding of blocks of channels."""
    size, groups = sides(rng, 6), rng.choice((1, 1, 2, 3))
    channels = groups * rng.randint(1, 50)
    x, y = view(rng, *size, channels), view(rng, *size, channels)
    blocks = p.Blocks(channels, rng.randint(1, 70), rng.randint(2, 24), rng.randint(2, 8), groups)
    return p.BlockFloatingPoint(x, y, blocks)


def largest(rng: Random, exact: bool) -> Largest:
    """Return a choice of inputs by some heads."""
    heads, inputs = rng.randint(1, 5), rng.randint(1, 90)
    return Largest(View.vector(heads * inputs), View.vector(2 * heads * rng.randint(1, inputs)), heads)


def dynamic(rng: Random, exact: bool) -> DynamicConv:
    """Return a convolution of inputs chosen at run time."""
    heads = rng.randint(1, 5)
    made = conv(rng, exact, (1, rng.choice((1, 3, 8, 17, 60)), heads * rng.choice((1, 5, 8, 16, 24, 40))))
    x = view(rng, made.x.height, made.x.width, made.x.channels, made.x_halo)
    choice = View.vector(2 * heads * rng.randint(1, made.in_channels))
    return DynamicConv(
        x,
        made.y,
        choice,
        heads,
        made.kernel_size,
        made.stride,
        made.padding,
        made.dilation,
        made.order,
        made.epilogue,
    )


def halo(rng: Random, exact: bool) -> Zeros:
    """Return the zeroing of a halo."""
    y = view(
        rng,
        rng.randint(1, 9),
        rng.randint(1, 9),
        rng.randint(1, 40),
        Halo(*(rng.randint(0, 4) for _ in range(4))),
    )
    return Zeros(y, y)


def chain(rng: Random, exact: bool) -> p.Chain:
    """Return two or three links: 1x1, depthwise or narrow, 1x1, now and then with a residual."""
    links: list[p.Problem] = []
    height, width, channels = rng.randint(1, 20), rng.randint(1, 18), rng.randint(1, 24)
    x = view(rng, height, width, channels, Halo(6, 6, 6, 6) if rng.random() < 0.3 else _NO_HALO)
    count = rng.randint(2, 3)
    for i in range(count):
        source = links[-1].y if links else x
        last = i == count - 1
        k = rng.choice((1, 3, 5)) if x.halo.top >= 6 or links else 1
        s, d = (rng.choice((1, 1, 2)) if k > 1 else 1), 1
        out = [(size - 1) // s + 1 for size in (source.height, source.width)]
        groups = rng.choice((1, source.channels))
        outputs = source.channels if groups > 1 else rng.randint(1, 40)
        y = view(rng, *out, outputs)
        conv = p.Conv(
            source,
            y,
            kernel_size=(k, k),
            stride=(s, s),
            padding=(k // 2, k // 2),
            dilation=(d, d),
            groups=groups,
        )
        after = epilogue(rng, y, exact)
        inner = replace(after, residual=None, residual_scale=1, gate=None, slope=None)
        links.append(replace(conv, epilogue=after if last else inner))
    return p.Chain(x, links[-1].y, tuple(links), rng.choice((0, 1, 2, 3)))


MAKERS: dict[str, Callable[[Random, bool], p.Problem]] = {
    "conv": conv,
    "winograd": winograd,
    "grouped": grouped,
    "depthwise": depthwise,
    "linear": linear,
    "pool": pool,
    "adaptive": adaptive,
    "resize": resize,
    "pick": pick,
    "across": across,
    "layer_norm": layer_norm,
    "moments": moments,
    "norm_scales": norm_scales,
    "modulate": modulate,
    "pointwise": pointwise,
    "softmax": softmax,
    "attention": attention,
    "response_norm": response_norm,
    "block_float": block_float,
    "largest": largest,
    "dynamic": dynamic,
    "halo": halo,
    "chain": chain,
}
