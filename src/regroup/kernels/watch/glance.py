"""Machine code that looks at Python's and PyTorch's objects, which lie scattered, through C interfaces."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from regroup.files.cache import Cache
from regroup.kernels.language.code import Code, Operand, Value, assembly
from regroup.kernels.language.words import pointer, put, wide, word
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target


@dataclass(frozen=True)
class Interfaces:
    """Addresses of C functions, and where words lie in objects.

    Attributes:
        next: `PyDict_Next`.
        list_size: `PyList_Size`.
        list_item: `PyList_GetItem`.
        dict_of: `PyObject_GenericGetDict`: an object's `__dict__`.
        release: `Py_DecRef`.
        version_of: a tensor's version, `int64_t (at::Tensor *)`; it must not throw where a tensor has one.
        data_of: where a tensor's numbers lie, `int32_t (at::Tensor *, void **)`; not 0 if it cannot tell.
        bytes_of: bytes of a tensor's storage, `int32_t (at::Tensor *, int64_t *)`.
        type_of: a tensor's scalar type, `int32_t (at::Tensor *, int32_t *)`.
        dimensions_of: `int32_t (at::Tensor *, int64_t *)`.
        sizes_of: `int32_t (at::Tensor *, int64_t **)`.
        strides_of: `int32_t (at::Tensor *, int64_t **)`.
        memcmp: the C library's.
        kind_at: words before a Python object's type.
        tensor_at: words before the `at::Tensor` in a tensor's Python object.
        storage_at: words before the `StorageImpl *` in a `TensorImpl`.
        tag_at: words before a dictionary's tag, which is another after any change; 0 where there is none.
        counter_at: words before the `VersionCounter *` in a `TensorImpl`; 0 there is a tensor without.
    """

    next: int
    list_size: int
    list_item: int
    dict_of: int
    release: int
    version_of: int
    data_of: int
    bytes_of: int
    type_of: int
    dimensions_of: int
    sizes_of: int
    strides_of: int
    memcmp: int
    kind_at: int
    tensor_at: int
    storage_at: int
    tag_at: int
    counter_at: int


class Glance:
    """A function in machine code with its argument: one word for each number, and for each array its address.

    Args:
        write: writes the function.
        interfaces: they come first in the argument.
        arrays: of 64-bit words, or bytes.
        numbers: the rest.
    """

    def __init__(
        self,
        write: Callable[[Target], Code],
        interfaces: Interfaces,
        arrays: Mapping[str, np.ndarray],
        numbers: Mapping[str, int],
    ) -> None:
        self._arrays = arrays  # alive while this is
        addresses = {name: array.ctypes.data for name, array in arrays.items()}
        self.fields = np.array([*vars(interfaces).values(), *addresses.values(), *numbers.values()], np.int64)
        self._run, self._address = _native(write), self.fields.ctypes.data

    def __call__(self) -> int:
        """Return what the function returns."""
        return self._run(self._address)


@functools.lru_cache(maxsize=16)
def _native(write: Callable[[Target], Code]) -> Callable[[int], int]:
    target = Target.host()
    code = write(target)
    text = assembly([code])
    key = "\n".join([jit.VERSION, repr(target), text])
    loaded = jit.load([Cache.default().get(key, lambda: jit.compile_object(text, target))])
    # unlike CFUNCTYPE this keeps the interpreter's lock, under which its objects may be read
    run = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(loaded.address(code.name))
    run.keep = loaded  # type: ignore[attr-defined]
    return run


class Looking:
    """Writes a glance: reads its argument by name, and gathers differences.

    Args:
        target: the CPU.
        name: of the function.
        names: of the argument's words after the interfaces.
    """

    def __init__(self, target: Target, name: str, names: Sequence[str]) -> None:
        self.code = Code(target, name, fields="ptr")
        known = (*(field.name for field in fields(Interfaces)), *names)
        self.field = {name: word(self.code, self.code.arguments[0], i) for i, name in enumerate(known)}
        self._places = {name: i for i, name in enumerate(known)}
        self._tables = {name: pointer(self.code, value) for name, value in self.field.items()}
        self._difference = self.cell()
        put(self.code, self._difference, 0, 0)

    def cell(self) -> Value:
        """Return the address of a word of its own."""
        return self.code.memory(1)

    def entry(self, name: str, index: Operand) -> Value:
        """Return a word of an array."""
        return word(self.code, self._tables[name], index)

    def put(self, name: str, number: Operand) -> None:
        """Set a word of the argument."""
        put(self.code, self.code.arguments[0], self._places[name], number)

    def put_entry(self, name: str, index: Operand, number: Operand) -> None:
        """Set a word of an array."""
        put(self.code, self._tables[name], index, number)

    def call(self, name: str, type: str, *arguments: Value) -> Value:
        """Call a C function of the interfaces."""
        given = ", ".join(f"{argument.type} {argument}" for argument in arguments)
        return self.code.emit(type, f"call {type} {self._tables[name]}({given})")

    def release(self, object: Value) -> None:
        """Give a reference back."""
        self.code.line(f"call void {self._tables['release']}(ptr {object})")

    def compare(self, a: Value, b: Operand) -> None:
        """Note it where two words differ."""
        code = self.code
        now = code.binary("xor", a if a.type == "i64" else wide(code, a), b)
        put(code, self._difference, 0, code.binary("or", word(code, self._difference, 0), now))

    def same(self) -> Value:
        """Return whether nothing has differed until now."""
        return self.code.compare("eq", word(self.code, self._difference, 0), 0)

    def finish(self) -> Code:
        """Return the function: its result is 0 where nothing differed."""
        self.code.type, self.code.end = "i64", f"ret i64 {word(self.code, self._difference, 0)}"
        return self.code
