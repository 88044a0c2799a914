"""A model prepared for inputs of given shapes: its plans, and the watch over its weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from regroup.engine.plan import Plan, make_plan
from regroup.engine.weights import Watch
from regroup.errors import EngineError

Progress = Callable[[int, int], None]
"""Called with (kernels that are ready, kernels in all)."""


class Prepared:
    """The plans of a model, made when they are needed and anew when its weights have changed.

    Args:
        model: called with tensors shaped like `examples`; in eval mode.
        examples: inputs; only shapes and types are looked at.
        progress: called as kernels become ready.
        frozen: the model does not change any more: do not watch it.
    """

    def __init__(
        self, model: nn.Module, examples: Sequence[Tensor], progress: Progress | None, *, frozen: bool
    ) -> None:
        self._model: nn.Module | None = model
        self._examples, self._progress = tuple(examples), progress
        self._lock = threading.Lock()
        self._watch = None if frozen else Watch(model)
        self._plans: dict[int | None, Plan] = {}
        self._plan(self._examples[0].shape[0])

    def plan(self, batch: int) -> Plan:
        """Return the plan for `batch` images, made of the weights as they are now."""
        if getattr(self._model, "training", False):
            raise EngineError("the model is in training mode: call model.eval(); this is for inference only")
        if self._watch is not None and not self._watch.unchanged():
            with self._lock:
                if not self._watch.unchanged():
                    self._take_weights()
        plans = self._plans
        return plans.get(None) or plans.get(batch) or self._plan(batch)

    def refresh(self) -> None:
        """Take the weights as they are now, whatever has changed them.

        Raises:
            EngineError: it is frozen.
        """
        if self._watch is None:
            raise EngineError("compiled with frozen=True, it keeps the weights of then: compile it again")
        with self._lock:
            self._take_weights()

    def _take_weights(self) -> None:
        assert self._model is not None
        watch = Watch(self._model)
        self._plans = {}
        self._watch = watch

    def _plan(self, batch: int) -> Plan:
        with self._lock:
            plans = self._plans
            plan = plans.get(None) or plans.get(batch)
            if plan is None:
                assert self._model is not None
                plan = make_plan(self._model, self._examples, batch, self._progress)
                plans[plan.batch] = plan
                if self._watch is None and plan.batch is None:
                    self._model = None  # the plan has the weights, and serves every batch
            return plan
