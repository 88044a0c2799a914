"""See that a model's weights are still those that were compiled, in microseconds."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import is_
from typing import Any

import numpy as np
from torch import Tensor, nn

from regroup.errors import EngineError
from regroup.kernels.touch import touch

_TRAINING_ONLY = "num_batches_tracked"
"""A buffer of batch norms that does not influence what they compute in eval mode."""

_LINE = 64


class Watch:
    """Remembers a model's modules, and every parameter and buffer: which, where its numbers lie, its version.

    Any change through PyTorch is seen: in place (an optimiser's step, `load_state_dict`), `.data = `, another
    tensor or module assigned. What writes to the memory behind PyTorch's back is not.

    Raises:
        EngineError: PyTorch does not count the changes of these tensors.
    """

    def __init__(self, model: object) -> None:
        modules = list(model.modules()) if isinstance(model, nn.Module) else []
        homes: Iterable[dict[str, Any]] = (
            home for module in modules for home in (module._parameters, module._buffers, module._modules)
        )
        self._homes = [home for home in homes if home]
        self._held = self._holding()
        named = ((name, held) for home in self._homes for name, held in home.items())
        tensors = [held for name, held in named if isinstance(held, Tensor) and name != _TRAINING_ONLY]
        if any(tensor.is_inference() for tensor in tensors):
            reason = "the model was made under torch.inference_mode, where changes of weights are not counted"
            raise EngineError(f"{reason}: make it outside, or compile with frozen=True")
        self._state = [(tensor, tensor._version, tensor.data_ptr()) for tensor in tensors]
        self._lines = _lines(self._homes, tensors)
        touch(self._lines)  # so that its code is made now, not in the first call

    def _holding(self) -> list[object]:
        return list(chain.from_iterable(map(dict.values, self._homes)))

    def unchanged(self) -> bool:
        """Tell whether all is as it was."""
        # the network's own numbers have driven these objects out of the caches since the last call
        touch(self._lines)
        holding = self._holding()
        if len(holding) != len(self._held) or not all(map(is_, holding, self._held)):
            return False
        for tensor, version, address in self._state:
            if tensor._version != version or tensor.data_ptr() != address:
                return False
        return True


def _lines(homes: Sequence[object], tensors: Sequence[Tensor]) -> np.ndarray:
    """Return the addresses of the cache lines that a look at the model reads, as far as they can be known."""
    spans = [(address, 3) for home in homes for address in (id(home), *_inside(id(home), 48))]
    for tensor in tensors:
        spans += [(id(tensor), 2), (tensor._cdata, 4)]
        spans += [(address, 2) for address in _inside(tensor._cdata, 64)]
    starts = [address + i * _LINE for address, lines in spans for i in range(lines)]
    return np.unique(np.array(starts, np.int64) // _LINE * _LINE)


def _inside(address: int, size: int) -> list[int]:
    """Return what may be addresses among the first bytes of an object: they are fetched, never read."""
    words = np.frombuffer(ctypes.string_at(address, size), np.int64)
    return words[(words > 1 << 32) & (words < 1 << 47) & (words % 8 == 0)].tolist()
