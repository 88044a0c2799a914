"""See that a model's weights are still those that were compiled, in microseconds."""

from __future__ import annotations

from operator import getitem, is_
from typing import Any

from torch import Tensor, nn

_version = Tensor._version.__get__  # type: ignore[missing-attribute]


class Watch:
    """Remembers a model's modules, and every parameter and buffer: which, where its numbers lie, its version.

    Any change through PyTorch is seen: in place (an optimiser's step, `load_state_dict`), `.data = `, another
    tensor or module assigned. What writes to the memory behind PyTorch's back is not.
    """

    def __init__(self, model: object) -> None:
        modules = list(model.modules()) if isinstance(model, nn.Module) else []
        homes: list[dict[str, Any]] = [
            home for module in modules for home in (module._parameters, module._buffers, module._modules)
        ]
        named = [(home, name, held) for home in homes for name, held in home.items() if held is not None]
        self._homes = [home for home, _, _ in named]
        self._names = [name for _, name, _ in named]
        self._held = [held for _, _, held in named]
        self._tensors = [held for held in self._held if isinstance(held, Tensor)]
        self._state = self._look()

    def _look(self) -> tuple[list[int], list[int]]:
        return list(map(_version, self._tensors)), list(map(Tensor.data_ptr, self._tensors))

    def unchanged(self) -> bool:
        """Tell whether all is as it was."""
        try:
            same = all(map(is_, map(getitem, self._homes, self._names), self._held))
        except KeyError:
            return False
        return same and self._look() == self._state
