"""Networks of sound: published counts, their definitions, what is causal, and how they run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import regroup
from regroup.errors import NetworkError
from regroup.networks.sound import ConformerConvolution, ConvTasNet, QuartzNet
from regroup.ops.counting import count
from tests.engine.test_accuracy import MOST, times_worse

SMALL = {"filters": 24, "channels": 12, "hidden": 20, "blocks": 3, "repeats": 2}


def settled(model: nn.Module) -> nn.Module:
    """Return it in float64 and eval mode, with norms and slopes that are not the identity."""
    torch.manual_seed(0)
    model = model.eval().double()
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 1 and tensor.is_floating_point() and "num_batches" not in name:
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def separable(w: dict[str, Tensor], at: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Return the sum over taps of each channel, then over channels, as the paper's figure 1 has it."""
    depthwise, pointwise = w[f"{at}.0.weight"][:, 0], w[f"{at}.2.weight"][..., 0]
    taps = depthwise.shape[1]
    padded = F.pad(x, [dilation * (taps - 1) // 2] * 2)
    windows = padded.unfold(2, dilation * (taps - 1) + 1, stride)[..., ::dilation]
    filtered = torch.einsum("nclt,ct->ncl", windows, depthwise)
    return torch.einsum("kc,ncl->nkl", pointwise, filtered)


def norm(w: dict[str, Tensor], at: str, x: Tensor) -> Tensor:
    mean, variance, scale, shift = (
        w[f"{at}.{name}"][:, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-3).sqrt() * scale + shift


def test_quartznet_is_its_definition():
    net, x = settled(QuartzNet(5, 16, repeats=1, modules=2)), torch.randn(2, 16, 41).double()
    w = dict(net.state_dict())
    y = norm(w, "stem.1", separable(w, "stem.0", x, 2)).relu()
    for b in range(5):
        at = f"blocks.{b}"
        main = norm(w, f"{at}.convolutions.1", separable(w, f"{at}.convolutions.0", y)).relu()
        main = norm(w, f"{at}.convolutions.5", separable(w, f"{at}.convolutions.4", main))
        short = torch.einsum("kc,ncl->nkl", w[f"{at}.shortcut.0.weight"][..., 0], y)
        y = (main + norm(w, f"{at}.shortcut.1", short)).relu()
    y = norm(w, "tail.1", separable(w, "tail.0", y, dilation=2)).relu()
    y = norm(w, "tail.5", torch.einsum("kc,ncl->nkl", w["tail.4.weight"][..., 0], y)).relu()
    y = torch.einsum("kc,ncl->nkl", w["classifier.weight"][..., 0], y) + w["classifier.bias"][:, None]
    found = net(x)
    assert found.shape == (2, 6, 21)
    assert (found - y).abs().max() <= 2**-40 * y.abs().max()


@pytest.mark.parametrize(("repeats", "millions"), [(1, 6.7), (2, 12.8), (3, 18.9)])
def test_quartznet_has_the_published_parameters(repeats, millions):
    with torch.device("meta"):
        net = QuartzNet(repeats=repeats)
    assert round(count(net, (100,), 64).parameters / 1e6, 1) == millions


def test_conv_tasnet_is_its_definition():
    net, x = settled(ConvTasNet(3, **SMALL)), torch.randn(2, 1, 99).double()

    def global_norm(layer: nn.Module, y: Tensor) -> Tensor:
        mean, variance = y.mean((1, 2), keepdim=True), y.var((1, 2), keepdim=True, unbiased=False)
        return (y - mean) / (variance + 1e-8).sqrt() * layer.weight[:, None] + layer.bias[:, None]

    def point(layer: nn.Module, y: Tensor) -> Tensor:
        return torch.einsum("kc,ncl->nkl", layer.weight[..., 0], y) + layer.bias[:, None]

    padded = F.pad(x, (8, 8 + 5))  # 99 samples and 5 are 13 steps of 8
    encoded = torch.einsum("ct,nlt->ncl", net.encoder.weight[:, 0], padded[:, 0].unfold(1, 16, 8))
    y, total = point(net.bottleneck, global_norm(net.norm, encoded)), 0
    for i, block in enumerate(net.blocks):
        expand, act1, norm1, depthwise, act2, norm2 = block.layers
        z, d = global_norm(norm1, act1(point(expand, y))), 2 ** (i % 3)
        sides = F.pad(z, (d, d)).unfold(2, 2 * d + 1, 1)[..., ::d]
        z = torch.einsum("nclt,ct->ncl", sides, depthwise.weight[:, 0]) + depthwise.bias[:, None]
        z = global_norm(norm2, act2(z))
        y = y if block.residual is None else y + point(block.residual, z)
        total = total + point(block.skip, z)
    act, last, _ = net.masks
    masks = point(last, act(total)).sigmoid().unflatten(1, (3, -1))
    frames = torch.einsum("nscl,ct->nslt", masks * encoded[:, None], net.decoder.weight[:, 0])
    voices = torch.zeros(2, 3, 16 + 8 * (frames.shape[2] - 1)).double()
    for step in range(frames.shape[2]):
        voices[..., 8 * step : 8 * step + 16] += frames[:, :, step]
    found, right = net(x), voices[..., 8 : 8 + 99]
    assert (found - right).abs().max() <= 2**-40 * right.abs().max()


@pytest.mark.parametrize(("kernel", "causal"), [(31, False), (4, True)])
def test_conformers_convolution_is_its_definition(kernel, causal):
    module, x = settled(ConformerConvolution(6, kernel, causal=causal)), torch.randn(2, 40, 6).double()
    wide, _, depthwise, bn, _, narrow = [m for m in module.layers if not isinstance(m, nn.Dropout)]
    if causal:
        _, depthwise = depthwise
    y = F.layer_norm(x, (6,), module.norm.weight, module.norm.bias)
    a, gate = (y @ wide.weight[..., 0].t() + wide.bias).chunk(2, -1)
    y = F.pad(a * gate.sigmoid(), (0, 0, kernel - 1 if causal else 15, 0 if causal else 15))
    y = torch.einsum("nlct,ct->nlc", y.unfold(1, kernel, 1), depthwise.weight[:, 0]) + depthwise.bias
    y = (y - bn.running_mean) / (bn.running_var + bn.eps).sqrt() * bn.weight + bn.bias
    y = y * y.sigmoid() @ narrow.weight[..., 0].t() + narrow.bias
    assert (module(x) - y).abs().max() <= 2**-40 * y.abs().max()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: QuartzNet(5, 16, repeats=1, modules=1), (16, 60)),
        (lambda: ConvTasNet(**SMALL), (1, 200)),
        (lambda: ConformerConvolution(12), (50, 12)),
    ],
    ids=["quartznet", "conv_tasnet", "conformer"],
)
def test_they_are_compiled_at_any_length(make, shape):
    net = settled(make()).float()
    fast = regroup.compile(net, torch.randn(1, *shape), strict=True)
    assert "aten::convolution" not in fast.explain()
    longer = tuple(n + 9 if n == max(shape) else n for n in shape)
    for images, size in ((1, shape), (3, longer)):
        assert times_worse(net, fast, torch.randn(images, *size)) <= MOST


def test_other_groupings_go_in_and_mistakes_are_named():
    net = QuartzNet(5, 16, repeats=1, modules=1).eval()
    changes = regroup.replace(net, "shuffled:groups=2", where="blocks.*.shortcut.0")
    assert len(changes.replaced) == 5
    assert net(torch.randn(1, 16, 30)).shape == (1, 6, 15)
    for mistake in (
        lambda: QuartzNet(0),
        lambda: ConformerConvolution(8, 4),
        lambda: ConvTasNet(mask="tanh"),
    ):
        with pytest.raises(NetworkError, match="must be"):
            mistake()
