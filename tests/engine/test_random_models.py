"""Random models against eager PyTorch: results, what they share, inputs, state, at several batch sizes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from regroup.engine.running import parts
from regroup.engine.running.compiled import compile
from tests.engine import random_models
from tests.engine.random_models import SIDE, Out, make

EXAMPLES = int(os.environ.get("REGROUP_FUZZ", 1500)) // 10
"""A tenth of what kernels get: 10,000 in the long run, 150 in every run."""

_ANY = st.integers(0, len(random_models.STEPS) - 1)
_PURE = st.integers(0, random_models.STEPS.index(random_models._count) - 1)
"""Steps that compute: most are, so that not every model runs in PyTorch for one of the others."""
PROGRAMS = st.lists(
    st.tuples(st.one_of(*[_PURE] * 6, _ANY), st.integers(0, 5), st.integers(0, 63)), min_size=1, max_size=6
)
SIZES = st.lists(st.sampled_from([1, 2, 3, 5, 7, 0]), min_size=2, max_size=4)


@pytest.fixture(autouse=True, scope="module")
def _parts_of_any_size() -> Iterator[None]:
    """Modules of networks that cannot be recorded run natively however little they multiply."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_LEAST_MACS", 1)
        yield


class _World:
    """A model and the globals, classes and generators around it: one of these runs at a time."""

    def __init__(self, model: nn.Module, run: Any) -> None:
        self.model, self.run = model, run
        self.globals = 0, 0
        self.generators = None

    def call(self, x: Tensor) -> list[Any]:
        """Return all that a call shows: the result, the input, and the state afterwards."""
        random_models.COUNT, random_models.GLOBALS["total"] = self.globals
        if self.generators is None:
            random.seed(3)
            np.random.seed(3)
            torch.manual_seed(3)
        else:
            _set_generators(self.generators)
        try:
            with torch.no_grad():
                result = self.run(x)
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        seen = [_shown(result), _shown(x), *self._touched(result, x), _shown(self._state())]
        self.generators = _get_generators()
        self.globals = random_models.COUNT, random_models.GLOBALS["total"]
        seen += [self.globals, random.random(), np.random.random(), torch.rand(1).item()]
        return seen

    def _touched(self, result: Any, x: Tensor) -> list[Any]:
        """Write into each tensor of the result, and return who else has changed, and who is whom."""
        if isinstance(result, Out):
            result = result.y
        leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        for position, leaf in enumerate(leaves):
            if leaf.numel():
                with torch.no_grad():
                    leaf[(0,) * leaf.dim()] += position + 1
        same = [[a is b for a in (*leaves, x)] for b in leaves]
        return [[_shown(leaf) for leaf in leaves], same, _shown(x)]

    def _state(self) -> dict[str, Any]:
        held = {k: v for k, v in vars(self.model).items() if not k.startswith("_") and k != "tick"}
        held |= {"calls": getattr(type(self.model), "calls", 0), "box": self.model.box.content}
        held |= {"ticks": [cell.cell_contents for cell in self.model.tick.__closure__]}
        held |= {"drawn": hash(self.model.random.getstate())}
        held |= {"drawn by NumPy": str(self.model.numpy_random.bit_generator.state)}
        for name in ("iterator", "random", "numpy_random"):
            held.pop(name)
        return held | self.model.state_dict()


def _get_generators() -> tuple:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_generators(states: tuple) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def _shown(value: Any) -> Any:
    """Return a value in a form that two of which can be compared."""
    if isinstance(value, Tensor):
        return ["tensor", value.dtype, tuple(value.shape), value.tolist()]
    if isinstance(value, Out):
        return ["Out", _shown(value.y), value.n]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return [type(value).__name__, *[(key, _shown(one)) for key, one in value.items()]]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(_shown, value)]
    return value if isinstance(value, (int, float, str, type(None))) else type(value).__name__


def compare(program: list, result: int, hook: int, sizes: list[int], example: int) -> bool:
    """Assert that a compiled network and the model do the same; tell whether anything was compiled."""
    ours, theirs = make(program, result, hook), make(program, result, hook)
    generator = torch.Generator().manual_seed(example)
    random_models.COUNT, random_models.GLOBALS["total"] = 0, 0
    fast = compile(ours, torch.zeros(example, SIDE, SIDE, SIDE))
    here, beside = _World(ours, fast), _World(theirs, theirs)
    assert _shown(here._state()) == _shown(beside._state()), "compiling has changed the model"
    assert (random_models.COUNT, random_models.GLOBALS["total"]) == (0, 0)
    again = sizes if fast._prepared.plan(sizes[-1]).parts is None else [*sizes, *sizes]  # then in parts
    for batch in again:
        x = torch.randint(-2, 3, (batch, SIDE, SIDE, SIDE), generator=generator).float()
        wanted = beside.call(x.clone())
        got = here.call(x.clone())
        for one, other in zip(got, wanted, strict=True):
            assert one == other, f"at a batch of {batch}"
    return bool(fast._prepared.plan(sizes[-1]).segments)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(PROGRAMS, st.integers(0, 63), st.integers(0, 63), SIZES, st.sampled_from([1, 5, 3]))
def test_a_random_model_does_what_it_does_in_eager(program, result, hook, sizes, example):
    compare(program, result, hook, sizes, example)


@pytest.mark.parametrize("number", range(len(random_models.STEPS)))
def test_every_step_after_a_convolution(number):
    """Each step alone, so that none is left out by chance."""
    for n in range(EXAMPLES // 75):
        compare([(0, 0, n), (number, 0, n), (1, 1, n + 1)], n, 0, [1, 5, 2], 5 if n % 2 else 1)
