"""Devices that share a network's channels compute what one device computes: here the devices are threads."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from regroup.errors import ConfigError, ParallelError
from regroup.ops.counting import Counter
from regroup.parallel import gathered, plan, scattered
from regroup.parallel.state import gather_part
from tests.parallel.magnitude import digits, magnitude, worst
from tests.parallel.networks import alexnet, batch, condensenet, igcv3, resnext, shufflenet, started
from tests.parallel.threads import together

FAMILIES = [
    (alexnet, 2),
    (resnext, 2),
    (resnext, 4),
    (shufflenet, 2),
    (shufflenet, 4),
    (condensenet, 4),
    (igcv3, 2),
    (igcv3, 4),
]


def gradients(model, x, weights):
    out = model(x)
    (out * weights).sum().backward()
    return out.detach()


def whole_gradients(model, wire):
    splits = model.shared_plan.splits
    return {n: gather_part(p.grad, splits.get(n), wire) for n, p in model.named_parameters()}


@pytest.mark.parametrize(("make", "devices"), FAMILIES)
def test_outputs_and_gradients_are_those_of_one_device_within_rounding(make, devices):
    options = {"norm": "none"} if make is alexnet else {}
    model = started(make, **options).double().eval()
    x, _ = batch(make)
    x, weights = x.double(), torch.randn(len(x), 5, dtype=torch.float64)
    alone = copy.deepcopy(model)
    out = gradients(alone, x, weights)

    def task(shared, wire):
        wire.log.clear()
        found = gradients(shared, x, weights)
        sent = [(s.kind, s.layer, s.backward, s.bytes) for s in wire.log]
        counted = wire.counted
        return found, whole_gradients(shared, wire), sent, counted

    decided, results = together(model, devices, (x,), task)
    assert not decided.notes  # every operator has a rule
    largest, slopes = magnitude(model, x, weights)
    for device, (found, grads, sent, counted) in enumerate(results):
        assert worst(found, out, largest, model) <= 1
        assert digits(found, out) > 0.5
        for name, parameter in alone.named_parameters():
            pixels = x[0, 0].numel() * len(x)  # a weight's gradient is a sum over these, too
            assert worst(grads[name], parameter.grad, slopes[name], model, pixels) <= 1
            assert digits(grads[name], parameter.grad) > 0.5
        assert sent == [(s.kind, s.layer, s.backward, s.bytes) for s in decided.sent]
        assert counted == decided.received(device)


def test_the_paper_s_two_towers_talk_where_the_paper_says():
    """Figure 2: convolutions 2, 4 and 5 read their own tower; 3 and the dense layers read both."""
    decided = plan(started(alexnet), 2, batch(alexnet)[0])
    talking = [layer.name for layer in decided.layers if layer.received]
    assert talking == ["stages.1.0.conv", "hidden.1", "hidden.4", "classifier", ""]
    kinds = {layer.name: layer.collectives for layer in decided.layers}
    assert kinds["stages.1.0.conv"] == ("all-gather", "backward reduce-scatter")
    assert kinds["hidden.1"] == ("reduce-scatter", "backward all-gather")  # 432 inputs, 16 outputs
    halves = {layer.held for layer in decided.layers if "groups" in layer.held}
    assert halves == {"1 of 2 groups"}


def test_macs_and_parameters_of_a_device_are_those_that_run_on_it():
    model, (x, _) = started(shufflenet).eval(), batch(shufflenet)

    def task(shared, wire):
        with Counter() as counter, torch.no_grad():
            shared(x)
        return counter.macs, sum(p.numel() for p in shared.parameters())

    decided, results = together(model, 4, (x,), task)
    assert max(results) == (decided.groups.macs, decided.groups.parameters)
    assert decided.groups.macs < decided.data.macs * 1.5
    assert sum(macs for macs, _ in results) == decided.data.macs * 4


class Odd(nn.Module):
    """What networks do beside layers: views, slices, gates, a scale, an operator without a rule."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.scale = nn.Parameter(torch.randn(12, 1, 1))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 12, 1), nn.Sigmoid())
        self.slope = nn.PReLU()
        self.grouped = nn.Conv2d(8, 8, 3, groups=4, padding="same")
        self.norm = nn.GroupNorm(2, 8)
        self.masked = nn.Parameter(torch.randn(6, 8, 1, 1))
        self.response = nn.LocalResponseNorm(5, alpha=1.0)
        self.narrow = nn.Conv2d(6, 1, 1)
        self.last = nn.Linear(6 * 64 + 1, 5)

    def forward(self, x):
        x = self.response(self.stem(x) * self.scale)
        x = F.relu6(self.slope(x * self.gate(x)), inplace=True)
        n, c, h, w = x.shape
        x = x.view(n, 3, 4, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)
        a, b = x[:, 4:], x[:, :8].flip(1)
        x = self.grouped(a + b)
        x = torch.cat([x[:, ::2, ::2], x[:, 1::2, ::2]], 1).transpose(2, 3)
        x = F.relu_(self.norm(F.relu(x)))
        x = F.conv2d(x, self.masked * (self.masked > 0))
        side = self.narrow(x).mean((2, 3))
        x = F.pad(F.max_pool2d(x, 2), (0, 0, 1, 1))
        return self.last(torch.cat([F.interpolate(x, size=(8, 8)).flatten(1), side], 1))


@pytest.mark.parametrize("devices", [2, 4])
def test_so_does_a_network_of_odd_operators(devices):
    torch.manual_seed(0)
    model = Odd().double()
    x, weights = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    alone = copy.deepcopy(model)
    out = gradients(alone, x, weights)

    def task(shared, wire):
        return gradients(shared, x, weights), whole_gradients(shared, wire), gathered(shared)

    decided, results = together(model, devices, (x,), task)
    assert any("flip" in note for note in decided.notes.values())
    for found, grads, state in results:
        assert digits(found, out) > 0.5
        for name, parameter in alone.named_parameters():
            assert digits(grads[name], parameter.grad) > 0.5, name
        assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())


def test_a_state_dict_that_was_gathered_is_scattered_again():
    model, (x, _) = started(condensenet), batch(condensenet)

    def task(shared, wire):
        before = {n: t.clone() for n, t in shared.state_dict().items()}
        shared.load_state_dict(scattered(shared, gathered(shared)))
        return all(torch.equal(t, before[n]) for n, t in shared.state_dict().items())

    assert together(model, 4, (x,), task)[1] == [True] * 4


def test_devices_that_share_no_groups_are_refused_and_the_network_is_left_as_it_was():
    model = started(alexnet)
    with pytest.raises(ConfigError, match="devices=3: must be a number that divides the groups"):
        plan(model, 3, batch(alexnet)[0])
    assert model.training and type(model).__name__ == "AlexNet"
    assert all(not p.is_meta for p in model.parameters())


def test_an_operator_in_place_on_a_view_is_refused():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x):
            x = self.conv(x)
            x[:, :4].relu_()
            return x

    with pytest.raises(ParallelError, match="in place"):
        plan(InPlace(), 2, torch.randn(1, 3, 4, 4))


class Between(nn.Module):
    """Two convolutions of which one is grouped, then what a test wants of their 8 channels."""

    def __init__(self, then, **more):
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2))
        self.then = then
        for name, module in more.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.then(self, self.convs(x))


def added(model, x):
    total = x.new_zeros(x.shape)
    return total.add_(x)


def added_to_zeros(model, x):
    total = torch.zeros(x.shape)
    total += x
    return total


def dropped_out(model, x):
    F.dropout(x[:, :4], 0.5, training=True, inplace=True)
    return x * 1


def out_of_sum(model, x):
    torch.add(x, x, out=x)
    return x


def detached(model, x):
    x.detach().mul_(2)
    return x


def grown(model, x):
    return x.mean((2, 3), True).add_(x)


@pytest.mark.parametrize("then", [added, added_to_zeros, dropped_out, out_of_sum, detached, grown])
def test_what_would_change_another_tensor_in_place_is_refused(then):
    with pytest.raises(ParallelError, match="in place has no rule"):
        plan(Between(then), 2, torch.randn(2, 3, 4, 4))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def checkpointed(model, x):
    return checkpoint(model.convs[1], x, use_reentrant=False)


def checkpointed_as_ever(model, x):
    return checkpoint(torch.relu, x, use_reentrant=True)


@pytest.mark.parametrize(
    ("then", "told"),
    [
        (lambda m, x: x + Doubled.apply(x), "the autograd function Doubled has no rule"),
        (checkpointed, "activation checkpointing"),
        (checkpointed_as_ever, "checkpointing: switch it off"),
        (lambda m, x: F.batch_norm(x[:1].mean((2, 3), True), None, None, training=True), "more images"),
    ],
)
def test_what_would_lose_gradients_or_has_too_few_images_is_refused(then, told):
    with pytest.raises(ParallelError, match=told):
        plan(Between(then), 2, torch.randn(2, 3, 4, 4))
    assert Doubled.apply(torch.ones(1)) == 2  # elsewhere they are what they were


REST = {
    "variance": lambda m, x: x.var((2, 3), False),
    "deviation": lambda m, x: torch.std(x, (2, 3), True, True),
    "correction": lambda m, x: x.var((2, 3), correction=0, keepdim=True),
    "sum": lambda m, x: x.sum((2, 3), True),
    "cast": lambda m, x: (x.to(x.dtype).mul_(2), x)[1] + x.detach(),
    "ones": lambda m, x: x * torch.ones(8, 1, 1) + torch.arange(8).view(8, 1, 1),
    "joined": lambda m, x: torch.cat([x, torch.ones(2, 2, 4, 4)], 1)[:, torch.arange(1, 9)],
    "chosen": lambda m, x: x.softmax(1).index_select(1, torch.arange(4)),
    "weights": lambda m, x: F.conv2d(x, m.conv.weight - m.conv.weight.mean((2, 3), True)),
    "thinned": lambda m, x: F.conv2d(x, F.dropout(m.conv.weight, 0.0)),
}


@pytest.mark.parametrize("then", REST)
def test_flags_and_tensors_made_in_forward_are_as_on_one_device(then):
    torch.manual_seed(0)
    model = Between(REST[then], conv=nn.Conv2d(8, 4, 3)).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    want = model(x).detach()
    for found in together(model, 2, (x,), lambda own, wire: own(x).detach())[1]:
        assert found.shape == want.shape and digits(found, want) > 0.5


@pytest.mark.parametrize("tied", ["module", "weight"])
def test_tied_weights_are_whole_under_each_name(tied):
    torch.manual_seed(0)
    conv, again = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    again.weight = conv.weight
    second = conv if tied == "module" else again
    model = Between(lambda m, x: m.second(m.first(x)), first=conv, second=second).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    want = model(x).detach()

    def task(shared, wire):
        state = gathered(shared)
        shared.load_state_dict(scattered(shared, state))
        return shared(x).detach(), state

    for found, state in together(model, 2, (x,), task)[1]:
        assert digits(found, want) > 0.5
        assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
    assert not any(p.is_meta for p in model.parameters())


def counted(model, x):
    return x * (x.abs() > x.mean()).nonzero().shape[0]


def branched(model, x):
    return x if x.sum() > 0 else -x


@pytest.mark.parametrize("then", [counted, branched])
def test_a_network_that_looks_at_its_numbers_cannot_be_planned(then):
    with pytest.raises(ParallelError, match="cannot be shared among devices: what it does depends on"):
        plan(Between(then), 2, torch.randn(2, 3, 4, 4))
