"""See that a model's weights are still those that were compiled, in microseconds."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import is_
from typing import Any

from torch import Tensor, nn

_version = Tensor._version.__get__  # type: ignore[missing-attribute]

_TRAINING_ONLY = "num_batches_tracked"
"""A buffer of batch norms that does not influence what they compute in eval mode."""


class Watch:
    """Remembers a model's modules, and every parameter and buffer: which, where its numbers lie, its version.

    Any change through PyTorch is seen: in place (an optimiser's step, `load_state_dict`), `.data = `, another
    tensor or module assigned. What writes to the memory behind PyTorch's back is not.
    """

    def __init__(self, model: object) -> None:
        modules = list(model.modules()) if isinstance(model, nn.Module) else []
        homes: Iterable[dict[str, Any]] = (
            home for module in modules for home in (module._parameters, module._buffers, module._modules)
        )
        self._homes = [home for home in homes if home]
        self._held = self._holding()
        named = ((name, held) for home in self._homes for name, held in home.items())
        self._tensors = [t for name, t in named if isinstance(t, Tensor) and name != _TRAINING_ONLY]
        self._state = self._look()

    def _holding(self) -> list[object]:
        return list(chain.from_iterable(map(dict.values, self._homes)))

    def _look(self) -> tuple[list[int], list[int]]:
        return list(map(_version, self._tensors)), list(map(Tensor.data_ptr, self._tensors))

    def unchanged(self) -> bool:
        """Tell whether all is as it was."""
        holding = self._holding()
        same = len(holding) == len(self._held) and all(map(is_, holding, self._held))
        return same and self._look() == self._state
