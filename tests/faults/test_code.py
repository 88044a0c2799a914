"""A user's module that is edited, loaded or not, with byte code that is older: two runs of different code."""

import importlib
import os
import random
import sys

import pytest

from regroup.errors import ConfigError
from regroup.files.imports import FINDER
from regroup.training.code import sources
from tests.faults.programs import LONG

TEXT = '''
"""A network of somebody's."""
import functools
from torch import nn

SCALE = {0}
SIZES = ({1}, 8)
TABLE = {{"twice": lambda x: {2} * x, "thrice": lambda x: {3} * x}}
COMPUTED = [n + {4} for n in range(3)]
WHOLE = list({whole})

def doubled(function):
    @functools.wraps(function)
    def inner(*arguments):
        return {5} * function(*arguments)
    return inner

def outer(k={6}):
    def inner(x, *, m={7}):
        return x + k + m + {8}
    return inner

@doubled
def decorated(x):
    return x - {9}

class Base(nn.Module):
    expansion = {10}

    def __init__(self, width={11}):
        super().__init__()
        self.width = width + {12}

    def __new__(cls, *arguments, __private={21}):
        return super().__new__(cls)

    __secret = {22}

    @property
    def wide(self):
        return self.width * {13}

    @staticmethod
    def fixed(x):
        return x // {14}

class Net(Base):
    act = staticmethod(outer({15}))

    @classmethod
    @functools.cache
    def made(cls):
        return cls(TABLE["twice"](SCALE) + {16})

    def forward(self, x):
        return [x * {17} for _ in SIZES]

    class Inner:
        deep = -{18}

        def method(self, x):
            return lambda: (x, {19}, frozenset([1, {20}]))
'''
SPOTS = 23
COMPUTED = {4, 15}
"""Spots whose numbers only statements see, which Python does not keep but as byte code."""


def text(numbers):
    return TEXT.format(*numbers, whole=numbers)


def edited(numbers, chance, spots):
    """Return other numbers: one changed, or two exchanged that differ."""
    numbers = list(numbers)
    one, other = chance.sample(spots, 2)
    if chance.random() < 0.5 and numbers[one] != numbers[other]:
        numbers[one], numbers[other] = numbers[other], numbers[one]
    else:
        numbers[one] = numbers[one] % 9 + 1
    return tuple(numbers)


class Module:
    """A module in a file, what of it is loaded, and what the identities of runs said."""

    def __init__(self, place, name, chance):
        self.path, self.name, self.chance = place / f"{name}.py", name, chance
        self.module, self.was = None, None

    def write(self, numbers):
        self.path.write_text(text(numbers))
        if self.chance.random() < 0.5:  # within one second, and as large
            os.utime(self.path, (1_700_000_000, 1_700_000_000))

    def load(self):
        """Load as the file is, or as Python thinks that it is."""
        importlib.invalidate_caches()
        self.module = importlib.reload(self.module) if self.module else importlib.import_module(self.name)


@pytest.mark.parametrize("kept", [True, False], ids=["byte code", "none"])
def test_two_runs_of_different_loaded_code_share_no_identity(kept, tmp_path, monkeypatch, tried):
    """Edits, loads, stale byte code and runs in any order: what is loaded tells, or an error is raised."""
    seed = random.SystemRandom().randrange(10**6)
    chance, by_code, by_identity, refused, turns = random.Random(seed), {}, {}, 0, max(60, 15 * LONG)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [each for each in sys.meta_path if each is not FINDER])
    monkeypatch.setattr(sys, "dont_write_bytecode", not kept)
    spots = [n for n in range(SPOTS) if kept or n not in COMPUTED]
    numbers, module = tuple(chance.randint(1, 9) for _ in range(SPOTS)), None
    for turn in range(turns):
        if module is None or chance.random() < 0.1:
            module = Module(tmp_path, f"of_mine_{seed}_{turn}", chance)
            module.write(numbers)
            module.load()
        step = chance.random()
        if step < 0.6:
            numbers = edited(numbers, chance, spots)
            module.write(numbers)
        if step > 0.4:
            module.load()
        try:
            (found,) = sources([module.module.Net]).values()
        except ConfigError as error:
            assert "it was changed" in str(error) or "older byte code" in str(error), f"seed {seed}"
            refused += 1
            module = None
            continue
        code = str(module.module.WHOLE)
        assert by_code.setdefault(code, found) == found, f"seed {seed}, {turn}: one code, two identities"
        assert by_identity.setdefault(found, code) == code, f"seed {seed}, {turn}: two codes, one identity"
    assert refused < 0.8 * turns and len(by_code) > turns / 12
    tried("edits of a module, loaded or not, before a run", turns)
