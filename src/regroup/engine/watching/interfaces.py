"""C interfaces of Python and PyTorch for machine code that looks at their objects.

The functions are public, but for a tensor's version. Where some words lie is not: the type in a Python
object, a dictionary's tag, the `at::Tensor` in a tensor's object, the storage and the version's counter in a
`TensorImpl`. They are searched for in known objects, where each is either the only word that can be it, or
not found. `regroup.engine.watching.proof` tries on known changes what is made of them.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regroup.kernels.watch.glance import Interfaces

_PYTHON = {
    "next": "PyDict_Next",
    "list_size": "PyList_Size",
    "list_item": "PyList_GetItem",
    "dict_of": "PyObject_GenericGetDict",
    "release": "Py_DecRef",
}

_PYTORCH = {
    "version_of": "_ZNK2at10TensorBase8_versionEv",  # at::TensorBase::_version() const, but for Microsoft's
    "data_of": "aoti_torch_get_data_ptr",
    "bytes_of": "aoti_torch_get_storage_size",
    "type_of": "aoti_torch_get_dtype",
    "dimensions_of": "aoti_torch_get_dim",
    "sizes_of": "aoti_torch_get_sizes",
    "strides_of": "aoti_torch_get_strides",
}

_WORD = 8

_IMPL_WORDS = 20
"""Words of a `TensorImpl` that are searched; it has 24 or 26."""


def find() -> Interfaces | None:
    """Return the interfaces, or None where one is missing, or where Python has no lock for all."""
    locked = not sysconfig.get_config_var("Py_GIL_DISABLED")
    if sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != _WORD or not locked:
        return None
    libraries = (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")
    try:
        library = ctypes.CDLL(str(next(libraries)))
        functions = {name: _address(getattr(ctypes.pythonapi, symbol)) for name, symbol in _PYTHON.items()}
        functions |= {name: _address(library[symbol]) for name, symbol in _PYTORCH.items()}
        functions["memcmp"] = _address(ctypes.CDLL(None).memcmp)
    except (StopIteration, OSError, AttributeError):
        return None
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        places = _places()
    return None if places is None else Interfaces(**functions, **places, tag_at=_tag_at())


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _places() -> dict[str, int] | None:
    """Return where the words lie, or None if that is not certain."""
    a, b, whole = torch.zeros(3), nn.Parameter(torch.zeros(2, 3)), torch.zeros(4)
    tensors: list[Tensor] = [a, b, whole, whole[1:], a.detach(), b.data, nn.Buffer(torch.zeros(1))]
    numbered = list(enumerate(tensors))
    swapped = torch.zeros(2), torch.zeros(5)
    torch.utils.swap_tensors(*swapped)
    tensors += swapped
    kinds: list[object] = [*tensors, nn.Identity(), {}, [], ""]
    counters = {i: i for i, _ in numbered} | {4: 0, 3: 2}  # views and detached tensors share one
    with torch.inference_mode():
        uncounted = torch.zeros(1)

    def found(objects: Sequence[int], wanted: Sequence[int], words: int) -> list[int]:
        each = [_words(start, words) for start in objects]
        return [i for i in range(words) if [words[i] for words in each] == list(wanted)]

    size = min(type(t).__basicsize__ for t in tensors) // _WORD
    kind_at = found(
        [id(one) for one in kinds], [id(type(one)) for one in kinds], object.__basicsize__ // _WORD
    )
    tensor_at = found([id(t) for t in tensors], [t._cdata for t in tensors], size)
    impls, storages = [t._cdata for t in tensors], [t.untyped_storage()._cdata for t in tensors]
    storage_at = found(impls, storages, _IMPL_WORDS)

    def may_count(i: int) -> bool:
        """Tell whether a word is shared by exactly those that share a version, and 0 where there is none."""
        now = [_words(impl, _IMPL_WORDS)[i] for impl in impls[: len(numbered)]]
        alike = all(
            (now[j] == now[k]) == (counters[j] == counters[k]) for j, _ in numbered for k, _ in numbered
        )
        return alike and all(now) and _words(uncounted._cdata, _IMPL_WORDS)[i] == 0

    counter_at = [i for i in range(_IMPL_WORDS) if may_count(i)]
    places = {"kind_at": kind_at, "tensor_at": tensor_at, "storage_at": storage_at, "counter_at": counter_at}
    if any(len(place) != 1 for place in places.values()):
        return None
    return {name: place for name, (place,) in places.items()}


def _tag_at() -> int:
    """Return where the word lies in a dictionary that every change makes a new one, 0 if there is none.

    Python 3.11 and 3.12 have such a word; later ones store attributes without touching it.
    """
    size = dict.__basicsize__ // _WORD
    seen: list[list[int]] = []

    def assign(one: Any) -> None:
        for i in range(300):  # so often that the interpreter specialises the instruction
            one.a = i
            seen.append(_words(id(vars(one)), size))

    for one in (shared := _Plain(), own := _Plain()):
        one.a = one.b = one.c = None
    del own.b  # so that its dictionary has keys of its own
    assign(shared)
    assign(own)
    for start in ({}, {"a": 1, 2: 3}, OrderedDict(a=1), vars(shared), vars(own), vars(nn.Identity())):
        for change in (lambda _: None, *_CHANGES):
            change(start)
            seen.append(_words(id(start), size))
    quiet = vars(shared)
    before, _ = _words(id(quiet), size), (len(quiet), dict(quiet), quiet.get("a"), list(quiet.items()))
    after = _words(id(quiet), size)
    # the attributes' last states are there twice: after the assignments, and before the changes
    wanted = len(seen) - 2
    places = [i for i in range(size) if before[i] == after[i] and len({words[i] for words in seen}) == wanted]
    return places[0] if len(places) == 1 else 0


class _Plain:
    a: object
    b: object
    c: object


_CHANGES: tuple[Callable[[Any], object], ...] = (
    lambda d: d.__setitem__("x", object()),
    lambda d: d.__setitem__("x", 7),
    lambda d: d.update(x=8, y=9),
    lambda d: d.setdefault("z", 10),
    lambda d: d.__ior__({"y": 11}),
    lambda d: d.pop("x"),
    lambda d: d.popitem(),
    lambda d: d.__delitem__(next(iter(d))),
    lambda d: d.update({i: i for i in range(40)}),
    lambda d: d.clear(),
    lambda d: d.__setitem__("again", 1),
)
"""Every way to change a dictionary that has entries or has not."""


def _words(start: int, count: int) -> list[int]:
    return list((ctypes.c_int64 * count).from_address(start))
