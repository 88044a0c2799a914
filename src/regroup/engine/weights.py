"""See that a model's weights are still those that were compiled, in microseconds."""

from __future__ import annotations

from operator import getitem, is_
from typing import Any

from torch import Tensor, nn

_version = Tensor._version.__get__  # type: ignore[missing-attribute]


class Watch:
    """Remembers every parameter and buffer of a model: which tensor, where its numbers lie, its version.

    Any change through PyTorch is seen: in place (an optimiser's step, `load_state_dict`), `.data = `, another
    tensor assigned to the module. What writes to the memory behind PyTorch's back is not.
    """

    def __init__(self, model: object) -> None:
        modules = list(model.modules()) if isinstance(model, nn.Module) else []
        homes: list[dict[str, Any]] = [d for module in modules for d in (module._parameters, module._buffers)]
        named = [(home, name) for home in homes for name, tensor in home.items() if tensor is not None]
        self._homes = [home for home, _ in named]
        self._names = [name for _, name in named]
        self._tensors: list[Tensor] = [home[name] for home, name in named]
        self._state = self._look()

    def _look(self) -> tuple[list[int], list[int]]:
        return list(map(_version, self._tensors)), list(map(Tensor.data_ptr, self._tensors))

    def unchanged(self) -> bool:
        """Tell whether all tensors are as they were."""
        try:
            same = all(map(is_, map(getitem, self._homes, self._names), self._tensors))
        except KeyError:
            return False
        return same and self._look() == self._state
