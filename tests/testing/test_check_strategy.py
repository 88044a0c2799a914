"""The conformance suite serves outsiders: a short strategy passes, a wrong one learns what is wrong."""

from functools import partial

import hypothesis
import pytest
import torch
from hypothesis import Phase
from torch import nn

from regroup.errors import StrategyError
from regroup.ops import reach
from regroup.ops.layers import conv, explicit
from regroup.spec import ConvSpec, Cost
from regroup.strategies import Strategy, parse_strategy, strategies, strategy
from regroup.strategies.learning import Learned
from regroup.testing import CHECKS, check_strategy, conv_specs, strategy_checks


@pytest.fixture(autouse=True)
def _only_for_this_test(monkeypatch):
    strategies.names()  # discover before copying
    monkeypatch.setattr(strategies, "_items", dict(strategies._items))


def two_branches():
    """A strategy as an outsider would write it: half the outputs from a 1x1, half from the kernel."""

    @strategy("halves", paper="this test")
    class Halves(Strategy):
        """Sum of a pointwise and a full convolution of one channel."""

        def check(self, spec):
            if any(k % 2 == 0 for k in spec.kernel_size):
                raise StrategyError("kernel_size", spec.kernel_size, "odd", "leave this layer dense")

        def build(self, spec):
            self.check(spec)
            small = spec.with_kernel(1).with_channels(spec.in_channels, 1)
            return nn.Sequential(conv(small), conv(spec.pointwise(1, spec.out_channels)))

        def cost(self, spec, size):
            small = spec.with_kernel(1).with_channels(spec.in_channels, 1)
            return small.cost(size) + Cost(
                spec.out_channels, spec.out_channels * spec.output_size(size)[0] * spec.output_size(size)[1]
            )

        def reach(self, spec):
            return reach.full(spec.out_channels, spec.in_channels)

        def reference(self, module, x):
            return explicit(module[1], explicit(module[0], x))

        def take(self, module, dense):
            return "one channel holds little of it"

    return Halves()


def only_build():
    @strategy("onlybuild", paper="this test")
    class OnlyBuild(Strategy):
        """Depthwise, then pointwise, with nothing said about it."""

        def build(self, spec):
            c = spec.in_channels
            depthwise = ConvSpec(c, c, spec.kernel_size, spec.stride, spec.padding, spec.dilation)
            return nn.Sequential(conv(depthwise, c), conv(spec.pointwise(c, spec.out_channels, spec.bias)))

    return OnlyBuild()


def test_an_outsiders_strategy_passes_every_check():
    outcomes = {result.outcome for result in check_strategy(two_branches())}
    assert outcomes == {"passed", "refused"}


def test_a_strategy_with_nothing_but_build_passes_and_what_could_not_be_checked_is_noted():
    results = check_strategy(only_build())
    noted = {result.check for result in results if result.outcome == "noted"}
    assert noted == {"cost", "reach", "reference", "starts_from_dense"}
    assert any("reference is not given" in str(result) for result in results)


def test_an_outsiders_strategy_is_found_by_its_name():
    made = two_branches()
    assert parse_strategy("halves") == made
    assert check_strategy("halves")


def test_the_decorator_makes_one_test_for_each_check():
    mark = strategy_checks("dense", "grouped:groups=2").mark
    assert len(mark.args[1]) == 2 * len(CHECKS)
    assert mark.args[1][0].id == f"dense-{CHECKS[0]}"


class Wrong(Strategy):
    """A right strategy to start from: the tests break one thing each."""

    def build(self, spec):
        return conv(spec)

    def cost(self, spec, size):
        return spec.cost(size)

    def reach(self, spec):
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module, x):
        return explicit(module, x)


class Noisy(nn.Module):
    def __init__(self, layer, noise):
        super().__init__()
        self.layer, self.noise = layer, noise

    def forward(self, x):
        return self.noise(self.layer(x), x)


def refuses_badly(self, spec):
    if spec.in_channels == 7:
        raise KeyError("seven")


def builds_with_torch(self, spec):
    return nn.Conv2d(spec.in_channels, spec.out_channels, spec.kernel_size, spec.stride, spec.padding)


def builds_with_dead_weight(self, spec):
    module = conv(spec)
    module.unused = nn.Parameter(torch.ones(3))
    return module


def builds_with_noise(noise):
    return lambda self, spec: Noisy(conv(spec), noise)


def spreads(y, x):
    return y + x.mean() * 0.01


def forgets_its_state(self, spec):
    module = conv(spec)
    module.register_buffer("hidden", torch.rand(()), persistent=False)
    return Noisy(module, lambda y, x: y * module.hidden)


class Learner(Learned):
    """A learned layer to start from: what it learns is one number that changes nothing."""

    def __init__(self, spec):
        super().__init__()
        self.spec, self.layer = spec, conv(spec)
        self.register_buffer("number", torch.zeros(()))

    def forward(self, x):
        return self.layer(x)

    def set_progress(self, progress):
        if progress == 1 and not self.number:
            self.number.uniform_(1, 2)

    def deploy(self):
        return self.layer

    def grouping(self):
        return {"number": float(self.number)}

    def load_grouping(self, data):
        self.number.fill_(data["number"])


def builds_a_learner(**changes):
    return lambda self, spec: type("Changed", (Learner,), changes)(spec)


def test_a_right_learned_strategy_passes():
    learned = type("Learns", (Wrong,), {"__doc__": "Learns a number.", "build": builds_a_learner()})
    assert check_strategy(strategy("learns", paper="this test")(learned)())


MISTAKES = {
    "deployment": (
        {"build": builds_a_learner(deploy=lambda self: conv(self.spec).double())},
        "deployed and trained",
    ),
    "remainder": ({"build": builds_a_learner(deploy=lambda self: self)}, "deploy leaves a learned module"),
    "grouping": (
        {"build": builds_a_learner(load_grouping=lambda self, data: None)},
        "a grouping that is saved and loaded is another one",
    ),
    "relearning": (
        {"build": builds_a_learner(set_progress=lambda self, progress: self.number.add_(progress))},
        "learning goes on after a grouping was loaded",
    ),
    "cost": ({"cost": lambda self, spec, size: spec.cost(size, 1) + Cost(1)}, "formula says Cost"),
    "reach": (
        {"reach": lambda self, spec: ~reach.full(spec.out_channels, spec.in_channels)},
        "output 0 does not depend on input 0",
    ),
    "reference": ({"reference": lambda self, module, x: 2 * explicit(module, x)}, "module and reference"),
    "shape": (
        {"build": lambda self, spec: conv(spec.with_channels(spec.in_channels, spec.out_channels + 1))},
        "where dense gives",
    ),
    "padding": ({"build": builds_with_torch}, "negative padding"),
    "refusal": ({"check": refuses_badly}, "KeyError: 'seven'"),
    "gradient": ({"build": builds_with_dead_weight}, "parameter unused gets no gradient"),
    "noise": (
        {"build": builds_with_noise(lambda y, x: y + torch.rand(()))},
        "gives another result the second time",
    ),
    "input": ({"build": builds_with_noise(lambda y, x: (x.add_(1), y)[1])}, "changes its input"),
    "batch": ({"build": builds_with_noise(spreads)}, "one image at a time and a batch"),
    "state": ({"build": forgets_its_state}, "a new module with the same state dict gives another result"),
    "documentation": ({"__doc__": None}, "the class has no docstring"),
    "everything": (
        {"check": lambda self, spec: (_ for _ in ()).throw(StrategyError("spec", spec, "another"))},
        "refuses every convolution",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_strategy_fails_with_a_message_that_says_what_is_wrong(mistake, monkeypatch):
    changes, message = MISTAKES[mistake]
    body = {"__doc__": "Wrong on purpose.", "__module__": __name__, **changes}
    if mistake != "reference":  # one of them is shrunk; the others only have to be found
        monkeypatch.setattr(hypothesis, "settings", partial(hypothesis.settings, phases=[Phase.generate]))
    broken = strategy("wrong", paper="this test")(type(f"Wrong{mistake}", (Wrong,), body))
    with pytest.raises(AssertionError, match="wrong does not conform") as failure:
        check_strategy(broken(), [ConvSpec(8, 8, 3, padding=1), ConvSpec(7, 8, 3, padding=-1)])
    assert message in str(failure.value)


def test_checks_leave_the_random_numbers_of_their_caller_alone():
    state = torch.get_rng_state()
    check_strategy("dense", [ConvSpec(4, 4, 1)])
    assert torch.equal(torch.get_rng_state(), state)


def test_random_convolutions_reach_every_corner():
    from hypothesis import find

    for corner in (
        lambda s: s.before[0] < 0 and s.bias,
        lambda s: s.dims == 2 and s.kernel_size[0] != s.kernel_size[1] and s.stride[0] == 3,
        lambda s: s.in_channels == 1 and s.dilation == (2, 2),
        lambda s: s.dims == 1 and s.looks_back == (True,),
        lambda s: s.dims == 3 and s.kernel_size == (3, 1, 2),
    ):
        assert corner(find(conv_specs(), corner))
