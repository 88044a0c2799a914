"""See that a model's weights are still those that were compiled, in microseconds."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain, starmap
from operator import is_
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regroup.errors import EngineError
from regroup.kernels.glance import Glance, Interfaces

_TRAINING_ONLY = "num_batches_tracked"
"""A buffer of batch norms that does not influence what they compute in eval mode."""

_LINE = 64

_SAMPLE = 4
"""Numbers of a sample."""

_VERSION_OF, _DATA_OF = "_ZNK2at10TensorBase8_versionEv", "aoti_torch_get_data_ptr"
"""`at::TensorBase::_version() const`, as compilers but Microsoft's name it, and PyTorch's C interface."""


class Watch:
    """Remembers a model's modules, and every parameter and buffer: which, where its numbers lie, its version.

    Any change that PyTorch counts is seen: in place (an optimiser's step, `load_state_dict`), `.data = `,
    another tensor or module assigned. What changes numbers uncounted (in place through `.data` or NumPy) is
    seen by samples of each tensor: where all of a tensor changes, not where a few of its numbers do.

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
        self._samples = [sample for tensor in tensors for sample in _samples(tensor)]
        self._sampled = list(starmap(ctypes.string_at, self._samples))
        self._glance = self._native(_lines(self._homes, tensors, self._samples))

    def _native(self, lines: np.ndarray) -> Glance | None:
        """Return the same in machine code, for Python's objects lie scattered, and far from the caches."""
        interfaces = _interfaces()
        if interfaces is None:
            return None
        tensors = [(t._cdata, version, address) for t, version, address in self._state]
        return Glance(interfaces, self._homes, tensors, self._samples, lines)

    def _holding(self) -> list[object]:
        return list(chain.from_iterable(map(dict.values, self._homes)))

    def unchanged(self) -> bool:
        """Tell whether all is as it was."""
        if self._glance is not None:
            return self._glance()
        holding = self._holding()
        if len(holding) != len(self._held) or not all(map(is_, holding, self._held)):
            return False
        if any(t._version != version or t.data_ptr() != address for t, version, address in self._state):
            return False
        return list(starmap(ctypes.string_at, self._samples)) == self._sampled


@cache
def _interfaces() -> Interfaces | None:
    """Return the C functions that tell about dictionaries and tensors, where there are such."""
    libraries = (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")
    try:
        library = ctypes.CDLL(str(next(libraries)))
        ours = ctypes.pythonapi.PyDict_Next, library[_VERSION_OF], library[_DATA_OF], ctypes.CDLL(None).memcmp
    except (StopIteration, OSError, AttributeError):
        return None
    return Interfaces(*(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in ours))


def _samples(tensor: Tensor) -> list[tuple[int, int]]:
    """Return address and size of two pieces of a tensor's numbers, or of all if they are few."""
    start, count, each = tensor.data_ptr(), tensor.numel(), tensor.element_size()
    if not count or not tensor.is_contiguous():
        return [(start, each)] if count else []
    if count <= 2 * _SAMPLE:
        return [(start, count * each)]
    return [(start + first * each, _SAMPLE * each) for first in (0, count // 2)]


def _lines(
    homes: Sequence[object], tensors: Sequence[Tensor], samples: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Return the addresses of the cache lines that a look at the model reads, as far as they can be known."""
    spans = [(id(home), 1) for home in homes] + [(at, 3) for home in homes for at in _inside(id(home))]
    spans += [(t._cdata, 4) for t in tensors] + [(at, 1) for t in tensors for at in _inside(t._cdata)]
    spans += [(address, 1) for address, _ in samples]
    starts = [address + i * _LINE for address, lines in spans for i in range(lines)]
    return np.unique(np.array(starts, np.int64) // _LINE * _LINE)


def _inside(address: int) -> list[int]:
    """Return what may be addresses among the first words of an object: they are fetched, never read."""
    words = np.frombuffer(ctypes.string_at(address, 48), np.int64)
    return words[(words > 1 << 32) & (words < 1 << 47) & (words % 8 == 0)].tolist()
