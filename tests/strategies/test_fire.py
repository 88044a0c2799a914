"""Fire against torchvision's module and SqueezeNet's table."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.squeezenet import Fire as Theirs

from regroup.errors import StrategyError
from regroup.spec import ConvSpec
from regroup.strategies.fire import Fire, FireModule


def test_the_module_equals_torchvisions_with_the_same_weights():
    theirs = Theirs(24, 4, 16, 20).double()
    ours = FireModule(ConvSpec(24, 36, 3, padding=1, bias=True), 4, 16).double()
    ours.squeeze.load_state_dict(theirs.squeeze.state_dict())
    ours.expand[0].load_state_dict(theirs.expand1x1.state_dict())
    ours.expand[1].load_state_dict(theirs.expand3x3.state_dict())
    x = torch.randn(2, 24, 7, 9, dtype=torch.float64)
    torch.testing.assert_close(F.relu(ours(x)), theirs(x))


@pytest.mark.parametrize(
    ("outputs", "squeeze", "expand"), [(128, 16, 64), (256, 32, 128), (384, 48, 192), (512, 64, 256)]
)
def test_default_widths_are_those_of_squeezenet(outputs, squeeze, expand):
    spec = ConvSpec(96, outputs, 3, padding=1, bias=True)
    assert Fire().widths(spec) == (squeeze, expand)
    theirs = Theirs(96, squeeze, expand, expand)
    assert Fire().cost(spec, (54, 54)).parameters == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("spec", [ConvSpec(8, 10, 5, 2, padding=0), ConvSpec(8, 10, (3, 5), padding=(-1, 2))])
def test_the_1x1_part_stands_in_the_centre_of_the_kernel(spec):
    module = Fire().build(spec)
    x = torch.rand(1, 8, 13, 13)
    squeezed = module.act(module.squeeze(x))
    small, large = module.expand
    wide = next(large.parameters())
    torch.nn.init.zeros_(wide)
    wide.data[:, :, spec.kernel_size[0] // 2, spec.kernel_size[1] // 2] = next(small.parameters())[:, :, 0, 0]
    assert torch.allclose(small(squeezed), large(squeezed))


@pytest.mark.parametrize("outputs", [2, 3, 5, 9])
def test_few_outputs_still_leave_one_for_each_part(outputs):
    for share in (0.01, 0.5, 0.99):
        _, point = Fire(large=share).widths(ConvSpec(4, outputs, 3))
        assert 1 <= point <= outputs - 1


def test_what_cannot_be_done_is_refused_by_name():
    with pytest.raises(StrategyError, match="out_channels=1: must be at least 2"):
        Fire().build(ConvSpec(4, 1, 3))
    with pytest.raises(StrategyError, match=r"kernel_size=\(2, 2\): must be odd; a 1x1 has to stand"):
        Fire().build(ConvSpec(4, 8, 2))
    with pytest.raises(StrategyError, match="large=1"):
        Fire(large=1)
    with pytest.raises(StrategyError, match="squeeze=0"):
        Fire(squeeze=0)
