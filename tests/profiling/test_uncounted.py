"""Nothing that multiplies is passed over: timm's families and torch.nn's layers against other counts."""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Sequence

import pytest
import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import regroup
from regroup.errors import ConfigError
from regroup.profiling.cost import cost, no_opaque_attention
from regroup.profiling.profile import profile
from regroup.profiling.table import summary

LONG = int(os.environ.get("REGROUP_FUZZ", "0"))
LIGHT = ("test_", "atto", "femto", "pico", "nano", "xxs", "_xs", "tiny", "_b0", "_s0", "small", "18", "_s")


def lightest_of_each_family() -> list[str]:
    """Return names of timm, one for each of its modules: by their names, the smallest."""
    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        families.setdefault(timm.model_entrypoint(name).__module__, []).append(name)

    def rank(name: str) -> tuple[int, int]:
        return next((i for i, word in enumerate(LIGHT) if word in name), len(LIGHT)), len(name)

    return [min(names, key=rank) for names in families.values()]


SHORT = timm.list_models("test_*")  # small ones of many families


class TheirCount(TorchDispatchMode):
    """Convolutions and matrix products by PyTorch's formulas, with attention taken apart into the latter."""

    macs = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula:
            self.macs += formula(*args, **(kwargs or {}), out_val=out) // 2
        return out


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of any use of oneDNN's flags
@pytest.mark.parametrize("name", lightest_of_each_family() if LONG else SHORT)
def test_families_of_timm(name: str) -> None:
    model = timm.create_model(name).eval()
    x = torch.rand(1, *model.default_cfg["input_size"])
    found = cost(model, x)
    apart = torch.backends.mkldnn.flags(enabled=False)  # recurrent layers, which are one operator otherwise
    with torch.no_grad(), no_opaque_attention(), sdpa_kernel(SDPBackend.MATH), apart, TheirCount() as theirs:
        model(x)
    assert found.total.macs == theirs.macs > 0
    assert found.uncounted == ()


def test_deit_by_hand() -> None:
    """196 patches of 16 x 16 x 3 and a class token; 12 layers of width 192; 1,000 classes."""
    tokens, width, patch = 197, 192, 16 * 16 * 3
    layer = tokens * width * (3 * width + width + 8 * width) + 2 * tokens * tokens * width
    by_hand = 196 * patch * width + 12 * layer + width * 1000
    model = timm.create_model("deit_tiny_patch16_224").eval()
    found = profile(model, torch.rand(1, 3, 224, 224), time=False)
    assert (found.total.macs, found.uncounted) == (by_hand, ()) and by_hand == 1253683200
    assert sum(part.cost.macs for part in found.root.parts) == by_hand  # each in its layer
    assert cost(model, torch.rand(1, 3, 224, 224)).layers["blocks.0.attn"].macs == 2 * tokens**2 * width


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape)


PAIR = (image(2, 6), image(2, 6))
LABELS = torch.tensor([0, 1])
LAYERS = {  # (layer, inputs, MACs by hand); layers that multiply nothing have none
    "AdaptiveLogSoftmaxWithLoss": (nn.AdaptiveLogSoftmaxWithLoss(6, 4, [2]), (PAIR[0], LABELS), 2 * 6 * 3),
    "Bilinear": (nn.Bilinear(3, 4, 5), (image(2, 3), image(2, 4)), 2 * 5 * (3 * 4 + 4)),
    "Conv1d": (nn.Conv1d(4, 6, 3, groups=2), (image(2, 4, 9),), 2 * 7 * 6 * 2 * 3),
    "Conv2d": (nn.Conv2d(4, 6, 3, padding=1), (image(2, 4, 5, 6),), 2 * 30 * 6 * 4 * 9),
    "Conv3d": (nn.Conv3d(4, 6, 2), (image(2, 4, 3, 3, 3),), 2 * 8 * 6 * 4 * 8),
    "ConvTranspose1d": (nn.ConvTranspose1d(4, 6, 3, stride=2), (image(2, 4, 9),), 2 * 9 * 4 * 6 * 3),
    "ConvTranspose2d": (nn.ConvTranspose2d(4, 6, 3, groups=2), (image(2, 4, 5, 6),), 2 * 30 * 4 * 3 * 9),
    "ConvTranspose3d": (nn.ConvTranspose3d(4, 6, 2), (image(2, 4, 3, 3, 3),), 2 * 27 * 4 * 6 * 8),
    "EmbeddingBag": (nn.EmbeddingBag(9, 5), (torch.ones(2, 3, dtype=torch.long),), 0),
    "GRU": (nn.GRU(4, 5), (image(7, 2, 4),), 7 * 2 * 3 * 5 * (4 + 5)),
    "GRUCell": (nn.GRUCell(4, 5), (image(2, 4),), 2 * 3 * 5 * (4 + 5)),
    "LSTM": (nn.LSTM(4, 5), (image(7, 2, 4),), 7 * 2 * 4 * 5 * (4 + 5)),
    "LSTMCell": (nn.LSTMCell(4, 5), (image(2, 4),), 2 * 4 * 5 * (4 + 5)),
    "Linear": (nn.Linear(4, 5), (image(2, 3, 4),), 2 * 3 * 4 * 5),
    "MultiheadAttention": (nn.MultiheadAttention(6, 2), (image(3, 2, 6),) * 3, 2 * (4 * 3 * 36 + 2 * 9 * 6)),
    "RNN": (nn.RNN(4, 5), (image(7, 2, 4),), 7 * 2 * 5 * (4 + 5)),
    "RNNCell": (nn.RNNCell(4, 5), (image(2, 4),), 2 * 5 * (4 + 5)),
    "Transformer": (
        nn.Transformer(6, 2, 1, 1, 8, batch_first=True),
        (image(2, 3, 6), image(2, 4, 6)),
        2 * (4 * 3 * 36 + 2 * 9 * 6 + 3 * 2 * 48 + 4 * 4 * 36 + 2 * 16 * 6)
        + 2 * (2 * 4 * 36 + 2 * 3 * 36 + 2 * 4 * 3 * 6 + 4 * 2 * 48),
    ),
    "TransformerEncoderLayer": (
        nn.TransformerEncoderLayer(6, 2, 8, batch_first=True),
        (image(2, 3, 6),),
        2 * (4 * 3 * 36 + 2 * 9 * 6 + 3 * 2 * 48),
    ),
}

OF_IMAGES = """
    AdaptiveAvgPool2d=3 AdaptiveMaxPool2d=3 AlphaDropout AvgPool2d=2 BatchNorm2d=4 CELU
    ChannelShuffle=2 CircularPad2d=1 ConstantPad2d=1,0.5 CrossMapLRN2d=2 Dropout Dropout2d ELU
    FeatureAlphaDropout Flatten FractionalMaxPool2d=2,3 GELU GLU GroupNorm=2,4 Hardshrink
    Hardsigmoid Hardswish Hardtanh Identity InstanceNorm2d=4 LPPool2d=2,2 LayerNorm=6 LeakyReLU
    LocalResponseNorm=2 LogSigmoid LogSoftmax=1 MaxPool2d=2 Mish PReLU PixelShuffle=2
    PixelUnshuffle=2 RMSNorm=6 RReLU ReLU ReLU6 ReflectionPad2d=1 ReplicationPad2d=1 SELU SiLU
    Sigmoid Softmax=1 Softmax2d Softmin=1 Softplus Softshrink Softsign Tanh Tanhshrink
    Threshold=0.5,0 Unflatten=1,(2,2) Unfold=2 Upsample=3 UpsamplingBilinear2d=3
    UpsamplingNearest2d=3 ZeroPad2d=1
"""
OF_SEQUENCES = """
    AdaptiveAvgPool1d=3 AdaptiveMaxPool1d=3 AvgPool1d=2 BatchNorm1d=4 CircularPad1d=1
    ConstantPad1d=1,0.5 Dropout1d Fold=(3,2),2 InstanceNorm1d=4 LPPool1d=2,2 MaxPool1d=2
    ReflectionPad1d=1 ReplicationPad1d=1 ZeroPad1d=1
"""
OF_VOLUMES = """
    AdaptiveAvgPool3d=3 AdaptiveMaxPool3d=3 AvgPool3d=2 BatchNorm3d=4 CircularPad3d=1
    ConstantPad3d=1,0.5 Dropout3d FractionalMaxPool3d=2,3 InstanceNorm3d=4 LPPool3d=2,2 MaxPool3d=2
    ReflectionPad3d=1 ReplicationPad3d=1 ZeroPad3d=1
"""
OF_PAIRS = """
    BCELoss BCEWithLogitsLoss CosineSimilarity HuberLoss L1Loss MSELoss MultiLabelSoftMarginLoss
    PairwiseDistance PoissonNLLLoss SmoothL1Loss SoftMarginLoss HingeEmbeddingLoss
"""
WITH_OTHER_INPUTS = {
    "CosineEmbeddingLoss": (nn.CosineEmbeddingLoss(), (*PAIR, torch.ones(2))),
    "CrossEntropyLoss": (nn.CrossEntropyLoss(), (PAIR[0], LABELS)),
    "Embedding": (nn.Embedding(9, 5), (LABELS,)),
    "GaussianNLLLoss": (nn.GaussianNLLLoss(), (*PAIR, torch.ones(2, 6))),
    "KLDivLoss": (nn.KLDivLoss(reduction="batchmean"), PAIR),
    "MarginRankingLoss": (nn.MarginRankingLoss(), (*PAIR, torch.ones(2, 6))),
    "MaxUnpool1d": (nn.MaxUnpool1d(2), (image(2, 4, 3), torch.arange(3).expand(2, 4, 3))),
    "MaxUnpool2d": (nn.MaxUnpool2d(2), (image(2, 4, 1, 3), torch.arange(3).expand(2, 4, 1, 3))),
    "MaxUnpool3d": (nn.MaxUnpool3d(2), (image(2, 4, 1, 1, 3), torch.arange(3).expand(2, 4, 1, 1, 3))),
    "MultiLabelMarginLoss": (nn.MultiLabelMarginLoss(), (PAIR[0], torch.zeros(2, 6, dtype=torch.long))),
    "MultiMarginLoss": (nn.MultiMarginLoss(), (PAIR[0], LABELS)),
    "NLLLoss": (nn.NLLLoss(), (PAIR[0], LABELS)),
    "TripletMarginLoss": (nn.TripletMarginLoss(), (*PAIR, PAIR[0])),
    "TripletMarginWithDistanceLoss": (nn.TripletMarginWithDistanceLoss(), (*PAIR, PAIR[0])),
}
MADE_OF_OTHERS = """
    LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d LazyInstanceNorm1d LazyInstanceNorm2d
    LazyInstanceNorm3d Container DataParallel LazyConv1d LazyConv2d LazyConv3d LazyConvTranspose1d
    LazyConvTranspose2d LazyConvTranspose3d LazyLinear LinearCrossEntropyLoss Module ModuleDict
    ModuleList NLLLoss2d ParameterDict ParameterList RNNBase RNNCellBase Sequential
    TransformerDecoder TransformerDecoderLayer TransformerEncoder
"""
ELSEWHERE = {"SyncBatchNorm": "GPUs only", "CTCLoss": "named below"}


def without_products() -> dict[str, tuple[nn.Module, Sequence[torch.Tensor]]]:
    """Return layers that count nothing, by name, with what they are called with."""
    found = dict(WITH_OTHER_INPUTS)
    for texts, inputs in (
        (OF_IMAGES, (image(2, 4, 6, 6),)),
        (OF_SEQUENCES, (image(2, 4, 6),)),
        (OF_VOLUMES, (image(2, 4, 6, 6, 6),)),
        (OF_PAIRS, PAIR),
    ):
        for text in texts.split():
            name, _, options = text.partition("=")
            arguments = ast.literal_eval(f"({options},)") if options else ()
            given = (image(2, 8, 2),) if name == "Fold" else inputs
            found[name] = (getattr(nn, name)(*arguments), given)
    return found


NOTHING = without_products()


@pytest.mark.parametrize("name", [*LAYERS, *NOTHING])
def test_layers_of_torch_nn(name: str) -> None:
    layer, inputs, macs = LAYERS[name] if name in LAYERS else (*NOTHING[name], 0)
    found = cost(layer, *inputs)
    assert (found.total.macs, found.uncounted) == (macs, ())
    if macs:  # no layer of ours has a gradient of what went in to count: weights' alone
        step = cost(
            layer, *(x.requires_grad_() if x.is_floating_point() else x for x in inputs), training=True
        )
        assert step.uncounted == () and step.total.macs >= 2 * macs


def test_every_layer_of_torch_nn_is_looked_at() -> None:
    named = {n for n, kind in vars(nn).items() if inspect.isclass(kind) and issubclass(kind, nn.Module)}
    assert named - {*LAYERS, *NOTHING, *MADE_OF_OTHERS.split(), *ELSEWHERE} == set()


class TakesRecurrence(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lengths = torch.full((2,), 3)
        targets = torch.ones(2, 2, dtype=torch.long)
        return nn.functional.ctc_loss(x.log_softmax(2), targets, lengths, torch.full((2,), 2))


def test_what_has_no_formula_is_named_in_the_profile_and_in_json() -> None:
    found = profile(TakesRecurrence(), torch.rand(3, 2, 4), time=False)
    assert found.uncounted == ("aten._ctc_loss",)
    assert '"uncounted": ["aten._ctc_loss"]' in found.to_json()
    assert any("aten._ctc_loss" in line for line in summary(found))


def test_parts_that_are_scripted_or_compiled_count_as_if_they_were_not() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4)).eval()
    x = torch.rand(1, 3, 8, 8)
    expected = cost(plain, x).total.macs
    scripted = torch.jit.script(plain)
    parts = [
        scripted,
        torch.jit.trace(plain, x),
        torch.jit.freeze(scripted),
        torch.export.export(plain, (x,)).module(),
        torch.compile(plain, backend="eager"),
        regroup.compile(plain, x),
        nn.DataParallel(plain),
    ]
    for part in parts:
        for model in (part, nn.Sequential(nn.Identity(), part)):
            found = profile(model, x, time=False)
            assert (found.total.macs, found.uncounted) == (expected, ()), type(part).__name__


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a torch\.nn\.Module"):
        profile(torch.relu, torch.rand(1), time=False)  # type: ignore[arg-type]
