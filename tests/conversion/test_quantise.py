"""A trained network becomes integers without data, is adapted without labels, and is small on disk."""

import copy
import json
import struct
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

import regroup
from regroup.conversion.packed import load_packed, save_packed
from regroup.conversion.quantise import bits_per_weight, quantise
from regroup.errors import CheckpointError, ConfigError, ParameterError
from regroup.ops.bitpacking import packed_bytes
from regroup.ops.shifted import ShiftedConv
from regroup.strategies.shifted import ShiftingConv
from regroup.training import train
from regroup.training.data import TensorSplit
from tests.training.cases import built, config, data, equal


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.Conv2d(32, 48, 3, stride=2, padding="valid", groups=2),
        nn.Conv2d(48, 10, 1),
    ).eval()


def test_all_convolutions_are_converted_but_those_that_would_grow():
    model = network()
    changes = quantise(model, "shifted:bits=4,block=64")
    assert changes.replaced == ["0", "4", "5"]
    assert changes.left == {"3": "1 inputs to an output: integers and shifts would take 36 bits a weight"}
    assert isinstance(model[1], nn.BatchNorm2d)
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_converted_network_computes_with_the_quantised_kernels(bits):
    model, x = network(), torch.randn(2, 3, 9, 9)
    again = copy.deepcopy(model)
    quantise(model, f"shifted:bits={bits},block=8")
    for name in ("0", "4", "5"):
        weight, form = again.get_submodule(name).weight, model.get_submodule(name).form
        weight.data = form.dequantise(*form.quantise(weight.data))
    assert torch.equal(model(x), again(x))


def test_eight_bits_are_nearly_the_network_and_two_are_not():
    x, errors = torch.randn(4, 3, 9, 9), []
    for bits in (8, 4, 2):
        model = network()
        exact = model(x).detach()
        quantise(model, f"shifted:bits={bits},block=16")
        errors.append(float((model(x).detach() - exact).norm() / exact.norm()))
    assert errors[0] < errors[1] / 8 < errors[2] / 16


def test_with_adapt_the_weights_stay_beside_and_deploy_ends_it():
    model, x = network(), torch.randn(2, 3, 9, 9)
    final = copy.deepcopy(model)
    quantise(model, "shifted:bits=3", adapt=True)
    quantise(final, "shifted:bits=3")
    assert isinstance(model[4], ShiftingConv)
    assert torch.equal(model(x), final(x))
    assert torch.equal(regroup.deploy(model)(x), final(x))


def test_wrong_requests_are_refused():
    with pytest.raises(ConfigError, match="strategy='grouped:groups=4': must be shifted"):
        quantise(network(), "grouped:groups=4")
    with pytest.raises(ConfigError, match="where"):
        quantise(network(), where="nothing.*")
    with pytest.raises(ParameterError, match="bits=1"):
        quantise(network(), "shifted:bits=1")
    with pytest.raises(ConfigError, match="quantise it"):
        bits_per_weight(network())


def test_labels_play_no_part_in_adaptation():
    images = data(shape=(3, 6, 6))
    unlabelled = replace(
        images, train=TensorSplit(images.train.images, torch.zeros_like(images.train.labels))
    )
    teacher, ends = built(images.shape), []
    train(teacher, images, config(epochs=6))
    student = copy.deepcopy(teacher)
    quantise(student, "shifted:bits=2,block=8", adapt=True)
    for split in (images, unlabelled):
        model = copy.deepcopy(student)
        train(model, split, config(epochs=6, lr=0.01, distillation_alpha=1), teacher=teacher)
        ends.append(model)
    assert equal(*ends)
    x = (images.test.images / 255 - 0.4) / 0.2
    soft = [(m.eval()(x).detach() / 4).log_softmax(1) for m in (teacher, student, ends[0])]
    before, after = (float((s - soft[0]).norm()) for s in soft[1:])
    assert after < before


@pytest.mark.parametrize("clamp", ["true", "false"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_packed_network_comes_back_bit_for_bit(tmp_path, bits, clamp):
    model = network()
    with torch.no_grad():
        model[4].weight[0, :2, 0, 0] = torch.tensor([-9.0, 9.0])  # 2^(b-1), unless clamped
    quantise(model, f"shifted:bits={bits},block=8,clamp={clamp},channels=true")
    save_packed(tmp_path / "small.safetensors", model)
    for again in (network(), copy.deepcopy(model)):
        for parameter in again.parameters():
            parameter.data.zero_()
        load_packed(tmp_path / "small.safetensors", again)
        assert equal(again, model)
        x = torch.randn(1, 3, 9, 9)
        assert torch.equal(again(x), model(x))
    assert [p.name for p in tmp_path.iterdir()] == ["small.safetensors"]


@pytest.mark.parametrize(("bits", "block"), [(8, 32), (4, 64), (3, 128), (2, 64)])
def test_a_weight_takes_b_and_32_over_b_bits_on_disk(tmp_path, bits, block):
    model = nn.Sequential(nn.Conv2d(128, 64, 3, bias=False), nn.Conv2d(64, 128, 1, bias=False))
    quantise(model, f"shifted:bits={bits},block={block}")
    path = tmp_path / "model.safetensors"
    save_packed(path, model)
    content = path.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    expected = 0
    for layer in model:
        assert isinstance(layer, ShiftedConv)
        expected += packed_bytes(layer.integers.numel(), bits) + 4 * layer.shifts.numel()
    assert len(content) - 8 - header == expected
    weights = 128 * 64 * 9 + 64 * 128
    assert bits_per_weight(model) == 8 * expected / weights
    if block <= 64:
        assert 8 * expected / weights == bits + 32 / block


def test_a_file_that_is_damaged_or_foreign_is_refused_and_changes_nothing(tmp_path):
    path, model = tmp_path / "small.safetensors", network()
    quantise(model)
    save_packed(path, model)
    good = path.read_bytes()
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(CheckpointError, match="of another network"):
        load_packed(path, other)
    assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())
    for damaged in (good[:-7], good[:40], b"", good.replace(b'\\"bits\\": 4', b'\\"bits\\": 7')):
        path.write_bytes(damaged)
        fresh = network()
        with pytest.raises(CheckpointError):
            load_packed(path, fresh)
        assert isinstance(fresh[0], nn.Conv2d)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_packed(tmp_path / "none.safetensors", network())
    size = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + size])
    header["__metadata__"] = {"other": "1"}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + good[8 + size :])
    with pytest.raises(CheckpointError, match="no file of save_packed"):
        load_packed(path, network())


def test_a_network_that_still_learns_is_not_saved(tmp_path):
    model = network()
    quantise(model, adapt=True)
    with pytest.raises(CheckpointError, match="0 is still learning"):
        save_packed(tmp_path / "a.safetensors", model)
    save_packed(tmp_path / "a.safetensors", regroup.deploy(model))


def test_shared_convolutions_stay_shared(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(8, 8, 3, padding=1)
            self.second = self.first

        def forward(self, x):
            return self.second(self.first(x))

    model, again, x = Twice(), Twice(), torch.randn(1, 8, 5, 5)
    quantise(model)
    assert model.first is model.second
    save_packed(tmp_path / "twice.safetensors", model)
    load_packed(tmp_path / "twice.safetensors", again)
    assert again.first is again.second
    assert torch.equal(again(x), model(x))


def test_torchvisions_resnet_takes_an_eighth_of_the_space(tmp_path):
    model = torchvision.models.resnet18(num_classes=10)
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    quantise(model, "shifted:bits=3,block=128")
    save_packed(tmp_path / "resnet.safetensors", model)
    assert (tmp_path / "resnet.safetensors").stat().st_size < 4 * weights / 8
