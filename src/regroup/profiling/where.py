"""Where in a network an operator is being called, in the forward and in the backward pass."""

from __future__ import annotations

from bisect import bisect_right

import torch
from torch import nn

hook_before, hook_after = nn.Module.register_forward_pre_hook, nn.Module.register_forward_hook
"""Called as functions, for a scripted module takes hooks though its own methods of these names refuse."""


class Where:
    """Follow which module of a model is running, for the length of a `with`.

    In the backward pass there is no module to follow. But autograd numbers its nodes in the order in which
    the forward pass makes them: the module that was running when a number was given owns that node.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self._running: list[str] = []
        self._numbers: list[int] = []
        self._owners: list[str] = []
        self._parameters: dict[str, int] = dict.fromkeys(self._names.values(), 0)
        seen = set()
        for module, name in self._names.items():
            for parameter in module.parameters(recurse=False):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    self._parameters[name] += parameter.numel()

    def __enter__(self) -> Where:
        self._handles = []
        for module in self._names:
            self._handles.append(hook_before(module, self._entered, prepend=True))
            self._handles.append(hook_after(module, self._left, always_call=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def now(self) -> str:
        """Return the name of the innermost module that is running ("" is the model, or what calls it)."""
        node = torch._C._current_autograd_node()
        if node is None:
            return self._running[-1] if self._running else ""
        place = bisect_right(self._numbers, node._sequence_nr()) - 1
        return self._owners[place] if place >= 0 and node._sequence_nr() < self._end else ""

    def in_backward(self) -> bool:
        """Tell whether autograd is running."""
        return torch._C._current_autograd_node() is not None

    def parameters_of(self, name: str) -> int:
        """Return the parameters that a module holds itself and no module before it holds."""
        return self._parameters[name]

    def _entered(self, module: nn.Module, _args: object) -> None:
        self._running.append(self._names[module])
        self._note()

    def _left(self, _module: nn.Module, _args: object, _out: object) -> None:
        self._running.pop()
        self._note()

    def _note(self) -> None:
        self._end = torch.autograd._get_sequence_nr()
        self._numbers.append(self._end)
        self._owners.append(self._running[-1] if self._running else "")
