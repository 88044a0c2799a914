"""Counted MACs against a counted loop over groups, forward and backward, for every number of groups."""

import threading

import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn import functional as F

from regroup.ops.counting import Counter, UncountedWarning, count, count_macs
from regroup.ops.passes import Call, Reference
from regroup.spec import ConvSpec, Cost, divisors

from .problems import problems


def counted(function, *inputs):
    """Return the MACs of a forward pass, and of forward and backward."""
    with Counter() as counter:
        y = function(*inputs)
        forward = counter.macs
        y.sum().backward()
    assert not counter.uncounted
    return forward, counter.macs - forward


@pytest.mark.parametrize("groups", divisors(32))
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 0, 1), (1, 2, 2)])
def test_forward_and_backward_are_those_of_a_loop_over_groups(groups, stride, padding, dilation):
    spec = ConvSpec(32, 64, 3, stride, padding, dilation)
    x = torch.randn(2, 32, 9, 8, requires_grad=True)
    weight = torch.randn(64, 32 // groups, 3, 3, requires_grad=True)
    sizes = (stride,) * 2, (padding,) * 2, (dilation,) * 2
    call = Call(tuple(x.shape), tuple(weight.shape), *sizes, groups)
    loop = counted(lambda x, w: Reference().forward(x, w, None, call), x, weight)
    whole = counted(lambda x, w: F.conv2d(x, w, None, stride, padding, dilation, groups), x, weight)
    macs = 2 * spec.cost((9, 8), groups).macs
    assert whole == loop == (macs, 2 * macs)


@given(problems())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_formula_of_the_spec_is_what_is_counted(problem):
    spec, groups, _, size = problem
    layer = nn.Conv2d(
        spec.in_channels,
        spec.out_channels,
        spec.kernel_size,
        spec.stride,
        spec.padding,
        spec.dilation,
        groups,
        spec.bias,
    )
    assert count(layer, size) == spec.cost(size, groups)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_transposed_convolutions_count_right_in_training_too(groups):
    x = torch.randn(1, 16, 5, 5, requires_grad=True)
    layer = nn.ConvTranspose2d(16, 24, 3, stride=2, groups=groups, bias=False)
    macs = 16 * 24 // groups * 9 * 25  # every input pixel meets every weight of its channel once
    assert counted(layer, x) == (macs, 2 * macs)


def test_only_the_gradients_that_are_asked_for_count():
    x = torch.randn(1, 8, 5, 5)
    layer = nn.Conv2d(8, 8, 3, groups=4, bias=False)
    forward, backward = counted(layer, x)
    assert backward == forward


def test_counting_neither_moves_nor_changes_the_module():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    count(module, (5, 5))
    assert module.training
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())


def test_modules_in_any_floating_type_are_counted():
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert count(nn.Conv2d(3, 4, 3, bias=False).to(dtype), (5, 5)) == Cost(108, 972)


def test_linear_layers_count_and_their_input_is_known():
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    assert count(module, (2, 2), in_channels=3) == Cost(65, 60)
    assert count_macs(nn.Linear(12, 5), torch.zeros(1, 12)) == 60
    with pytest.raises(ValueError, match="give in_channels"):
        count(nn.ReLU(), (2, 2))


class OutsideOfPyTorch(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy() @ x.numpy())


class Cumulative(nn.Module):
    def forward(self, x):
        return x.cumprod(1)


@pytest.mark.parametrize(
    ("module", "name"), [(OutsideOfPyTorch(), "Tensor.numpy"), (Cumulative(), "aten.cumprod")], ids=str
)
def test_what_is_not_counted_is_said(module, name):
    with pytest.warns(UncountedWarning, match=name):
        assert count_macs(module, torch.ones(3, 3)) == 0


def test_who_counts_while_another_thread_counts_leaves_compiling_on():
    """Each put back what it had found; the one that ended last left all of the process to run as written."""
    torch.compiler.set_stance("default")
    began, other_began, ended = threading.Event(), threading.Event(), threading.Event()

    class Waits(nn.Linear):
        def __init__(self, begin, until):
            super().__init__(4, 4)
            self.__dict__ |= {"begin": begin, "until": until}

        def __deepcopy__(self, memo):
            return Waits(self.begin, self.until)

        def forward(self, x):
            self.begin.set()
            assert self.until.wait(60)
            return super().forward(x)

    def first():
        count(Waits(began, other_began), (1, 4), 4)
        ended.set()

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert began.wait(60)
    threads.append(threading.Thread(target=count, args=(Waits(other_began, ended), (1, 4), 4)))
    threads[1].start()
    for thread in threads:
        thread.join(60)
    compiled = []
    torch._dynamo.reset()
    torch.compile(lambda x: x + 1, backend=lambda graph, _: compiled.append(graph) or graph)(torch.ones(2))
    assert compiled
