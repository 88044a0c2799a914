"""See that a model is still the one that was compiled, in microseconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from regroup.engine.frontend.names import Names
from regroup.engine.watching.facts import facts, is_plain, place, span
from regroup.engine.watching.held import inside, lines
from regroup.engine.watching.proof import interfaces
from regroup.engine.watching.state import Watched
from regroup.engine.watching.surroundings import Surroundings
from regroup.errors import EngineError
from regroup.kernels.watch import tensors as glance_tensors


class Watch:
    """Remembers a model: its modules, their attributes and hooks, and every tensor that hangs on them.

    Any change that PyTorch counts is seen at the next look: in place (an optimiser's step,
    `load_state_dict`), `.data = `, a swapped tensor, another tensor, module, hook or setting assigned. It
    cannot be mistaken, for what was looked at is held: no other object and no other storage gets its address
    as long as it is remembered. So memory of weights that were replaced is given back by the first look that
    sees the replacement.

    What changes numbers without a trace (in place through `.data` or NumPy) is seen by reading them: the next
    look reads all numbers of tensors of up to 256, and of larger ones at least 128, evenly spread; the looks
    after it read those in between, and after `turns` looks every number has been read.

    Of what is around the model, that is followed which a recording has found: tensors that it has read, and
    what names in the model's code stand for (`Surroundings`).

    Raises:
        EngineError: PyTorch does not count the changes of these tensors.
    """

    def __init__(self, model: object) -> None:
        self._model = Watched(model)
        self._tensors = _Tensors(self._model.state.tensors)
        self._more: list[_Tensors] = []
        self._around: list[Surroundings] = []
        self._places: set[tuple[int, str]] = set()

    @property
    def turns(self) -> int:
        """After so many looks every number has been read."""
        return self._tensors.turns

    def unchanged(self) -> bool:
        """Tell whether all is as it was."""
        if not self._model.unchanged():
            return False
        if not all(around.unchanged() for around in self._around):
            return False
        return self._tensors.unchanged() and all(more.unchanged() for more in self._more)

    def follow(self, reads: Iterable[tuple[Tensor, int]], names: Names) -> None:
        """Watch what a recording has found around the model, too.

        Args:
            reads: tensors that it has read, each with its version then.
            names: what names stood for in the code that ran; where an earlier recording knows all of these
                places, its values are those that count.
        """
        if not names.places <= self._places:
            self._places |= names.places
            around = Surroundings(names, self._model.state)
            self._around = [*self._around, around]
            reads = [*reads, *((tensor, tensor._version) for tensor in around.tensors)]
        known = {storage._cdata for tensors in (self._tensors, *self._more) for storage in tensors.storages}
        new = [
            (t, version) for t, version in reads if is_plain(t) and t.untyped_storage()._cdata not in known
        ]
        if new:
            self._more = [*self._more, _Tensors([t for t, _ in new], [version for _, version in new])]


class _Tensors:
    """Remembers tensors, which others hold, and holds their storages.

    Args:
        tensors: what to remember.
        versions: those from which on; as they are now by default.
    """

    def __init__(self, tensors: Sequence[Tensor], versions: Sequence[int] | None = None) -> None:
        self._late = versions is not None and [t._version for t in tensors] != versions
        if any(tensor.is_inference() for tensor in tensors):
            reason = "the model was made under torch.inference_mode, where changes of weights are not counted"
            raise EngineError(f"{reason}: make it outside, or compile with frozen=True")
        self._plain = [tensor for tensor in tensors if is_plain(tensor)]
        self._others = [tensor for tensor in tensors if not is_plain(tensor)]
        self.storages = [tensor.untyped_storage() for tensor in self._plain]
        self._facts, self._facts_of_others = list(map(facts, self._plain)), list(map(place, self._others))
        spans = [numbers for numbers in map(span, self._plain) if numbers[1]]
        found = interfaces()
        if found is None:
            self._numbers: _Numbers | None = _Numbers(spans)
            self._glance = None
            self.turns = self._numbers.turns
        else:
            self._numbers = None
            self._glance = glance_tensors.Tensors(found, self._facts, spans, _lines(self._plain))
            self.turns = self._glance.turns

    def unchanged(self) -> bool:
        """Tell whether all is as it was."""
        if self._late or (self._others and list(map(place, self._others)) != self._facts_of_others):
            return False
        if self._glance is not None:
            return self._glance()
        assert self._numbers is not None
        alike = all(is_plain(tensor) for tensor in self._plain)
        return alike and list(map(facts, self._plain)) == self._facts and self._numbers.unchanged()


class _Numbers:
    """What machine code does with numbers, in Python: for processes where it cannot look at objects."""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        self._spans = spans
        self._steps = [glance_tensors.step(size) for _, size in spans]
        self.turns, self._turn = max(self._steps, default=1), 0
        self._held = [[self._at(i, turn) for turn in range(step)] for i, step in enumerate(self._steps)]

    def unchanged(self) -> bool:
        """Tell whether the numbers that this look reads are as they were."""
        turn, self._turn = self._turn, (self._turn + 1) % self.turns
        steps = enumerate(self._steps)
        return all(self._at(i, turn % step) == self._held[i][turn % step] for i, step in steps)

    def _at(self, i: int, first: int) -> int:
        return glance_tensors.sum_of_lines(*self._spans[i], first)


def _lines(tensors: Sequence[Tensor]) -> np.ndarray:
    """Return the addresses of the cache lines that a look at tensors reads, besides their numbers."""
    impls = [tensor._cdata for tensor in tensors]
    return lines([(impl, 4) for impl in impls] + [(at, 1) for impl in impls for at in inside(impl)])
