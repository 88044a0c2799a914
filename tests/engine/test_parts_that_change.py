"""Networks that run in parts and change, keep or compare their modules: all is as in eager mode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from regroup import compile
from regroup.engine.running import parts

X = torch.arange(2 * 8).reshape(2, 8).remainder(5).float() - 2


@pytest.fixture(autouse=True)
def _whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(parts, "_LEAST_MACS", 1)
    return


def layer(seed: int = 0) -> nn.Linear:
    """Return a layer of small whole weights, whose sums are exact."""
    made, numbers = nn.Linear(8, 8), torch.Generator().manual_seed(seed)
    for weight in made.parameters():
        weight.data = torch.randint(-3, 4, weight.shape, generator=numbers).float()
    return made


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = layer(), 1.0
        self.register_buffer("shift", torch.zeros(8))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.layer(x) * self.scale + self.shift
        if mask is None:
            return y
        return y.masked_fill(mask, 7) if mask.dtype == torch.bool else y * mask


class Net(nn.Module):
    """A network that looks at numbers, and then does what it is given."""

    def __init__(self, does: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        self.does = does
        self.part, self.items, self.calls = Scaled(), nn.ModuleList([layer(1), layer(2)]), 0
        self.kept: Any = None

    def forward(self, x: Tensor) -> Any:
        self.calls += x.sum().item() < 1e9
        return self.does(self, x)


def masks(net: Net, x: Tensor) -> list[Tensor]:
    mask = x > 0
    return [net.part(x, m) for m in (mask, mask.float(), mask.int() * 3, mask.float(), mask)]


def scales(net: Net, x: Tensor) -> Tensor:
    net.part.scale = float(net.calls)
    return net.part(x)


def shifts(net: Net, x: Tensor) -> Tensor:
    net.part.shift.add_(1)
    return net.part(x)


def keeps(net: Net, x: Tensor) -> Tensor:
    if net.kept is None:
        net.kept = [net.part, partial(net.part), net.items[1:]]
    return net.kept[0](x) + net.kept[1](x) + net.kept[2][0](x)


def threads(net: Net, x: Tensor) -> list[Tensor]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(torch.no_grad()(lambda y: net.part(y)), [x, 2 * x]))


def deletes(net: Net, x: Tensor) -> Tensor:
    if net.calls == 2:
        del net.items[0]
    return net.items[0](x)


def inserts(net: Net, x: Tensor) -> Tensor:
    if net.calls == 2:
        net.items.insert(0, net.part)
    return net.items[0](x)


class Asks(Net):
    """A network that asks which object a module is."""

    def __init__(self) -> None:
        super().__init__(lambda net, x: x)
        self.kept = [self.part]

    def forward(self, x: Tensor) -> Any:
        return self.part(x) * (1 if x.sum().item() < 1e9 else 2), torch.tensor(self.kept[0] is self.part)


class Identifies(Net):
    def __init__(self) -> None:
        super().__init__(lambda net, x: x)
        self.gains = {id(self.part): 3.0}

    def forward(self, x: Tensor) -> Any:
        return self.part(x) * self.gains.get(id(self.part), 1.0) * (1 if x.sum().item() < 1e9 else 2)


def _results(net: nn.Module, calls: int = 5) -> list[list[Tensor]]:
    with torch.no_grad():
        found = [net(X.clone()) for _ in range(calls)]
    return [[one] if isinstance(one, Tensor) else list(one) for one in found]


def _equal(one: list[list[Tensor]], other: list[list[Tensor]]) -> bool:
    pairs = zip(chain(*one), chain(*other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("does", [masks, scales, shifts, keeps, threads, deletes, inserts])
def test_what_a_network_does_with_its_modules_is_done(does: Callable, frozen: bool) -> None:
    """At 975a04e: masks of another type met code for the first; frozen parts kept what the code had changed;
    kept stand-ins could not be called by anyone else; a module list in parts could not lose an entry."""
    net = Net(does).eval()
    fast = compile(net, X, frozen=frozen)
    assert _equal(_results(fast), _results(copy.deepcopy(Net(does)).eval()))
    if not frozen:  # what the compiled network kept, the network itself can use
        alone = copy.deepcopy(net)
        assert _equal(_results(net), _results(alone))


@pytest.mark.parametrize("kind", [Asks, Identifies])
def test_modules_known_by_which_object_they_are(kind: type[Net]) -> None:
    net = kind().eval()
    assert _equal(_results(compile(net, X)), _results(net))


def test_a_module_may_become_one_of_another_class() -> None:
    class Twice(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    net = Net(lambda net, x: net.items[0](x) + net.items[0].weight.sum()).eval()
    fast = compile(net, X)
    before = _results(fast)
    parametrize.register_parametrization(net.items[0], "weight", Twice())
    assert _equal(_results(fast), _results(net))
    assert not _equal(_results(fast), before)
    parametrize.remove_parametrizations(net.items[0], "weight", leave_parametrized=False)
    assert _equal(_results(fast), before)
