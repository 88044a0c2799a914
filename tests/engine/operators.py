"""Calls of PyTorch's operators to compile: its own samples (OpInfo), and ours for what they leave out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from regroup.engine.frontend.arrangements import RULES, SCORES
from regroup.engine.frontend.capture import capture
from regroup.engine.frontend.recognise import recognise
from regroup.engine.graph import Torch
from regroup.engine.operators import OPERATORS, pixels
from regroup.engine.operators.select import MOVES
from regroup.errors import EngineError
from regroup.ops.dynamic import dynamic_conv
from regroup.ops.shifted import shifted_conv
from tests.engine import tokens
from tests.engine.models import BATCH, channels_last, taken_apart

_aten = torch.ops.aten


class Call(nn.Module):
    """An operator on one unknown tensor; all other arguments are constants.

    Attributes:
        name: what to call it.
        x: a tensor to call it with.
    """

    def __init__(self, name: str, function: Callable, x: Tensor, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.name, self.x = name, x
        self._function, self._args, self._kwargs = function, args, kwargs
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self._function(x, *self._args, **self._kwargs)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Call:
        """Return the call with `change` done to its tensors of real numbers."""

        def one(value: object) -> object:
            return change(value) if isinstance(value, Tensor) and value.is_floating_point() else value

        args, kwargs = pytree.tree_map(one, (self._args, self._kwargs))
        return Call(self.name, self._function, change(self.x), *args, **kwargs)

    def operators(self) -> tuple[set[str], set[str]]:
        """Return the names of the operators that it is recorded as, and of those recognised among them."""
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                batch = BATCH
                graph = capture(self, [self.x], batch).graph
            except EngineError:  # other arguments are of the sample's batch size
                try:
                    batch = len(self.x)
                    graph = capture(self, [self.x], batch).graph
                except EngineError:
                    return set(), set()
        before = {node: node.op.function.name() for node in graph.nodes}
        recognise(graph, batch)
        left = {node for node in graph.nodes if isinstance(node.op, Torch)}
        return set(before.values()), {name for node, name in before.items() if node not in left}


CLAIMED = tuple(
    sorted(
        {*OPERATORS, *MOVES}
        | {name if "::" in name else f"aten::{name}" for name in (*pixels.MOVES, *RULES, *SCORES)}
    )
)
"""Every operator that the engine takes from PyTorch: what is added there is swept."""

OPINFO_NAMES = {
    "convolution": ("nn.functional.conv2d", "nn.functional.conv1d"),
    "native_batch_norm": ("nn.functional.batch_norm",),
    "max_pool2d_with_indices": ("nn.functional.max_pool2d",),
    "_adaptive_avg_pool2d": ("nn.functional.adaptive_avg_pool2d",),
    "adaptive_max_pool2d": ("nn.functional.adaptive_max_pool2d",),
    "upsample_nearest2d": ("nn.functional.interpolate", "nn.functional.upsample_nearest"),
    "_upsample_nearest_exact2d": ("nn.functional.interpolate",),
    "upsample_bilinear2d": ("nn.functional.upsample_bilinear", "nn.functional.interpolate"),
    "constant_pad_nd": ("nn.functional.pad",),
    "_softmax": ("softmax", "nn.functional.softmin"),
    "_safe_softmax": ("nn.functional.scaled_dot_product_attention",),
    "_scaled_dot_product_flash_attention_for_cpu": ("nn.functional.scaled_dot_product_attention",),
    "glu": ("nn.functional.glu",),
    "clamp_min": ("clamp",),
    "split_with_sizes": ("split_with_sizes", "split"),
    "unsafe_view": ("view", "reshape", "flatten"),
    "hardtanh": ("nn.functional.hardtanh", "nn.functional.relu6"),
    "addmm": ("addmm", "nn.functional.linear"),
    "prelu": ("nn.functional.prelu",),
    "native_group_norm": ("nn.functional.group_norm", "nn.functional.instance_norm"),
    "native_layer_norm": ("nn.functional.layer_norm",),
    "reflection_pad2d": ("nn.functional.pad",),
    "replication_pad2d": ("nn.functional.pad",),
    "pixel_shuffle": ("nn.functional.pixel_shuffle",),
    "pixel_unshuffle": ("nn.functional.pixel_unshuffle",),
}
"""Where PyTorch's samples have another name than the operator that they are recorded as."""


@cache
def opinfos(claimed: str) -> tuple[Any, ...]:
    """Return PyTorch's entries for an operator."""
    from torch.testing._internal.common_methods_invocations import op_db

    base = claimed.split("::")[1].split(".")[0].removesuffix("_copy")
    names = OPINFO_NAMES.get(base.removeprefix("_kernel_"), (base,))
    return tuple(op for op in op_db if op.name in names or op.name.split(".")[-1] in names)


def samples(claimed: str, most: int, rng: Random) -> Iterator[Call]:
    """Yield at most that many of PyTorch's own samples on real numbers."""
    for op in opinfos(claimed):
        torch.manual_seed(rng.randrange(1 << 30))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = list(op.sample_inputs("cpu", torch.float32))
        tensors = [s for s in found if isinstance(s.input, Tensor) and s.input.dtype == torch.float32]
        plain = [s for s in tensors if s.input.dim() and s.input.layout == torch.strided]
        for sample in rng.sample(plain, min(most, len(plain))):
            yield Call(
                f"{op.name} {op.variant_test_name}", op.op, sample.input, *sample.args, **sample.kwargs
            )


_TRANSPOSED = [
    (torch.rand(12, 5, 2, 2), (torch.rand(5), 2)),
    (torch.rand(12, 3, 3, 3), (None, 2, 1, 1)),
    (torch.rand(12, 4, 4, 4), (None, 2, 1)),
    (torch.rand(12, 2, 3, 3), (None, 1, 1, 0, 6)),
    (torch.rand(12, 1, 3, 5), (None, (3, 2), (0, 2), (2, 0), 12)),
    (torch.rand(12, 8, 3, 3), (None, 2, 2, 0, 4, 3)),
    (torch.rand(12, 6, 1, 3), (None, 2)),
    (torch.rand(12, 6, 5, 5), (None, 1, 4, 0, 1, 2)),
]
"""Weights and other arguments: strides, paddings, extra pixels, groups, dilations; one that is PyTorch's.

None is negative: then the results for positive images say how far rounding may lead.
"""


def ours() -> list[Call]:
    """Return calls on images and vectors with what PyTorch's samples leave out."""
    torch.manual_seed(0)
    image, vector, pixel = torch.randn(3, 12, 5, 6), torch.randn(3, 12), torch.randn(3, 12, 1, 1)
    per_channel = torch.randn(12, 1, 1)
    order, slopes = torch.randperm(12), torch.randn(12)
    norm = torch.randn(12), torch.rand(12) + 0.1, torch.randn(12), torch.randn(12)
    everywhere: dict[str, Callable] = {
        "relu": F.relu,
        "relu6": F.relu6,
        "silu": F.silu,
        "hardswish": F.hardswish,
        "hardsigmoid": F.hardsigmoid,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "gelu": F.gelu,
        "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
        "mish": F.mish,
        "selu": F.selu,
        **{f"elu {a}": lambda x, a=a: F.elu(x, a) for a in (1.0, 0.3, -0.5)},
        **{f"celu {a}": lambda x, a=a: F.celu(x, a) for a in (1.0, 0.3)},
        **{
            f"softplus {b} {t}": lambda x, b=b, t=t: F.softplus(x, b, t)
            for b, t in ((1, 20), (3, 1), (0.5, 0))
        },
        **{f"leaky_relu {s}": lambda x, s=s: F.leaky_relu(x, s) for s in (0.01, 0.2, 0.0, 1.0, -0.5, 3.0)},
        **{f"prelu {n}": lambda x, n=n: F.prelu(x, slopes[:n].to(x)) for n in (1, 12)},
        **{
            f"hardtanh {low} {high}": lambda x, low=low, high=high: F.hardtanh(x, low, high)
            for low, high in ((-1.0, 1.0), (0.0, 6.0), (0.0, 1.0), (-0.5, 2.5), (0.3, 0.3))
        },
        **{
            f"clamp {low} {high}": lambda x, low=low, high=high: x.clamp(low, high)
            for low, high in ((None, 0.5), (0, None), (-0.25, None), (-1, 1), (1.0, -1.0), (0, 6))
        },
        "clamp_min 0": lambda x: torch.clamp_min(x, 0),
        "clamp_min": lambda x: torch.clamp_min(x, -0.5),
        "clamp_max": lambda x: torch.clamp_max(x, 0.5),
        **{f"add {n}": lambda x, n=n: x + n for n in (1, -2.5, 1e-9, 1e30)},
        **{f"mul {n}": lambda x, n=n: x * n for n in (2, 0, -0.1, 1e-30)},
        **{f"div {n}": lambda x, n=n: x / n for n in (3, -0.7, 1e30)},
        "div floor": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
        "reverse": lambda x: 1 - x,
        "sub": lambda x: x - 0.3,
        "sub alpha": lambda x: torch.sub(x, 0.5, alpha=3),
        "add alpha": lambda x: torch.add(x, x.relu(), alpha=2),
        "add own": lambda x: x + x,
        "add": lambda x: x + x.relu(),
        "subtract": lambda x: x - x.relu(),
        "multiply": lambda x: x * x.relu(),
        "square": lambda x: x * x,
        "squared": lambda x: x.relu() ** 2 + x**3,
        "divide": lambda x: x / (x.relu() + 1),
        "cat": lambda x: torch.cat([x, x.relu(), x], 1),
        "cat of one": lambda x: torch.cat([x], 1),
        "cat last": lambda x: torch.cat([x, x.relu()], -1),
        "chunk": lambda x: x.relu().chunk(5, 1),
        "split": lambda x: x.relu().split((1, 4, 7), 1),
        "flip": lambda x: x.flip(1),
        "index": lambda x: x[:, torch.tensor([3, 3, 0, -1])],
        "index_select": lambda x: x.index_select(1, torch.tensor([3, 3, 0])),
        "slice": lambda x: x.relu()[:, 2:11:3],
        "slice negative": lambda x: x[:, -4:-1].relu(),
        "select": lambda x: x.relu().select(1, -2),
        "unbind": lambda x: x.relu().unbind(1)[3],
        "flatten": lambda x: x.relu().flatten(1),
        "flatten and join": lambda x: torch.cat([x.flatten(1), x.flatten(1).relu(), x.flatten(1)], 1),
        "softmax": lambda x: x.softmax(1),
        "mean": lambda x: x.mean(1),
        "overloads for numbers": lambda x: _aten.sub.Scalar(
            _aten.div.Scalar(_aten.mul.Scalar(_aten.add.Scalar(x, 0.5), 3.0), 0.7), 0.1
        ),
        "multiple of a number subtracted": lambda x: _aten.sub.Scalar(x, 0.1, 2),
        "view without a check": lambda x: _aten._unsafe_view(x.relu(), [len(x), -1]),
        "gradient": lambda x: torch.gradient(x.relu(), dim=1)[0],
        "clone": lambda x: x.clone(),
        "alias": lambda x: torch.ops.aten.alias(x).relu(),
        "contiguous": lambda x: x.contiguous(),
        "detach": lambda x: x.detach(),
    }
    images: dict[str, Callable] = {
        "per channel": lambda x: (x + per_channel) * per_channel,
        "per channel divided": lambda x: x / per_channel,
        "per channel of another rank": lambda x: x * per_channel[None],
        "broadcast": lambda x: x + torch.arange(float(x.shape[-1])),
        "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
        "gate first": lambda x: x.mean((2, 3), keepdim=True) * x,
        "grown": lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4),
        "mean flat": lambda x: x.mean((2, 3)),
        "mean of negative dims": lambda x: x.mean((-1, -2)),
        "mean of rows": lambda x: x.mean(2),
        "mean of all": lambda x: x.mean((1, 2, 3)),
        "batch norm": lambda x: F.batch_norm(x, *(n.to(x) for n in norm)),
        "batch norm without weights": lambda x: F.batch_norm(x, *(n.to(x) for n in norm[:2]), eps=0.3),
        "instance statistics": lambda x: F.instance_norm(x),
        **{
            f"block floating point {form}": lambda x, form=form: torch.ops.regroup.block_floating_point(
                x, *form
            )
            for form in ((5, 6, 5, 2), (32, 3, 2, 1), (4, 24, 7, 3), (3, 8, 8, 1))
        },
        "shuffle": lambda x: x.view(-1, 3, 4, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
        "permuted": lambda x: x.view(-1, 2, 6, *x.shape[2:]).permute(0, 2, 1, 3, 4).flatten(1, 2),
        "channel_shuffle": lambda x: F.channel_shuffle(x, 3),
        "native_channel_shuffle": lambda x: F.native_channel_shuffle(x, 4),
        "planes apart": lambda x: x.relu().view(-1, 3, 4, *x.shape[2:]).unbind(1)[2],
        "planes selected": lambda x: x.relu().view(-1, 3, 4, *x.shape[2:]).select(2, 1),
        "same shape": lambda x: x.relu().expand(-1, -1, -1, -1).squeeze(1).relu(),
        "convolution of regroup": lambda x: torch.ops.regroup.convolution(
            x, torch.ones(6, 4, 3, 2).to(x), None, (1, 2), (1, 0), (2, 1), 3
        ),
        **{
            f"transposed {i}": lambda x, w=w, o=o: F.conv_transpose2d(x, w.to(x), *o)
            for i, (w, o) in enumerate(_TRANSPOSED)
        },
        "legit norm": lambda x: _aten._native_batch_norm_legit_no_training(
            x, norm[2].to(x), norm[3].to(x), norm[0].to(x), norm[1].to(x), 0.1, 1e-3
        )[0],
        "transposed": lambda x: x.relu().transpose(2, 3),
        "channels at the end": lambda x: x.relu().permute(0, 2, 3, 1),
        "pad": lambda x: F.pad(x, (1, 2, 3, 0)),
        "pad with ones": lambda x: F.pad(x, (1, 1), value=1.0),
        "crop": lambda x: F.pad(x, (-1, 0, 0, 0)),
        "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)),
        "index_add": lambda x: torch.zeros_like(x).index_add(1, order, x),
        "channels of a vector": lambda x: F.conv2d(
            x.flatten(1)[..., None, None], torch.ones(2, 360, 3, 3).to(x), padding=1
        ),
        "rows": lambda x: x.relu()[:, :, 1:],
        "columns": lambda x: x.relu()[..., ::2],
        "one row": lambda x: x.relu().select(2, 0),
        "squeezed": lambda x: x.mean((2, 3), keepdim=True).squeeze(3).squeeze(2),
        "unsqueezed": lambda x: x.mean((2, 3)).unsqueeze(2).unsqueeze(3),
        "maximum": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
        "maximum dilated": lambda x: F.max_pool2d(x, 2, 1, 0, dilation=2),
        "maximum and indices": lambda x: F.max_pool2d(x, 2, return_indices=True),
        "average": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        "average divided": lambda x: F.avg_pool2d(x, (2, 3), divisor_override=7),
        "cells": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
        **{
            f"resized {mode}": lambda x, mode=mode: F.interpolate(x, scale_factor=(1.7, 0.6), mode=mode)
            for mode in ("nearest", "nearest-exact", "bilinear", "bicubic")
        },
        "squeezed at once": lambda x: x.mean((2, 3), keepdim=True).squeeze((2, 3)),
        **{
            f"padded {mode}": lambda x, mode=mode: F.pad(x, (1, 2, 3, 0), mode)
            for mode in ("reflect", "replicate")
        },
        "padded with a number and cropped": lambda x: F.pad(x, (1, -2, -1, 3), value=-0.5),
        "pixels turned": lambda x: x.relu().flip(2, 3).roll((1, -2), (2, 3)),
        "channels and pixels rolled": lambda x: x.roll((1, 1), (1, 2)),
        "channels and pixels flipped": lambda x: x.flip(1, 2),
        "rows apart": lambda x: x.relu().split(2, 2),
        "columns apart": lambda x: x.split((1, 3, 2), 3),
        "columns chosen": lambda x: x.relu().index_select(3, torch.tensor([5, 0, 0])),
        "focus": lambda x: torch.cat([x[..., i:4:2, j::2] for i in (0, 1) for j in (0, 1)], 1),
        "rows together": lambda x: F.avg_pool2d(torch.cat([x, x.relu(), x[:, :, :1]], 2), 3, 1, 1),
        "columns together": lambda x: F.max_pool2d(torch.cat([x[..., :2], x.relu()], 3), 3, 1, 1),
        "pixels of channels": lambda x: F.max_pool2d(F.pixel_shuffle(x.relu(), 2), 3, 1, 1),
        "pixels of moved channels": lambda x: F.pixel_shuffle(x.relu().flip(1)[:, :9], 3),
        "channels of pixels": lambda x: F.pixel_unshuffle(x[:, :, :4].relu().flip(1), 2).relu(),
        **{
            f"{name} over {dims}": lambda x, f=f, dims=dims: f(x, dims)
            for dims in ((1,), (2,), (3,), (2, 3), (1, 2), (-1, -2))
            for name, f in (
                ("mean", lambda x, dims: x.mean(dims, keepdim=True)),
                ("sum", lambda x, dims: x.sum(dims, keepdim=True)),
                ("amax", lambda x, dims: x.amax(dims, keepdim=True)),
            )
        },
        "sum flat": lambda x: x.sum((2, 3)),
        "largest and where": lambda x: x.max(1, keepdim=True),
        "largest": lambda x: x.relu().max(1, keepdim=True)[0] * x,
        "largest of rows": lambda x: x.max(2, keepdim=True)[0],
        "spatial attention": lambda x: x * (x.mean(1, keepdim=True) + x.amax(1, keepdim=True)).sigmoid(),
        "attention by rows": lambda x: x * x.mean(3, keepdim=True).sigmoid() - x.mean(2, keepdim=True),
        "less its mean": lambda x: x - x.mean((2, 3), keepdim=True),
        "group norm": lambda x: F.relu(F.group_norm(x, 3, norm[2].to(x), norm[0].to(x))),
        "group norm of one": lambda x: F.group_norm(x, 1, eps=1e-3),
        "instance norm": lambda x: F.instance_norm(x.relu(), weight=norm[2].to(x), bias=norm[0].to(x)),
        "layer norm": lambda x: F.layer_norm(x.movedim(1, -1), (12,), norm[2].to(x), norm[0].to(x)).movedim(
            -1, 1
        ),
        "layer norm of all": lambda x: F.layer_norm(x, x.shape[1:]),
        "channels last": lambda x: channels_last(x, per_channel.flatten()),
        "channels last, taken apart": lambda x: taken_apart(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        "channels last beside a constant": lambda x: torch.cat(
            [x.permute(0, 2, 3, 1), torch.ones(len(x), 5, 6, 2).to(x)], -1
        ).relu(),
        "channels of a batch as of one image, in pairs": lambda x: F.batch_norm(
            x.reshape(1, len(x) * 6, -1), None, None, training=True
        ).reshape(x.shape),
        "channels last that stay so": lambda x: taken_apart(x.relu().permute(0, 2, 3, 1)),
        "rows of a matrix": lambda x: F.linear(x.permute(0, 2, 3, 1), torch.ones(5, 12).to(x)).cumsum(1),
        "pooled channels last": lambda x: x.permute(0, 2, 3, 1).relu().mean((1, 2)),
        "largest of cells": lambda x: F.adaptive_max_pool2d(x, (2, None)),
    }
    integers = torch.randint(0, 4, (10, 24, 3, 3), dtype=torch.int8)  # not negative, as `_TRANSPOSED`
    shifts = torch.rand(10, 2, 3, 3)
    for form in ((3, 1, 16, 6, 5), (3, 0, 16, 7, 4), (3, 1, 16, 9, 5)):
        images[f"integers {form}"] = lambda x, form=form: shifted_conv(
            torch.cat([x, x], 1),
            integers,
            shifts.to(x),
            shifts[:, 0, 0, 0].to(x),
            form,
            (1, 2),
            (1, 0),
            (1, 1),
            1,
        )
    images["integers in groups"] = lambda x: shifted_conv(
        x, integers[:9, :4], shifts[:9, :1].to(x), None, (3, 1, 8, 6, 5), (1, 1), (1, 1), (1, 2), 3
    )
    images["integers in wide groups"] = lambda x: shifted_conv(
        torch.cat([x, x, x, x], 1), integers, shifts.to(x), None, (3, 1, 16, 6, 5), (1, 1), (1, 1), (1, 1), 2
    )
    vectors: dict[str, Callable] = {
        "linear": lambda x: F.linear(x, torch.ones(5, 12).to(x), torch.arange(5).to(x)),
        "product": lambda x: x @ torch.ones(12, 5).to(x),
        "addmm scaled": lambda x: torch.addmm(
            torch.ones(5).to(x), x, torch.ones(12, 5).to(x), beta=2, alpha=0.5
        ),
        "addmm of one": lambda x: torch.addmm(torch.ones(1).to(x), x, torch.ones(12, 5).to(x)),
        "batch norm": lambda x: F.batch_norm(x, *(n.to(x) for n in norm)),
        "per feature": lambda x: x * norm[0] + norm[2],
        "layer norm": lambda x: F.layer_norm(x, (12,), norm[2].to(x), norm[0].to(x)),
        "image": lambda x: x.relu().view(-1, 3, 2, 2),
        "image of pixels": lambda x: x.relu()[..., None, None],
    }
    images |= tokens.CALLS
    scores = torch.randn(24)
    images["heads"] = lambda x: dynamic_conv(
        x,
        scores.to(x).abs() * x.abs().mean((2, 3)).repeat(1, 2),
        torch.ones(24, 3, 3, 3).to(x),
        5,
        (1, 1),
        (1, 1),
        (1, 1),
    )
    found = [
        Call(f"{name} of {kind}", function, x)
        for name, function in everywhere.items()
        for kind, x in (("images", image), ("vectors", vector), ("pixels", pixel))
    ]
    found += [Call(f"{name} of images", function, image) for name, function in images.items()]
    found += [Call(f"{name} of vectors", function, vector) for name, function in vectors.items()]
    return found
