"""The modules of a network that cannot be recorded as a whole, each as native code.

A detector chooses boxes by their numbers, which no recording knows; nearly all of its work is done by modules
that know nothing of it. So its Python code runs on stand-ins (`stand_ins.py`) of its modules, which run
natively what can be recorded. What cannot, PyTorch runs, with stand-ins of its own modules.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from regroup.engine.frontend.inputs import Inputs, light, take
from regroup.engine.running.bound import Bound
from regroup.engine.running.checks import is_inference
from regroup.engine.running.stand_ins import StandIns, can_be_stood_in_for
from regroup.errors import EngineError
from regroup.kernels.machine.threads import Lock
from regroup.kernels.problems import Linear
from regroup.ops.formulas import macs_of

_LEAST_MACS = 1_000_000
"""Of a call: for fewer, PyTorch takes no longer than a call of native code costs."""

_MOST_FORMS = 8
"""Of calls of a module that are kept; the oldest goes."""

_FIRST, _SHARE = 16, 32
"""A module is prepared so often, and once more for so many calls; PyTorch runs what else is new.

So a head that is given another number of boxes by every image costs no more than these.
"""


class Prepared(Protocol):
    """A module, prepared: `regroup.engine.running.prepared.Prepared`."""

    times_made: int

    def run(self, inputs: Sequence[Tensor], threads: int | None = None) -> Any:
        """Return what the module returns."""

    def known(self, batch: int) -> Any:
        """Return the plan for a batch size, if there is one."""

    @property
    def latest(self) -> Any:
        """The plan that was made last."""

    def zeros(self, batch: int) -> list[Tensor]:
        """Return inputs."""


@dataclass(eq=False)
class Part:
    """A module, and what has been prepared of it.

    Attributes:
        name: its path in the network.
        module: itself.
        is_whole: PyTorch runs it without stand-ins of its modules: it has none with weights.
        forms: by the form of a call, how it is run: natively; by PyTorch as a whole (False); by PyTorch with
            stand-ins of its modules (True).
        calls: so far.
        made: how often something had to be prepared.
    """

    name: str
    module: nn.Module
    is_whole: bool
    forms: dict[Any, Prepared | bool] = field(default_factory=dict)
    calls: int = 0
    made: int = 0
    lock: Lock = field(default_factory=Lock)

    @property
    def may_prepare(self) -> bool:
        """Whether it has not been prepared too often for what it is called."""
        return self.made < _FIRST + self.calls // _SHARE

    @property
    def is_opened(self) -> bool:
        """Whether it could not be recorded, so that its modules are looked at."""
        return any(how is True for how in list(self.forms.values()))

    @property
    def prepared(self) -> list[Prepared]:
        """What runs natively."""
        return [how for how in list(self.forms.values()) if not isinstance(how, bool)]


class Parts:
    """The modules of a network that run natively, while its own code runs in PyTorch.

    Args:
        model: in eval mode.
        prepare: prepares a module for inputs like some.

    Attributes:
        share: of the multiply-adds of the first call, that of native code; None before it.
    """

    def __init__(self, model: nn.Module, prepare: Callable[[nn.Module, Sequence[Tensor]], Prepared]) -> None:
        self._model, self._prepare = model, prepare
        self._parts: dict[int, Part] = {}
        self._local = threading.local()
        self._stand_ins = StandIns(self._call)
        self.share: float | None = None

    @property
    def are_possible(self) -> bool:
        """Whether there are modules that may run natively."""
        return can_be_stood_in_for(self._model) and any(map(_has_weights, self._model.children()))

    def run(self, inputs: Sequence[Tensor], threads: int | None = None, *, prepare: bool = True) -> Any:
        """Return what the model returns; native code runs on `threads`.

        Args:
            inputs: of the model.
            threads: as many as PyTorch has by default.
            prepare: whether modules may be prepared, for which they are recorded: that puts back what other
                threads change meanwhile.
        """
        root = self._stand_ins.of(self._model)
        counting = _Counting() if self.share is None else None
        with self._with(threads=threads, counting=counting, prepare=prepare):
            if counting is None:
                return root(*inputs)
            with counting:
                result = root(*inputs)
        self.share = counting.native / max(counting.macs, 1)
        return result

    @contextmanager
    def _with(self, **options: Any) -> Iterator[None]:
        """Note for this thread's calls of modules with what the network is run."""
        before = vars(self._local).copy()
        vars(self._local).update(options)
        try:
            yield
        finally:
            vars(self._local).clear()
            vars(self._local).update(before)

    @property
    def native(self) -> list[Part]:
        """The modules that run natively, by their names."""
        return sorted((p for p in list(self._parts.values()) if p.prepared), key=lambda part: part.name)

    def shown(self) -> Iterator[tuple[str, Any, list[Tensor]]]:
        """Yield each module that runs natively: its name, its last plan, and zeros to run that with."""
        for part in self.native:
            prepared = part.prepared[-1]
            plan = prepared.latest
            if plan is not None and plan.capture is not None:
                yield part.name, plan, prepared.zeros(plan.batch)

    def _call(self, module: nn.Module, eagerly: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run a module that was called by its stand-in."""
        if not hasattr(self._local, "prepare"):  # kept by the model, or called in a thread of its own
            return module(*args, **kwargs)
        if module is self._model:
            return eagerly(*args, **kwargs)
        part = self._parts.get(id(module))
        if part is None or part.module is not module:
            part = self._found(module)
        part.calls += 1
        inputs = None if part.is_whole else _inputs(args, kwargs)
        how = not part.is_whole if inputs is None else self._how(part, inputs)
        if isinstance(how, bool) or inputs is None:
            return eagerly(*args, **kwargs) if how else module(*args, **kwargs)
        made = how.times_made
        with _disable_current_modes():
            result = how.run(inputs.tensors, self._local.threads)
        part.made += how.times_made - made
        self._count(how.known(len(inputs.tensors[0])))
        return result

    def _found(self, module: nn.Module) -> Part:
        network = self._model.model if isinstance(self._model, Bound) else self._model
        names = {id(one): name for name, one in network.named_modules()}
        if len(self._parts) > 2 * len(names):  # it makes modules while it runs
            self._parts = {}
        name = names.get(id(module), type(module).__name__)
        part = self._parts[id(module)] = Part(name, module, is_whole=not _has_weights(module))
        return part

    def _how(self, part: Part, inputs: Inputs) -> Prepared | bool:
        """Return how a call is run."""
        key = inputs.key, tuple(x.dtype for x in inputs.tensors)
        how = part.forms.get(key)
        if how is None:
            if not self._may_prepare(part):
                return part.is_opened
            with part.lock:
                how = part.forms.get(key)
                if how is None:
                    part.made += 1
                    how = self._decided(part, inputs)
                    kept = list(part.forms.items())[len(part.forms) + 1 - _MOST_FORMS :]
                    part.forms = dict([*kept, (key, how)])
        if isinstance(how, bool) or how.known(len(inputs.tensors[0])) or self._may_prepare(part):
            return how
        return part.is_opened

    def _may_prepare(self, part: Part) -> bool:
        return self._local.prepare and part.may_prepare

    def _decided(self, part: Part, inputs: Inputs) -> Prepared | bool:
        """Prepare a module for a form of call, if it can be recorded and there is something to gain."""
        module = part.module if inputs.is_plain else Bound(part.module, inputs)
        with _disable_current_modes():
            prepared = self._prepare(module, tuple(map(light, inputs.tensors)))
        plan = prepared.known(len(inputs.tensors[0]))
        if plan is None or plan.capture is None:
            return any(map(_has_weights, part.module.children()))
        gains = plan.native_macs >= _LEAST_MACS and not _is_of_vectors(plan)
        return prepared if gains else False

    def _count(self, plan: Any) -> None:
        counting = self._local.counting
        if counting is not None and plan is not None:
            counting.native += plan.native_macs
            counting.macs += plan.macs


def _is_of_vectors(plan: Any) -> bool:
    """Tell whether it is mostly products of a vector and a matrix, which is read again for each vector here.

    PyTorch reads it once for all; and how many there are, such as boxes, another image may change.
    """
    steps = (
        problem for segment in plan.segments for work in getattr(segment, "work", ()) for _, problem in work
    )
    vectors = sum(problem.macs for problem in steps if isinstance(problem, Linear))
    return 2 * vectors * plan.batch > plan.native_macs


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _inputs(args: tuple, kwargs: dict[str, Any]) -> Inputs | None:
    """Return the arguments of a call if native code can be given them."""
    try:
        inputs = take(args, kwargs)
    except EngineError:
        return None
    return inputs if is_inference(inputs.tensors) else None


class _Counting(TorchDispatchMode):
    """Counts the multiply-adds of operators that PyTorch runs.

    Attributes:
        macs: in all.
        native: those of native code.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = self.native = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.macs += macs_of(func, args, kwargs or {}, result) or 0
        return result
