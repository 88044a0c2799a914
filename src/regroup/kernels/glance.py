"""See in microseconds whether dictionaries and tensors are as they were, through the C interfaces of both."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regroup.files.cache import Cache
from regroup.kernels import jit
from regroup.kernels.lang import Code, Operand, Value
from regroup.kernels.target import Target
from regroup.kernels.words import pointer, put, wide, word

_FIELDS = (
    "lines", "line_count", "homes", "home_sizes", "home_count", "held", "handles", "versions", "data",
    "tensor_count", "samples", "sample_sizes", "sampled", "sample_count", "next", "version_of", "data_of",
    "memcmp",
)  # fmt: skip


@dataclass(frozen=True)
class Interfaces:
    """Addresses of C functions.

    Attributes:
        next: `PyDict_Next`.
        version_of: a tensor's version, `int64_t (at::Tensor *)`; it must not throw.
        data_of: where a tensor's numbers lie, `int32_t (at::Tensor *, void **)`; not 0 if it cannot tell.
        memcmp: the C library's.
    """

    next: int
    version_of: int
    data_of: int
    memcmp: int


class Glance:
    """Dictionaries and tensors as they are now; called, it tells whether they still are so.

    Args:
        interfaces: how to ask.
        homes: the dictionaries: each must still hold the same objects, in the same order.
        tensors: address of the C++ object behind each tensor, its version, where its numbers lie.
        samples: address and size of pieces of the numbers, looked at where all else is as it was.
        lines: addresses of the cache lines that are read. All are asked for at once, instead of waiting for
            one after the other; nothing is read by these addresses, so they need not be valid for ever.
    """

    def __init__(
        self,
        interfaces: Interfaces,
        homes: Sequence[Mapping[str, Any]],
        tensors: Sequence[tuple[int, int, int]],
        samples: Sequence[tuple[int, int]],
        lines: np.ndarray,
    ) -> None:
        self._alive = homes  # their addresses are used; whoever made this holds what is in them
        handles, versions, data = np.array(tensors, np.int64).reshape(-1, 3).T.copy()
        held = np.array([id(value) for home in homes for value in home.values()], np.int64)
        self._arrays = {
            "lines": lines,
            "homes": np.array([id(home) for home in homes], np.int64),
            "home_sizes": np.array([len(home) for home in homes], np.int64),
            "held": held,
            "handles": handles,  # an at::Tensor is nothing but this address, so an entry serves as one
            "versions": versions,
            "data": data,
            "samples": np.array([address for address, _ in samples], np.int64),
            "sample_sizes": np.array([size for _, size in samples], np.int64),
            "sampled": np.frombuffer(b"".join(ctypes.string_at(*sample) for sample in samples), np.uint8),
        }
        numbers = {name: array.ctypes.data for name, array in self._arrays.items()}
        numbers |= {"line_count": len(lines), "home_count": len(homes), "tensor_count": len(handles)}
        numbers |= {"sample_count": len(samples)} | vars(interfaces)
        self._fields = np.array([numbers[name] for name in _FIELDS], np.int64)
        self._look, self._address = _function(), self._fields.ctypes.data

    def __call__(self) -> bool:
        """Tell whether all is as it was."""
        return self._look(self._address) == 0


@functools.cache
def _function() -> Callable[[int], int]:
    target = Target.host()
    text = jit.assembly([_glance(target)])
    key = "\n".join([jit.VERSION, repr(target), text])
    loaded = jit.load([Cache.default().get(key, lambda: jit.compile_object(text, target))])
    # unlike CFUNCTYPE this keeps the interpreter's lock, under which dictionaries may be read
    look = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(loaded.address("glance"))
    look.keep = loaded  # type: ignore[attr-defined]
    return look


def _glance(target: Target) -> Code:
    code = Code(target, "glance", fields="ptr")
    differ, number, position, key, value = (code.emit("ptr", "alloca i64, align 8") for _ in range(5))
    field = {name: word(code, code.arguments[0], i) for i, name in enumerate(_FIELDS)}
    table = {name: pointer(code, field[name]) for name in _FIELDS}

    def entry(name: str, index: Operand) -> Value:
        return word(code, table[name], index)

    def compare(a: Value, b: Operand) -> None:
        put(code, differ, 0, code.binary("or", word(code, differ, 0), code.binary("xor", a, b)))

    put(code, differ, 0, 0)
    put(code, number, 0, 0)
    for i in code.each(0, field["line_count"]):
        code.prefetch(pointer(code, entry("lines", i)), 0)
    for i in code.each(0, field["home_count"]):
        home = pointer(code, entry("homes", i))
        following = f"call i32 {table['next']}(ptr {home}, ptr {position}, ptr {key}, ptr {value})"
        put(code, position, 0, 0)
        for _ in code.each(0, entry("home_sizes", i)):
            put(code, value, 0, 0)  # for a dictionary that has become shorter
            code.emit("i32", following)
            done = word(code, number, 0)
            compare(word(code, value, 0), entry("held", done))
            put(code, number, 0, done + 1)
        compare(wide(code, code.emit("i32", following)), 0)
    for i in code.each(0, field["tensor_count"]):
        tensor = code.emit("ptr", f"getelementptr inbounds i64, ptr {table['handles']}, i64 {i}")
        unknown = code.emit("i32", f"call i32 {table['data_of']}(ptr {tensor}, ptr {value})")
        compare(wide(code, unknown), 0)
        compare(word(code, value, 0), entry("data", i))
        compare(code.emit("i64", f"call i64 {table['version_of']}(ptr {tensor})"), entry("versions", i))
    put(code, number, 0, 0)
    for _ in code.when(code.compare("eq", word(code, differ, 0), 0)):  # so the samples are still there
        for i in code.each(0, field["sample_count"]):
            done, size = word(code, number, 0), entry("sample_sizes", i)
            now, then = pointer(code, entry("samples", i)), pointer(code, field["sampled"] + done)
            same = code.emit("i32", f"call i32 {table['memcmp']}(ptr {now}, ptr {then}, i64 {size})")
            compare(wide(code, same), 0)
            put(code, number, 0, done + size)
    code.type, code.end = "i64", f"ret i64 {word(code, differ, 0)}"
    return code
