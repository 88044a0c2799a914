"""Which plan serves which batch size.

A model's Python code may do anything with the batch size: branch on it, compute with it, give it out. So it
is recorded at every batch size that it is called with, once, which takes some ten milliseconds; where a
recording is the same as that of a plan, this plan serves the size, and the others get plans of their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from regroup.engine.frontend.fingerprint import fingerprint
from regroup.engine.frontend.recognise import record
from regroup.engine.frontend.recorder import StatefulError
from regroup.engine.running.plan import Plan, build_plan
from regroup.errors import EngineError, EngineWarning
from regroup.kernels.machine.target import Target

_MOST_PLANS = 8
"""Kept at a time; the oldest goes. Each holds the network's weights and code."""

_MOST_SIZES = 1000
"""Batch sizes that are remembered; the oldest goes, and would be recorded again."""


class Plans:
    """The plans of a model for inputs of given shapes, as long as neither weights nor settings change.

    Args:
        model: called with tensors shaped like `examples`.
        examples: inputs; only shapes and types are looked at.
        progress: called as kernels become ready.
    """

    def __init__(
        self, model: nn.Module, examples: Sequence[Tensor], progress: Callable[[int, int], None] | None
    ) -> None:
        self._model, self._examples, self._progress = model, examples, progress
        self._of: dict[int, Plan] = {}
        self._made: list[tuple[bytes, Plan]] = []

    def get(self, batch: int) -> Plan | None:
        """Return the plan for `batch` images if it is known already."""
        return self._of.get(batch)

    def make(self, batch: int) -> Plan:
        """Return the plan for `batch` images; one thread at a time."""
        plan = self._of.get(batch) or self._choose(batch)
        if len(self._of) >= _MOST_SIZES:
            self._of.pop(next(iter(self._of)))
        self._of[batch] = plan
        plan.batch_sizes = sorted(size for size, other in self._of.items() if other is plan)
        return plan

    def forget(self) -> None:
        """Record again at the next call: what the model holds has changed."""
        self._of, self._made = {}, []

    def _choose(self, batch: int) -> Plan:
        if batch == 0:  # any dimension of size 0 would look like the batch, and there is nothing to gain
            return Plan(batch, fallback=self._model, why="there are no images")
        try:
            return self._recorded(batch)
        except EngineError as error:
            stateful = isinstance(error, StatefulError)
            complaint = f"all of the network runs in PyTorch: {error}"
            return Plan(batch, fallback=self._model, why=str(error), stateful=stateful, complaint=complaint)
        except Exception as error:  # a fault of ours must not be one of the network's
            why = f"a fault of regroup's ({type(error).__name__}: {error}): please report it"
            warnings.warn(f"the network runs in PyTorch: {why}", EngineWarning, stacklevel=2)
            return Plan(batch, fallback=self._model, why=why, complaint=f"the network runs in PyTorch: {why}")

    def _recorded(self, batch: int) -> Plan:
        if lacking := Target.host().lacks:
            raise EngineError(lacking)
        recorded = record(self._model, self._examples, batch)
        mark = fingerprint(recorded)
        for other, plan in self._made:
            if other == mark:
                return plan
        plan = build_plan(recorded, batch, self._progress)
        if len(self._made) >= _MOST_PLANS:
            _, oldest = self._made.pop(0)
            self._of = {size: other for size, other in self._of.items() if other is not oldest}
        self._made.append((mark, plan))
        return plan
