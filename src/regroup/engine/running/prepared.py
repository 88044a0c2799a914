"""A model prepared for inputs of given shapes: its plans, and the watch over its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from regroup.engine.frontend.inputs import shapes
from regroup.engine.running.parts import Parts
from regroup.engine.running.plan import Plan
from regroup.engine.running.plans import Plans
from regroup.engine.watching.weights import Watch
from regroup.errors import EngineError
from regroup.kernels.machine.threads import Lock, within_fork

Progress = Callable[[int, int], None]
"""Called with (kernels that are ready, kernels in all)."""

_TRIES = 3
"""Calls after which a model that changes itself in every call is left to PyTorch for good."""


class Prepared:
    """The plans of a model, made when they are needed and anew when its weights have changed.

    Args:
        model: called with tensors shaped like `examples`; in eval mode.
        examples: inputs; only shapes and types are looked at.
        progress: called as kernels become ready.
        frozen: the model does not change any more: do not watch it.
        complain: called, before each use, for plans that leave most of the network to PyTorch.
        in_parts: where the model cannot be recorded, prepare its modules as they are called.

    Attributes:
        times_made: how often a plan was looked for.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Tensor],
        progress: Progress | None,
        *,
        frozen: bool,
        complain: Callable[[str], None],
        in_parts: bool = True,
    ) -> None:
        self._model = model
        self._examples, self._progress = tuple(examples), progress
        self._lock, self._complain = Lock(), complain
        self._watch = None if frozen else Watch(model)
        parts = Parts(model, self._part) if in_parts else None
        self._parts = parts if parts is not None and parts.are_possible else None
        self._plans = Plans(model, self._examples, progress, self._parts)
        self._changing, self._guarded, self.times_made = 0, _TRIES, 0
        self._final: Plan | None = None
        self.plan(self._examples[0].shape[0])

    def run(self, inputs: Sequence[Tensor], threads: int | None = None) -> Any:
        """Return what the model returns for `inputs`; native code runs on `threads`."""
        plan = self.plan(inputs[0].shape[0])
        if plan.capture is not None:
            return plan.run(inputs, threads)
        first = plan.parts is not None and plan.parts.share is None
        result = plan.run(inputs, threads) if plan is self._final else self._run_model(plan, inputs, threads)
        if first and plan.warning:
            self._complain(plan.warning)
        return result

    def plan(self, batch: int) -> Plan:
        """Return the plan for `batch` images, made of the weights as they are now."""
        if self._final is not None:
            if self._final.warning:
                self._complain(self._final.warning)
            return self._final
        if self._watch is not None and not self._watch.unchanged():
            with self._lock, within_fork():
                if not self._watch.unchanged():
                    self._take_weights()
        found = self._plans.get(batch)
        if found is None:
            with self._lock, within_fork():
                found = self._plans.make(batch)
                self.times_made += 1
                if self._watch is not None and found.capture is not None:
                    self._watch.follow(found.capture.reads, found.capture.names)
        if found.warning:
            self._complain(found.warning)
        return found

    def known(self, batch: int) -> Plan | None:
        """Return the plan that the last calls with `batch` images used, if there is one."""
        return self._final or self._plans.get(batch)

    @property
    def latest(self) -> Plan | None:
        """The plan that was made last, if it still is right."""
        return self._final or self._plans.latest

    def zeros(self, batch: int) -> list[Tensor]:
        """Return inputs of `batch` images."""
        sizes = shapes(self._examples, batch)
        return [torch.zeros(size, dtype=x.dtype) for size, x in zip(sizes, self._examples, strict=True)]

    def refresh(self) -> None:
        """Take the weights as they are now, whatever has changed them.

        Raises:
            EngineError: it is frozen.
        """
        if self._watch is None:
            raise EngineError("compiled with frozen=True, it keeps the weights of then: compile it again")
        with self._lock:
            self._changing, self._final = 0, None
            self._take_weights()

    def _take_weights(self) -> None:
        watch = Watch(self._model)
        self._plans = Plans(self._model, self._examples, self._progress, self._parts)
        self._watch = watch

    def _part(self, module: nn.Module, examples: Sequence[Tensor]) -> Prepared:
        """Prepare a module of the model's, which its code may change even where nobody else can."""
        options = {"frozen": False, "complain": lambda text: None, "in_parts": False}
        return Prepared(module, examples, self._progress, **options)

    def _run_model(self, plan: Plan, inputs: Sequence[Tensor], threads: int | None) -> Any:
        """Run a model that is no graph, and see whether it changes itself.

        It may do so in its first call only, and be recorded afterwards. If every call changes it, to record
        it at every call leads nowhere.
        """
        if not plan.stateful:
            result = plan.run(inputs, threads)
            changed = self._watch is not None and not self._watch.unchanged()
        else:
            with self._lock:  # no recording meanwhile, which would put back what this call changes
                result, changed = plan.run(inputs, threads), True
                self._plans.forget()
        if changed:
            self._changing += 1
            if self._changing >= _TRIES:
                guarded = plan.stateful and plan.parts is not None
                self._final = replace(plan, fallback=self._run_parts) if guarded else plan
        return result

    def _run_parts(self, inputs: Sequence[Tensor], threads: int | None) -> Any:
        """Run a model that changes itself; its modules are recorded in the first calls, one at a time."""
        assert self._parts is not None
        if self._guarded:
            with self._lock:
                self._guarded = max(self._guarded - 1, 0)
                return self._parts.run(inputs, threads)
        return self._parts.run(inputs, threads, prepare=False)
