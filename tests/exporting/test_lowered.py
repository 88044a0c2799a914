"""ONNX with everything folded: the same numbers, by plain operators, in whatever runs it."""

from __future__ import annotations

import os
from collections import Counter
from random import Random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import regroup
from regroup.errors import ConfigError, ExportError
from regroup.exporting.lowered import lowered
from tests.engine.models import RandomNet

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

COUNT = int(os.environ.get("REGROUP_FUZZ", "0")) // 100 or 12


def exported(model: nn.Module, images: torch.Tensor, folder, **options) -> onnx.ModelProto:
    """Return the lowered file, whose outputs were compared as it was written, checked by ONNX."""
    found = regroup.export(model, folder / "net.onnx", images, lowered=True, **options)
    assert found.checked and not found.note
    proto = onnx.load(folder / "net.onnx")
    onnx.checker.check_model(proto, full_check=True)
    return proto


@pytest.mark.parametrize("seed", range(COUNT))
def test_integers_are_exact_whatever_is_folded(seed):
    rng = Random(seed)
    shuffles = [(3, 0, rng.randrange(12)), (10, 0, rng.randrange(12)), (8, rng.randrange(4), 0)]
    program = [
        rng.choice([*shuffles, (rng.randrange(10), rng.randrange(9), rng.randrange(12))]) for _ in range(10)
    ]
    model, x = RandomNet(program), torch.randint(-2, 3, (3, RandomNet.CHANNELS, 7, 6)).float()
    graph = lowered(model, x)
    (found,) = graph.evaluate([x.double()])
    with torch.no_grad():
        right = model.double()(x.double())
    assert torch.equal(found, right)
    if right.abs().max() < 1 << 24:  # float32 has all of these
        from regroup.exporting.lowered.nodes import model_of

        session = ort.InferenceSession(model_of(graph, x.shape[1:], None).SerializeToString())
        assert torch.equal(torch.from_numpy(session.run(None, {"images": x.numpy()})[0]).double(), right)


@pytest.mark.parametrize(
    ("name", "orders"), [("shufflenet_v1_g3_025", 16), ("igcv3_025", 33), ("condensenet_cifar_74", 100)]
)
def test_a_network_is_plain_operators(name, orders, tmp_path):
    """There is a gather for each shuffle between two grouped convolutions, and no more.

    CondenseNet's 50 layers have one, and besides read some of the channels there are.
    """
    model = regroup.create_model(name)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 64))  # norms that are no identities
    kinds = Counter(node.op_type for node in exported(model, torch.zeros(1, 3, 64, 64), tmp_path).graph.node)
    assert not set(kinds) & {"Transpose", "Reshape", "Identity", "Slice"}
    assert "condensenet" in name or not kinds["BatchNormalization"]
    assert 0 < kinds["Gather"] <= orders


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x).flatten(1)


SEVERAL = {
    **{name: getattr(F, name) for name in ("relu", "relu6", "silu", "hardswish", "hardsigmoid", "mish")},
    **{name: getattr(F, name) for name in ("sigmoid", "tanh", "gelu", "elu", "selu", "celu", "softplus")},
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "celu of 2": lambda x: F.celu(x, 2.0),
    "softplus of 3": lambda x: F.softplus(x, 3.0),
    "leaky relu": lambda x: F.leaky_relu(x, 0.2),
    "clamp": lambda x: x.clamp(-0.5, 1.0),
    "clamp below": lambda x: x.clamp(min=-0.5),
    "clamp above": lambda x: x.clamp(max=0.5),
    "prelu": nn.PReLU(6, 0.3),
    "scale": lambda x: x * torch.arange(6.0).view(-1, 1, 1),
    "shift": lambda x: x + torch.arange(6.0).view(-1, 1, 1),
    "norm": lambda x: x * torch.arange(6.0).view(-1, 1, 1) - 1,
    "gate": lambda x: x * F.adaptive_max_pool2d(x, 1),
    "max": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max beyond": lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    "max far": lambda x: F.max_pool2d(x, 3, 2, 1, 2),
    "mean": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "mean of what is there": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "mean beyond": lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False),
    "mean of 7": lambda x: F.avg_pool2d(x, 3, 2, divisor_override=7),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x[..., :8], (3, 4)),
    "pad": lambda x: F.pad(x, (1, 0, 2, 3)),
    "pad with ones": lambda x: F.pad(x, (1, 0, 2, 3), value=1.0),
    "mirrored rows": lambda x: x.flip(2)[..., 1:],
    "conv after cropping": nn.Sequential(nn.ZeroPad2d((0, -2, -1, 0)), nn.Conv2d(6, 6, 3, groups=6)),
    "transposed": nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, groups=2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest to": lambda x: F.interpolate(x, (13, 5)),
    "bilinear": lambda x: F.interpolate(x, (13, 17), mode="bilinear"),
    "bilinear by corners": lambda x: F.interpolate(x, (13, 17), mode="bilinear", align_corners=True),
    "lrn": nn.LocalResponseNorm(3),
    "softmax": lambda x: x.mean((2, 3)).softmax(1),
    "chunks": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "flipped": lambda x: x.flip(1),
}


@pytest.mark.parametrize("what", SEVERAL)
def test_every_operator_is_within_the_error_of_pytorch(what, tmp_path):
    torch.manual_seed(0)
    exported(Of(SEVERAL[what]).eval(), torch.zeros(1, 6, 9, 10), tmp_path)


class Sort(nn.Module):
    def forward(self, x):
        return x.flatten(1).sort(1).values


def test_what_has_no_such_form_is_written_as_pytorch_does_and_says_so(tmp_path):
    images = torch.zeros(1, 2, 3, 3)
    found = regroup.export(Sort().eval(), tmp_path / "a.onnx", images)
    assert found.checked == (1, 2, 3) and "not lowered: there is no kernel for aten::sort" in str(found)
    with pytest.raises(ExportError, match="has no lowered form: there is no kernel for aten::sort"):
        regroup.export(Sort().eval(), tmp_path / "b.onnx", images, lowered=True)
    with pytest.raises(ConfigError, match="lowered='yes': must be true, false, or left out"):
        regroup.export(Sort().eval(), tmp_path / "b.onnx", images, lowered="yes")
    with pytest.raises(ExportError, match="no lowered form: opset 11 is not between 15 and"):
        regroup.export(nn.Conv2d(2, 3, 1).eval(), tmp_path / "b.onnx", images, lowered=True, opset=11)
    assert not (tmp_path / "b.onnx").exists()
    plain = regroup.export(nn.Conv2d(2, 3, 1).eval(), tmp_path / "c.onnx", images, lowered=False, batch=2)
    assert plain.checked == (2,) and not plain.note
    proto = exported(nn.Conv2d(2, 3, 1).eval(), images, tmp_path, batch=2, opset=15)
    assert [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [2, 2, 3, 3]
    assert proto.opset_import[0].version == 15
