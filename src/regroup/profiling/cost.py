"""What each layer costs: MACs, bytes moved, activations; counted by running it, not by knowing it.

>>> layer = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
>>> total = cost(layer, torch.empty(1, 8, 5, 5)).total
>>> total.macs, total.dense_macs
(3600, 14400)
>>> total.bytes_read, total.bytes_written
(1376, 800)

The model runs once on shapes alone (fake tensors), and every operator it calls is counted where it is
called: in a module, in a function inside a module, in the backward pass. So a convolution counts the same
whoever asks for it, and a gather or a shuffle, which has no MACs, still counts the bytes that it moves.
What counts MACs and what does not say `regroup.ops.formulas`; what has no formula is named in `uncounted`.
"""

from __future__ import annotations

import copy
import logging
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map_only

from regroup.ops.counting import Counter
from regroup.ops.formulas import call_of, gives_activations
from regroup.profiling.traffic import bytes_moved, is_rearrangement
from regroup.profiling.where import Where


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs in one run; costs add up. One MAC is two FLOPs."""

    parameters: int = 0
    """Numbers that are trained. One that two layers share is counted in the first."""
    macs: int = 0
    """Multiply-adds that are executed: `regroup.ops.formulas` says of which operators."""
    ideal_macs: int = 0
    """Executed MACs without those that multiply by a masked weight, which is zero."""
    dense_macs: int = 0
    """MACs of the same layers with groups = 1 and no channel left out."""
    activations: int = 0
    """Numbers that convolutions, linear layers and matrix products put out (RegNet, arXiv:2003.13678)."""
    bytes_read: int = 0
    """Bytes of the tensors that operators read; a view reads nothing, a gather only what it selects."""
    bytes_written: int = 0
    """Bytes of the tensors that operators write."""
    bytes_rearranged: int = 0
    """Of bytes read and written, those of operators that compute nothing: gather, shuffle, concat, copy."""

    def __add__(self, other: LayerCost) -> LayerCost:
        return LayerCost(*map(operator.add, vars(self).values(), vars(other).values()))

    def __radd__(self, other: int) -> LayerCost:
        return self if other == 0 else NotImplemented  # so that sum(costs) works

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written

    @property
    def intensity(self) -> float:
        """FLOPs (2 x executed MACs) for each byte moved."""
        return 2 * self.macs / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class NetworkCost:
    """The cost of each module without its children, by the module's name ("" is the network itself)."""

    layers: dict[str, LayerCost]
    uncounted: tuple[str, ...] = ()
    """Operators that ran, have no formula and may multiply: give one by PyTorch's `register_flop_formula`.

    `Tensor.numpy` and its like stand for whatever is done with the numbers outside of PyTorch.
    """

    @property
    def total(self) -> LayerCost:
        """The whole network."""
        return sum(self.layers.values(), LayerCost())

    def of(self, name: str) -> LayerCost:
        """Return the cost of a module and all that is inside it."""
        return self.total if not name else self._inside.get(name, LayerCost())

    @cached_property
    def _inside(self) -> dict[str, LayerCost]:
        """The cost of each module with all that is inside it."""
        found: dict[str, LayerCost] = {}
        for name, layer in self.layers.items():
            while name:
                found[name] = layer + found.get(name, LayerCost())
                name = name.rpartition(".")[0]
        return found


def cost(model: nn.Module, *inputs: Tensor, training: bool = False) -> NetworkCost:
    """Return what each layer of `model` costs in one run on `inputs`, whatever their batch size.

    Zeros and gaps cannot be told from shapes. A module that multiplies by masked weights says how many MACs
    its mask leaves by a method `ideal_macs(executed: int) -> int`; PyTorch's pruning masks are understood.
    A module that gathers only the channels it needs says what the dense layer would take by a method
    `dense_macs(executed: int) -> int`. `executed` is what was counted inside it. Groups need neither.

    Args:
        model: is left as it was, its mode and buffers included.
        inputs: what the model is called with; shape and type matter. Only a model whose operators depend on
            values (it keeps a channel or not) is run for real.
        training: count a training step, forward and backward, in training mode; otherwise inference.

    Raises:
        Exception: whatever the model raises when it is called with these inputs.
    """
    with mode_of(model, training):
        if any(isinstance(m, _NO_STAND_INS) for m in model.modules()):
            recorder = _run_copy(model, inputs, training)
        else:
            try:
                recorder = _run_fake(model, inputs, training)
            except (RuntimeError, NotImplementedError):  # shapes do not do: values may
                recorder = _run_real(model, inputs, training)
    layers = {
        name: recorder.own.get(name, LayerCost()) + LayerCost(recorder.where.parameters_of(name))
        for name, _ in model.named_modules()
    }
    for name, module in reversed(list(model.named_modules())):  # what a block knows overrules its layers
        layers[name] += _known(module, layers, name)
    return NetworkCost(layers, tuple(sorted(recorder.uncounted)))


_NO_STAND_INS = (torch.jit.ScriptModule, nn.DataParallel)
"""Modules that `functional_call` refuses."""


@contextmanager
def mode_of(model: nn.Module, training: bool) -> Iterator[None]:
    """Put a model and all modules in it into training or eval mode, and afterwards back as they were."""
    has_mode = [module for module in model.modules() if hasattr(module, "training")]  # a frozen one has none
    modes = {module: module.training for module in has_mode}
    try:
        with suppress(NotImplementedError):  # an exported program has but one
            model.train(training)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def no_opaque_attention() -> Iterator[None]:
    """Keep PyTorch from calling a whole transformer layer in one operator, which nobody can look into."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _known(module: nn.Module, layers: Mapping[str, LayerCost], name: str) -> LayerCost:
    """Return what a module's own knowledge adds to the ideal and dense MACs that were counted in it."""
    mask = getattr(module, "weight_mask", None)  # of torch.nn.utils.prune
    of_ideal, of_dense = (getattr(module, says, None) for says in ("ideal_macs", "dense_macs"))
    if not (isinstance(mask, Tensor) or callable(of_ideal) or callable(of_dense)):
        return LayerCost()
    parts = (cost for key, cost in layers.items() if not name or f"{key}.".startswith(f"{name}."))
    inside = sum(parts, LayerCost())
    ideal, dense = inside.ideal_macs, inside.dense_macs
    if isinstance(mask, Tensor):
        ideal = round(inside.macs * float(mask.count_nonzero() / mask.numel()))
    if callable(of_ideal):
        ideal = of_ideal(inside.macs)
    if callable(of_dense):
        dense = of_dense(inside.macs)
    return LayerCost(ideal_macs=ideal - inside.ideal_macs, dense_macs=dense - inside.dense_macs)


def _run_fake(model: nn.Module, inputs: tuple[Tensor, ...], training: bool) -> Recorder:
    log = logging.getLogger("torch._subclasses.fake_tensor")
    was_disabled, log.disabled = log.disabled, True  # it logs what it also raises
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            return _run(model, mode.from_tensor, inputs, training)
    finally:
        log.disabled = was_disabled


def _run_real(model: nn.Module, inputs: tuple[Tensor, ...], training: bool) -> Recorder:
    return _run(model, lambda t: t.detach().clone().requires_grad_(t.requires_grad), inputs, training)


def _run(
    model: nn.Module, stand_in: Callable[[Tensor], Tensor], inputs: tuple[Tensor, ...], training: bool
) -> Recorder:
    """Run with stand-ins for the weights, so that neither gradients nor statistics reach the model."""
    weights = _stood_in(model, stand_in)
    inputs = tuple(tree_map_only(Tensor, stand_in, i) for i in inputs)
    return _record(model, lambda: functional_call(model, weights, inputs, tie_weights=False), training)


def _stood_in(model: nn.Module, stand_in: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return stand-ins by name: one for each tensor, and each place of it once.

    A module of two names has its tensors in one place. Given both names, PyTorch keeps what it has put there
    for the first as what was there before the second, and leaves it in the model.
    """
    made: dict[int, Tensor] = {}
    found = {}
    for name, module in model.named_modules():
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                if id(tensor) not in made:
                    made[id(tensor)] = stand_in(tensor)
                found[f"{name}.{key}" if name else key] = made[id(tensor)]
    return found


def _run_copy(model: nn.Module, inputs: tuple[Tensor, ...], training: bool) -> Recorder:
    """Run a copy of a model whose weights cannot be stood in for."""
    twin = copy.deepcopy(model)
    inputs = tuple(tree_map_only(Tensor, lambda t: t.detach().clone(), i) for i in inputs)
    return _record(twin, lambda: twin(*inputs), training)


def _record(model: nn.Module, call: Callable[[], object], training: bool) -> Recorder:
    with no_opaque_attention(), Where(model) as where, Recorder(where) as recorder:
        with torch.set_grad_enabled(training):
            out = call()
        if training:
            _backward(out)
    return recorder


def _backward(out: object) -> None:
    tensors = [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.requires_grad]
    torch.autograd.backward(tensors, [t.detach() for t in tensors])


class Recorder(Counter):
    """Add up what the operators called inside a `with` cost, by module."""

    def __init__(self, where: Where) -> None:
        super().__init__()
        self.where = where
        self.own: dict[str, LayerCost] = {}

    def add(self, func: Any, args: tuple, kwargs: dict, out: object, macs: int) -> None:
        """Add the cost of one operator to that of the module it ran in."""
        name = self.where.now()
        self.own[name] = self.own.get(name, LayerCost()) + self._cost(func, args, kwargs, out, macs)

    def _cost(self, func: Any, args: tuple, kwargs: dict, out: object, macs: int) -> LayerCost:
        read, written = bytes_moved(func, args, kwargs, out)
        outputs = [t.numel() for t in tree_leaves(out) if isinstance(t, Tensor)]
        active = macs and gives_activations(func) and not self.where.in_backward()
        return LayerCost(
            macs=macs,
            ideal_macs=macs,
            dense_macs=macs * _groups(func, args, kwargs),
            activations=outputs[0] if active else 0,
            bytes_read=read,
            bytes_written=written,
            bytes_rearranged=read + written if is_rearrangement(func) else 0,
        )


def _groups(func: Any, args: tuple, kwargs: dict) -> int:
    """Return the argument `groups` of an operator, ours and other people's custom ones included."""
    if not isinstance(func, torch._ops.OpOverload):
        return 1
    return int(call_of(func, args, kwargs).get("groups", 1))
