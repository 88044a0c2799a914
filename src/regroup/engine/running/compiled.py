"""What `regroup.compile` returns: a network that is called like the model, and runs as native code.

>>> import torch
>>> from torch import nn
>>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
>>> x = torch.randn(1, 3, 32, 32)
>>> fast = compile(model, x)
>>> bool((fast(x) - model(x)).abs().max() < 1e-5)
True
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from regroup.engine.frontend.inputs import Inputs, batched, check_call, light, of_example, take
from regroup.engine.frontend.onnx import OnnxModel
from regroup.engine.frontend.onnx import load as load_onnx
from regroup.engine.running import explain as explaining
from regroup.engine.running.bound import Bound, Function, as_module, is_training, saved_by
from regroup.engine.running.checks import KINDS, NotScripted, check_example, is_traced
from regroup.engine.running.code import code as code_of
from regroup.engine.running.plan import Plan, how_many
from regroup.engine.running.prepared import Prepared, Progress
from regroup.errors import EngineError, EngineWarning, ParameterError
from regroup.kernels.machine.threads import Lock, within_fork
from regroup.kernels.program.code import Form

_REGISTRIES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def compile(
    model: Callable[..., Any] | str | os.PathLike[str],
    example: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    *,
    frozen: bool = False,
    dynamic: bool = True,
    sizes: int = 8,
    strict: bool = False,
    threads: int | None = None,
) -> Compiled:
    """Compile `model` for inputs like `example`.

    The result runs inference: what `model` computes in eval mode, without gradients, for any batch size and
    (once each has been compiled, at its first call) any image size. What
    the engine has no kernel for runs in PyTorch in between; `explain()` says what and why. Code is kept on
    disk, so that compiling the same architecture again is quick.

    Args:
        model: in eval mode: a module (scripted, traced, exported and compiled ones too) or a function; or
            the path of an ONNX file.
        example: an input: a tensor, mostly float32 (images, channels, height, width), on the CPU. Several:
            a sequence of positional inputs, or a dictionary of keyword inputs. Inputs may be lists, tuples
            and dictionaries of tensors, and numbers, strings and None beside. Of tensors only shapes and
            types are looked at, and not the number of images. Of an ONNX file it is what the file says, if
            it says all sizes.
        progress: called as kernels become ready.
        frozen: compile a copy of the model, which nobody can change. Otherwise every call makes sure that the
            model is as it was, which takes 0.01 to 0.1 ms.
        dynamic: inputs of other sizes than the example's are compiled for when they first come, which takes
            a second or some; otherwise they are an error.
        sizes: how many sizes, and other forms of a call, are kept at a time, each with weights and code of
            its own; the oldest goes.
        strict: it is an error, not a warning, if less than half of the multiply-adds run as native code; of a
            model that cannot be recorded as a whole that is known after its first call.
        threads: how many threads native code uses; as many as PyTorch is set to at each call, by default.
            What runs in PyTorch in between has PyTorch's number.

    Warns:
        EngineWarning: less than half of the multiply-adds run as native code; says what does not, and why.

    Raises:
        EngineError: `model` is in training mode, or `example` is no input that can be compiled for.
        ParameterError: `sizes` or `threads` is not at least 1.
    """
    if isinstance(model, (str, os.PathLike)):
        model = load_onnx(model)
    if example is None:
        if not isinstance(model, OnnxModel):
            raise EngineError("no example: compile(model, torch.randn(1, 3, 224, 224))")
        example = model.examples()
    if isinstance(model, Compiled):
        model, frozen = model.original, frozen or model.frozen
    options = {"frozen": frozen, "dynamic": dynamic, "sizes": sizes, "strict": strict, "threads": threads}
    return Compiled(model, example, progress, **options)


class Compiled(NotScripted, nn.Module):
    """A compiled network; calls from several threads do not disturb each other.

    When the model changes (weights, modules, settings, hooks), or what its code finds by names (globals,
    closures, defaults, methods and attributes of classes, attributes of modules and of objects of the
    user's, what is in lists, dictionaries, sets and arrays), the next call compiles anew (with code from
    the cache, so in a fraction of a second), unless it is frozen. PyTorch does not count changes in place
    through `.data` or NumPy: of these the next call sees what changes a small tensor or a twentieth of a
    large one, the following calls see the rest (one number among a million after 4,096 calls at most), and
    `refresh()` is for whoever cannot wait. As they were at the time of compilation stay functions and
    globals of Python's own packages, PyTorch, timm, torchvision and regroup (methods of timm's and
    torchvision's modules are followed), the insides of other packages' objects that are written in C,
    modules that code finds in `sys.modules` or by `importlib`, and answers of the world around, if the code
    asks (how inputs lie in memory, numbers of threads, the environment, the time). A frozen network takes
    names as they are when a form or batch size first comes. Memory of weights that were replaced is given
    back at the next call.

    The model's Python code runs when a batch size comes for the first time, on tensors without numbers, and
    not in every call (so what it prints is printed then). One plan serves all batch sizes at which that
    gives the same; others have plans of their own. The model is left as it was. A model that does more than
    compute is called anew every time, with those of its modules as native code that only compute, and
    `explain()` says why: if it changes what it holds
    (attributes, lists, closures, globals), finds names by eval or globals(), reads what each thread or
    context has of its own, draws random numbers, has forward hooks (but those marked
    `regroup.ops.hooks.stateless`), looks at numbers of tensors, writes into its input, returns objects that
    are not made of tensors, containers and plain values, or returns tensors that share memory with one
    another or with the input. Results that are one object, the input itself, or a parameter or buffer of
    the model's, are so here as well; constants are fresh in every call.

    It uses `threads` threads, or as many as PyTorch does (`torch.set_num_threads`), in forked processes too;
    results have the same bits for any number. They share each step as they come, and wait for none that has
    lost its core, unless it holds a piece of the work. They are PyTorch's own; or the library's, which all
    networks share and which sleep when there is nothing to do: while other processes want the cores, in
    forked processes, on Windows, or if their number is another. A call that finds
    all at work does its own alone. PyTorch's operators have one thread in a forked process; it says so once.
    It computes in float32, whatever autocast and default types say.

    It is a module, and stands for the model: parameters, buffers, `state_dict` and submodules are the model's
    own (a copy's, if it is frozen). Where others trace it (torch.compile, torch.export, torch.jit.trace,
    torch.fx, torch.func, forward-mode derivatives, fake tensors) they see the model itself. Pickled and
    copied it is what it was made of, the model and the example's shapes, and is compiled anew.

    Calls may differ from the example in the sizes of tensors (unless `dynamic` is false), in how inputs are
    passed, and in numbers and strings: each such form of call is compiled for when it first comes, and the
    last `sizes` of them are kept; any batch size is the same form.

    Attributes:
        original: the model that was compiled; a copy of it, if frozen.
        frozen: whether it keeps the weights of the time of compilation.
        dynamic: whether it takes other sizes than the example's.
        sizes: how many forms of a call are kept.
        strict: what it does where most of the network is left to PyTorch: raise an error; warn once; or, if
            None, nothing.
        threads: how many threads native code uses; None: as many as PyTorch. It can be set at any time.
    """

    original: Any
    frozen: bool
    dynamic: bool
    sizes: int
    strict: bool | None
    threads: int | None

    def __init__(
        self,
        model: Callable[..., Any],
        example: Tensor | Sequence[Any] | Mapping[str, Any],
        progress: Progress | None = None,
        *,
        frozen: bool = False,
        dynamic: bool = True,
        sizes: int = 8,
        strict: bool | None = False,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        _check_count("sizes", sizes)
        if threads is not None:
            _check_count("threads", threads)
        model = as_module(model)
        inputs = of_example(example)
        check_example(model, inputs)
        with within_fork():
            model = _copied(model) if frozen else model
        options = {"frozen": frozen, "dynamic": dynamic, "sizes": sizes, "strict": strict, "threads": threads}
        vars(self).update(original=model, **options)
        for registry in _REGISTRIES:
            found = getattr(model, registry, None)
            if isinstance(found, (dict, set)):  # the very same: what it has, the model has
                vars(self)[registry] = found
        self._inputs = replace(inputs, tensors=tuple(map(light, inputs.tensors)))
        self._progress, self._lock = progress, Lock()
        self._warned = False
        self._forms: dict[Any, Prepared] = {}
        self._prepare(self._inputs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model returns.

        Raises:
            EngineError: an input that this was not compiled for, or the model is now in training mode.
            Exception: what the model raises, for sizes that it does not take.
        """
        if torch.compiler.is_compiling() or is_traced():
            return self.original(*args, **kwargs)
        if any(isinstance(value, fx.Proxy) for value in (*args, *kwargs.values())):
            return self.original.forward(*args, **kwargs)  # its layers are known by their names here
        inputs = take(args, kwargs)
        if not KINDS.issuperset(map(type, inputs.tensors)):
            return self.original(*args, **kwargs)
        if is_training(self.original):
            raise EngineError("the model is in training mode: call model.eval(); this is for inference only")
        check_call(inputs, self._inputs, dynamic=self.dynamic)
        prepared = self._forms.get(inputs.key)
        if prepared is not None:
            return prepared.run(inputs.tensors, self.threads)
        try:
            return self._prepare(inputs).run(inputs.tensors, self.threads)
        except Exception:  # the model does not take such an input: it is no form of call to be kept
            self._forms.pop(inputs.key, None)
            raise

    @property
    def _prepared(self) -> Prepared:
        return self._forms.get(self._inputs.key) or self._prepare(self._inputs)

    def _prepare(self, inputs: Inputs) -> Prepared:
        with self._lock:
            found = self._forms.get(inputs.key)
            if found is None:
                model = self.original if inputs.is_plain else Bound(self.original, inputs)
                examples = tuple(map(light, inputs.tensors))
                found = Prepared(model, examples, self._progress, frozen=self.frozen, complain=self._complain)
                kept = list(self._forms.items())[len(self._forms) + 1 - self.sizes :]
                self._forms = dict([*kept, (inputs.key, found)])
            return found

    def _complain(self, text: str) -> None:
        if self.strict:
            raise EngineError(text)
        if self.strict is not None and not self._warned:
            self._warned = True
            warnings.warn(text, EngineWarning, stacklevel=2)

    def refresh(self) -> None:
        """Take the weights as they are now, whatever has changed them.

        Raises:
            EngineError: it is frozen.
        """
        if self.frozen:
            raise EngineError("compiled with frozen=True, it keeps the weights of then: compile it again")
        for prepared in list(self._forms.values()):
            prepared.refresh()

    def explain(self, *, json: bool = False, passes: bool = False) -> str | dict[str, Any]:
        """Return a table of the steps: kernel, shape, tile, time, speed, what was fused; or the same as data.

        With `passes`, a table before it shows what each pass made of the network's graph; data always has it.

        The steps are timed on one image of zeros, with the threads that a call has now. Speeds count the
        multiply-adds of the definition; the share of the peak counts what is executed (Winograd: 16 of 36).
        """
        plan = self._plan()
        data = explaining.explain(plan, self._prepared.zeros(plan.batch), self.threads)
        data["sizes"] = [list(map(list, shapes)) for _, _, shapes in self._forms]
        if json:
            return data
        tables = [explaining.passes_table(data), ""] if passes else []
        return "\n".join([*tables, explaining.table(data)])

    def _plan(self) -> Plan:
        """Return the plan for as many images as the example's."""
        if is_training(self.original):
            raise EngineError("the model is in training mode: call model.eval()")
        return self._prepared.plan(len(self._inputs.tensors[0]))

    def code(self, step: int | str, form: Form = "listing") -> str:
        """Return the generated code of a step, made from what has been compiled.

        `fast.code(0)` is that of the first step.

        Args:
            step: its number in the table of `explain`, or its name.
            form: "listing" (loops and vector operations in their order), "llvm" (LLVM assembly) or "asm"
                (this CPU's).

        Raises:
            EngineError: nothing runs natively.
            ParameterError: there is no such step, or form.
        """
        return code_of(self._plan(), step, form)

    def summary(self) -> str:
        """Return in a line how much of it runs as native code, and how much in PyTorch."""
        prepared = self._forms.get(self._inputs.key)
        plan = None if prepared is None else prepared.known(len(self._inputs.tensors[0]))
        return "prepared anew by the next call" if plan is None else plan.summary

    def train(self, mode: bool = True) -> Compiled:
        """Do nothing for `mode=False`: it is in eval mode already.

        Raises:
            EngineError: `mode` is true.
        """
        if mode:
            raise EngineError("a compiled network is for inference only: train the model, and compile that")
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Compiled:
        moved = fn(torch.zeros(1))
        if moved.dtype != torch.float32 or moved.device.type != "cpu":
            wish = f"{moved.dtype} on {moved.device}"
            raise EngineError(f"the engine runs in torch.float32 on the CPU: convert .original to {wish}")
        return self

    def __reduce__(self) -> tuple:
        way = saved_by(self.original)
        if way:
            raise EngineError(
                f"{_name(self.original)} is not pickled: save the model by {way}, and compile it again"
            )
        args, kwargs = self._inputs.put_back([_Like(tuple(x.shape), x.dtype) for x in self._inputs.tensors])
        options = {name: vars(self)[name] for name in ("frozen", "dynamic", "sizes", "strict", "threads")}
        return _rebuild, (self.original, kwargs or args, options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        rebuild, arguments = self.__reduce__()
        return rebuild(*copy.deepcopy(arguments, memo))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "original" not in vars(self):
                raise
            return getattr(self.original, name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = vars(self)
        if name == "threads" and value is not None:
            _check_count(name, value)
        if "_forms" not in own or name in own or hasattr(type(self), name):
            super().__setattr__(name, value)
        elif self.frozen:
            raise EngineError(f"{name} cannot be set: compiled with frozen=True, it keeps the model of then")
        else:
            setattr(self.original, name, value)

    @property
    def training(self) -> bool:
        """Whether the model is in training mode, in which this cannot be called."""
        return "original" in vars(self) and is_training(self.original)

    @training.setter
    def training(self, mode: bool) -> None:
        pass

    def __repr__(self) -> str:
        shapes = ", ".join(map(batched, self._inputs.tensors)) + (", and other sizes" if self.dynamic else "")
        held = "a copy of it, frozen" if self.frozen else "changes of it are seen"
        return (
            f"Compiled(\n  {_name(self.original)}: {held}\n  inputs: {shapes}\n  {self.summary()}\n"
            f"  threads: {how_many(self.threads)}\n)"
        )


@dataclass(frozen=True)
class _Like:
    """What is kept of a tensor of the example."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def _rebuild(model: Any, example: Any, options: dict[str, Any]) -> Compiled:
    """Compile anew what was pickled or copied."""

    def tensor(leaf: object) -> object:
        return torch.zeros((), dtype=leaf.dtype).expand(leaf.shape) if isinstance(leaf, _Like) else leaf

    inputs = pytree.tree_map(tensor, example)
    return Compiled(model, inputs, **options)


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ParameterError(name, value, "an int of at least 1")


def _name(model: nn.Module) -> str:
    named = model.function if isinstance(model, Function) else type(model)
    return getattr(named, "__name__", type(named).__name__)


def _copied(model: nn.Module) -> nn.Module:
    if isinstance(model, Function) and model.reached:
        raise EngineError("frozen=True copies the model, and a function's closure cannot be: pass a module")
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise EngineError(f"frozen=True copies the model, which fails: {error}") from error
