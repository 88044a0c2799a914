"""A network that runs on several devices: its own code, operator by operator, on divided tensors.

The first run, on paper, decides how each parameter is divided (`regroup.parallel.plan`); later runs do what
was decided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from regroup.errors import ParallelError
from regroup.parallel.divided import Block, Divided
from regroup.parallel.division import Division
from regroup.parallel.wire import Enter, Wire, select

Rule = Callable[..., Any]
_RULES: dict[str, Rule] = {}


def divides(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule for PyTorch's functions of these names.

    It is called with the `Running`, the function and what the function is given, and returns the result, or
    NotImplemented, which lets the function have whole tensors.
    """

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


@dataclass(frozen=True, eq=False)
class Split:
    """How a parameter or buffer is divided: along which dimension, and what is where."""

    dim: int
    division: Division


class WholeError(Exception):
    """While planning: a parameter is also needed as a whole."""

    def __init__(self, name: str) -> None:
        self.name = name


_LOOKS = frozenset(
    [
        "__get__",
        "size",
        "dim",
        "ndimension",
        "numel",
        "stride",
        "storage_offset",
        "is_contiguous",
        "is_floating_point",
        "is_complex",
        "element_size",
        "nelement",
        "__len__",
        "get_device",
        "type",
        "__repr__",
        "__format__",
        "__hash__",
        "data_ptr",
        "requires_grad_",
        "__set__",
        "is_pinned",
        "is_shared",
    ]
)
"""What looks at a tensor but not at its numbers."""

_NEW = frozenset({"new_empty", "new_zeros", "new_ones", "new_full", "new_tensor"})


class Running(TorchFunctionMode):
    """One run of a network.

    Args:
        wire: between its devices.
        model: whose parameters these are.
        splits: how they are divided, by name. What is not named is whole on each device.
        deciding: on paper: all parameters are whole, `splits` is filled, and these names stay whole.
    """

    def __init__(
        self, wire: Wire, model: nn.Module, splits: dict[str, Split], deciding: frozenset[str] | None = None
    ) -> None:
        super().__init__()
        self.wire, self.splits, self.deciding = wire, splits, deciding
        self.layer = ""
        self.ended = False
        """Whether forward has returned: who computes with divided tensors then, has kept them."""
        self.notes: dict[str, str] = {}
        """What had no rule, by layer."""
        self.macs: dict[str, list[float]] = {}
        """MACs of each device, by layer."""
        named = [*model.named_parameters(), *model.named_buffers()]
        self._names = {id(t): name for name, t in named if t.dim()}
        self._held = [t for _, t in named]  # so that their ids stay theirs

    # ---- parameters

    def split_of(self, tensor: Tensor | None) -> Split | None:
        """Return how a parameter is divided, if that is known."""
        return None if tensor is None else self.splits.get(self._names.get(id(tensor), ""))

    def is_own(self, tensor: Tensor) -> bool:
        """Tell whether this is a parameter or buffer that is divided, or can be."""
        name = self._names.get(id(tensor))
        return name is not None and (
            name in self.splits or (self.deciding is not None and name not in self.deciding)
        )

    def size(self, tensor: Tensor, dim: int) -> int:
        """Return the size of the whole."""
        split = self.split_of(tensor)
        if split is not None and split.dim == dim and self.deciding is None:
            return sum(split.division.counts)
        return tensor.shape[dim]

    def part(self, tensor: Tensor | None, dim: int, division: Division) -> Any:
        """Return what this device has of a parameter, or of another tensor that is the same on all."""
        if tensor is None:
            return None
        if not self.is_own(tensor):
            return select(self.entered(tensor), dim, division.held[self.wire.rank])
        split = self.splits.setdefault(self._names[id(tensor)], Split(dim, division))
        if split.dim != dim or split.division.key != division.key:
            if self.deciding is None:
                raise ParallelError(f"{self.layer}: {self._names[id(tensor)]} is divided in another way")
            raise WholeError(self._names[id(tensor)])
        return tensor if self.deciding is None else select(tensor, dim, division.held[self.wire.rank])

    def entered(self, tensor: Tensor) -> Tensor:
        """Return a tensor that is the same on all devices, for each to make its own outputs of."""
        if not tensor.requires_grad:
            return tensor
        return Enter.apply(tensor, self.wire, self.layer)  # type: ignore[bad-return]

    # ---- operators

    def divided(self, local: Tensor, division: Division) -> Divided:
        """Return a tensor of which this device holds `local`."""
        return Divided.of(self, Block(local, division))

    def changed(self, x: Divided, local: Tensor, division: Division) -> Any:
        """Return `x` with other numbers, as after an operator in place; none if others see its memory."""
        if x.block.is_view or local.shape[2:] != x.shape[2:] or len(local) != len(x):
            return NotImplemented
        x.block.replace(local.to(x.dtype), division)
        return x

    def at(self, x: Divided, division: Division) -> Tensor:
        """Return the channels that this device has of `x` when it is divided like this."""
        return x.block.at(division, self.wire, self.layer)

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        """End the run."""
        super().__exit__(exc_type, exc_val, exc_tb)
        self.ended = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what a rule says, or the function itself."""
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Do what a rule says, or the function itself on whole tensors."""
        if self.ended:
            raise ParallelError(
                "layers run again after forward, as activation checkpointing has it, which is not possible "
                "in a network that devices share: switch it off"
            )
        name = getattr(func, "__name__", "")
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        divided = [t for t in tensors if isinstance(t, Divided)]
        with torch._C.DisableTorchFunctionSubclass():
            blanks = self.deciding is not None and any(t.is_meta for t in tensors)
            if blanks and name not in _COUNTS:
                args, kwargs = _blanked(name, args, kwargs)
                tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            if divided and (name in _LOOKS or name in _NEW):
                return _look(divided[0], func, name, args, kwargs)
            own = any(self.is_own(t) for t in tensors)
            if (own or divided) and name in _RULES:
                settled = all(d.settled for d in divided) or name in MOVES
                result = _RULES[name](self, func, *args, **kwargs) if settled else NotImplemented
                if result is not NotImplemented:
                    return result
            if own and name not in _LOOKS:
                self._needs_whole(tensors)
            if blanks and name == "index_select":
                args, kwargs = _blanked(name, args, kwargs)
            if not divided:
                return func(*args, **kwargs)
            return self._on_whole(func, name, args, kwargs)

    def _needs_whole(self, tensors: list[Tensor]) -> None:
        own = next(t for t in tensors if self.is_own(t))
        if self.deciding is None:
            raise ParallelError(
                f"{self.layer}: {self._names[id(own)]} is divided among devices, and needed as a whole "
                "here, which the plan has not seen: plan with an input that takes this way"
            )
        raise WholeError(self._names[id(own)])

    def _on_whole(self, func: Any, name: str, args: tuple, kwargs: dict) -> Any:
        """Let a function without a rule have whole tensors."""
        if _in_place(name, kwargs) or isinstance(kwargs.get("out"), Divided):
            raise ParallelError(f"{self.layer or 'forward'}: {name} in place has no rule on divided channels")
        self.notes.setdefault(self.layer, f"{name} has the channels of all devices")
        args, kwargs = tree_map_only(Divided, self.whole, (args, kwargs))
        return func(*args, **kwargs)

    def whole(self, x: Divided) -> Tensor:
        """Return all channels of a tensor, the same on all devices."""
        whole = x.block.whole(self.wire, self.layer)
        for func, args, kwargs in x.moves:
            whole = func(whole, *args, **kwargs)
        return whole


MOVES = frozenset(
    [
        "view",
        "reshape",
        "transpose",
        "permute",
        "swapaxes",
        "swapdims",
        "movedim",
        "moveaxis",
        "unsqueeze",
        "squeeze",
        "flatten",
        "unflatten",
        "contiguous",
    ]
)
"""What only moves elements, and so also works between two shapes that are (N, C, ...)."""


def _in_place(name: str, kwargs: Mapping[str, Any]) -> bool:
    plain = name.endswith("_") and not name.endswith("__")
    return plain or name.startswith("__i") or name == "__setitem__" or bool(kwargs.get("inplace"))


_COUNTS = frozenset({"__getitem__", "index_select", "narrow", "split", "split_with_sizes", "tensor_split"})
"""What needs the numbers of the tensors that say which elements are meant."""


def _blanked(name: str, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Take the numbers of what forward has made by itself, so that it can meet tensors without numbers.

    What changes in place keeps its own: a copy would be changed in its stead.
    """

    def blank(t: Tensor) -> Tensor:
        with_numbers = t.dim() and not t.is_meta
        return torch.empty_like(t, device="meta").requires_grad_(t.requires_grad) if with_numbers else t

    kept = args[:1] if _in_place(name, kwargs) else ()
    rest, kwargs = tree_map_only(Tensor, blank, (args[len(kept) :], kwargs))
    return (*kept, *rest), kwargs


def _look(x: Divided, func: Any, name: str, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """Answer what a network's code asks about a tensor, not about its numbers."""
    local = x.block.local
    if name in _NEW:
        return func(local, *args[1:], **kwargs)
    attribute = getattr(getattr(func, "__self__", None), "__name__", "")
    if name == "__get__" and attribute in _OF_LOCAL:
        return func(local)
    return func(x.meta(), *args[1:], **kwargs)


_OF_LOCAL = frozenset(
    {"device", "requires_grad", "is_cuda", "is_cpu", "is_mps", "is_meta", "grad_fn", "is_leaf"}
)
