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
from regroup.engine.running.parts import Parts
from regroup.engine.running.plan import ALL, Plan, build_plan
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
        parts: run the model where it cannot be recorded; None: it is called.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Tensor],
        progress: Callable[[int, int], None] | None,
        parts: Parts | None,
    ) -> None:
        self._model, self._examples, self._progress, self._parts = model, examples, progress, parts
        self._of: dict[int, Plan] = {}
        self._made: list[tuple[bytes, Plan]] = []

    def get(self, batch: int) -> Plan | None:
        """Return the plan for `batch` images if it is known already."""
        return self._of.get(batch)

    @property
    def latest(self) -> Plan | None:
        """The plan that was made last."""
        return next(reversed(self._of.values()), None)

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
            return self._left(batch, "there are no images")
        if lacking := Target.host().lacks:
            return self._left(batch, lacking, f"{ALL}: {lacking}")
        try:
            return self._recorded(batch)
        except StatefulError as error:  # once it has prepared itself it may be recorded
            plan = self._left(batch, str(error), f"{ALL}: {error}")
            plan.stateful, plan.parts = True, self._parts
            return plan
        except EngineError as error:
            if self._parts is None:
                return self._left(batch, str(error), f"{ALL}: {error}")
            return Plan(batch, fallback=self._parts.run, parts=self._parts, why=str(error))
        except Exception as error:  # a fault of ours must not be one of the network's
            why = f"a fault of regroup's ({type(error).__name__}: {error}): please report it"
            warnings.warn(f"the network runs in PyTorch: {why}", EngineWarning, stacklevel=2)
            return self._left(batch, why, f"the network runs in PyTorch: {why}")

    def _left(self, batch: int, why: str, complaint: str = "") -> Plan:
        """Return a plan that calls the model."""
        return Plan(batch, fallback=lambda inputs, _: self._model(*inputs), why=why, complaint=complaint)

    def _recorded(self, batch: int) -> Plan:
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
