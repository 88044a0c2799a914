"""The profile of a network, as data and as the command prints it."""

from __future__ import annotations

import json

import pytest
import torch
import torchvision
from torch import nn

from regroup.cli import main
from regroup.errors import ConfigError
from regroup.ops.order import ChannelShuffle
from regroup.profiling.cost import cost
from regroup.profiling.profile import Profile, profile


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1, groups=g, bias=False) for g in (8, 4)])
        self.shuffle = ChannelShuffle(4)

    def forward(self, x):
        return x + self.convs[1](self.shuffle(self.convs[0](x)))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


@pytest.fixture(scope="module")
def found():
    return profile(network(), torch.rand(2, 3, 6, 6), reach=True, seconds=0.02)


def by_name(found):
    return {layer.name: layer for layer in found.layers()}


def test_the_tree_is_that_of_the_modules_and_depth_cuts_it(found):
    assert [layer.name for layer in found.layers()] == [name for name, _ in network().named_modules()]
    assert [layer.name for layer in found.layers(1)] == ["", "0", "1", "2", "3", "4"]


def test_each_layer_holds_what_its_parts_cost_and_what_it_does_itself(found):
    layers, costs = by_name(found), cost(network(), torch.rand(2, 3, 6, 6))
    for name, layer in layers.items():
        parts = sum((part.cost for part in layer.parts), costs.layers[name])
        assert layer.cost == parts
    assert layers["1"].cost.macs == 2 * 36 * 8 * 9 * (1 + 2)
    assert layers["1"].cost.dense_macs == 2 * 36 * 8 * 9 * (8 + 8)
    assert layers["1"].cost.bytes > sum(part.cost.bytes for part in layers["1"].parts)  # the addition


def test_shapes_and_details_are_shown(found):
    layers = by_name(found)
    assert layers["1.convs.1"].detail == "8 -> 8, 3x3, 4 groups"
    assert layers["1.convs.1"].output == (2, 8, 6, 6)
    assert layers["4"].detail == "8 -> 5"
    assert layers["1.convs"].output == ()


def test_every_layer_that_runs_has_a_time_and_a_container_that_of_its_parts(found):
    layers = by_name(found)
    assert all(layer.time is not None and 0 < layer.time.low <= layer.time.high for layer in layers.values())
    assert layers["1.convs"].time.median == sum(part.time.median for part in layers["1.convs"].parts)
    assert found.machine is not None


def test_reach_of_layers_blocks_and_the_network_is_shown(found):
    layers = by_name(found)
    assert layers["1.convs.0"].fill == 1 / 8
    assert layers["1.convs.1"].fill == 1 / 4
    assert 1 / 4 <= layers["1"].fill < 1
    assert layers[""].fill == 1
    assert layers["2"].fill is None
    assert found.mixing.start == "1.convs.0"
    assert found.mixing.depth == 3


def test_shares_are_of_the_whole(found):
    shares = [found.share(layer) for layer in found.root.parts]
    assert sum(shares) == pytest.approx(1)
    assert found.share(found.root, "parameters") == 1


def test_json_gives_the_same_profile_back(found):
    assert Profile.from_json(found.to_json()) == found
    without = profile(network(), torch.rand(1, 3, 6, 6), time=False)
    assert Profile.from_json(without.to_json()) == without
    assert without.time is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"root": 1}', "null", "3"])
def test_json_that_is_no_profile_is_refused(text):
    with pytest.raises(ConfigError, match="the JSON of a profile"):
        Profile.from_json(text)


def test_a_training_step_is_counted_and_inference_timed():
    step = profile(network(), torch.rand(2, 3, 6, 6), training=True, seconds=0.01)
    assert step.training
    assert step.total.macs > 2.5 * profile(network(), torch.rand(2, 3, 6, 6), time=False).total.macs


def test_a_layer_may_be_given_a_single_number():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.root = nn.Conv2d(2, 2, 1), Root()

        def forward(self, x):
            return self.conv(x) * self.root(x.abs().mean())

    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt()

    layers = by_name(profile(Scaled(), torch.ones(2, 2, 4, 4), time=False))
    assert layers["root"].output == () and layers["conv"].cost.macs == 2 * (2 * 2 * 16)


def test_profiling_leaves_the_model_as_it_was():
    model = network().train()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    profile(model, torch.rand(1, 3, 6, 6), reach=True, seconds=0.01)
    assert all(module.training for module in model.modules())
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks


def command(capsys, *argv):
    with pytest.raises(SystemExit) as exit_:
        main(["profile", *argv])
    return exit_.value.code, capsys.readouterr()


def test_the_command_prints_a_table_whole_in_a_pipe_and_the_totals_in_words(capsys):
    code, said = command(
        capsys, "torchvision:shufflenet_v2_x0_5", "--image", "64", "--no-time", "--depth", "1"
    )
    assert code == 0
    rows = said.out.splitlines()
    model = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None)
    assert [row.split()[0] for row in rows[1:9]] == [
        "(network)",
        *(name for name, _ in model.named_children()),
    ]
    assert not rows[9].strip()
    assert "1,366,792 parameters" in said.out
    assert "4.24 MMACs executed = 8.49 MFLOPs (1 MAC = 2 FLOPs)" in said.out
    assert "\x1b" not in said.out


def test_the_command_prints_json_and_nothing_else(capsys):
    code, said = command(capsys, "torchvision:squeezenet1_1", "--image", "64", "--json", "--seconds", "0.01")
    assert code == 0
    parsed = Profile.from_json(said.out)
    assert parsed.total.parameters == json.loads(said.out)["root"]["cost"]["parameters"] == 1235496
    assert parsed.inputs == ((1, 3, 64, 64),)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["resnext51"], "did you mean"),
        (["torchvision:vgg11", "--image", "7"], "image=7: must be a size that torchvision:vgg11 takes"),
        (["torchvision:vgg11", "--batch", "0"], "batch=0: must be an int from 1 to 1048576"),
    ],
)
def test_a_mistake_is_one_clear_line(capsys, argv, message):
    code, said = command(capsys, *argv)
    assert code == 2
    assert message in said.err
    assert len(said.err.strip().splitlines()) == 1


def test_a_profile_is_printed_as_its_table_and_totals():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    found = profile(model, torch.rand(1, 3, 8, 8), time=False)
    lines = str(found).splitlines()
    heads = "layer what output params MACs of all ideal dense bytes rearranged FLOPs/byte"
    assert lines[0].split() == heads.split()
    assert lines[2].split()[:2] == ["0", "Conv2d"] and "224" in lines[2] and "LayerProfile" not in str(found)
    assert "224 parameters" in lines and len(lines[1].rstrip()) <= len(lines[0]) + 1
