"""See in microseconds whether tensors are as they were: their storages, versions, shapes and numbers.

What changes numbers without a trace (NumPy, a tensor's `.data`) can only be seen by reading them. Each look
reads a part: all numbers of small tensors, and of large ones as many cache lines, evenly spread, as make
`_SPREAD` at most; the next look reads the lines after those. So a change of many numbers is seen at once, and
any other after `Tensors.turns` looks at the latest.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.language.words import pointer, put, word
from regroup.kernels.machine.target import Target
from regroup.kernels.watch.glance import Glance, Interfaces, Looking

_LINE = 64

_SPREAD = 16
"""Lines of a tensor that one look reads."""

_FACTS = ("objects", "storages", "data", "versions", "bytes", "types", "dimensions")
_ARRAYS = (
    *_FACTS,
    "lines",
    "shapes",
    "starts",
    "extents",
    "steps",
    "counts",
    "little",
    "little_sizes",
    "little_held",
    "sums",
)
_NUMBERS = ("line_count", "tensor_count", "span_count", "little_count", "turns", "turn")

_FACTOR = 0x9E3779B97F4A7C15 - (1 << 64)
"""Odd, with irregular bits: the golden ratio's."""

_ROTATION = 29


class TensorFacts(NamedTuple):
    """What a tensor is.

    Attributes:
        object: address of its Python object.
        storage: address of its `StorageImpl`.
        data: where its numbers lie.
        version: how often they were changed.
        bytes: the storage's size.
        type: its scalar type.
        shape: sizes and strides.
    """

    object: int
    storage: int
    data: int
    version: int
    bytes: int
    type: object
    shape: tuple[tuple[int, ...], tuple[int, ...]]


class Tensors:
    """Tensors as they are now; called, it tells whether they still are so.

    Whoever makes this holds the Python objects and the storages, so that an address stands for one of them.

    Args:
        interfaces: how to ask.
        facts: of each tensor.
        spans: address and bytes of its numbers, where it has any.
        lines: addresses of the cache lines that are read besides, as for `Objects`.

    Attributes:
        turns: after so many looks all numbers have been read.
    """

    def __init__(
        self,
        interfaces: Interfaces,
        facts: Sequence[TensorFacts],
        spans: Sequence[tuple[int, int]],
        lines: np.ndarray,
    ) -> None:
        rows = [(*f[:5], _type_number(interfaces, f.object), len(f.shape[0])) for f in facts]
        columns = np.array(rows, np.int64).reshape(-1, len(_FACTS))
        large = [(start, size) for start, size in spans if size >= _LINE]
        small = [(start, size) for start, size in spans if size < _LINE]
        steps = [step(size) for _, size in large]
        self.turns = max(steps, default=1)
        held = b"".join(ctypes.string_at(start, size) for start, size in small)
        arrays = dict(zip(_FACTS, np.ascontiguousarray(columns.T), strict=True)) | {
            "lines": lines,
            "shapes": np.array([n for fact in facts for part in fact.shape for n in part], np.int64),
            "starts": np.array([start for start, _ in large], np.int64),
            "extents": np.array([size for _, size in large], np.int64),
            "steps": np.array(steps, np.int64),
            "counts": np.array([_count(size) for _, size in large], np.int64),
            "little": np.array([start for start, _ in small], np.int64),
            "little_sizes": np.array([size for _, size in small], np.int64),
            "little_held": np.frombuffer(held, np.uint8),
            "sums": np.zeros(max(self.turns, sum(steps)), np.int64),
        }
        counts = (len(lines), len(facts), len(large), len(small), self.turns, 0)
        numbers = dict(zip(_NUMBERS, counts, strict=True))
        Glance(_sum, interfaces, arrays, numbers)()
        arrays["sums"] = _together(arrays["sums"], steps, self.turns)
        self._glance = Glance(_look, interfaces, arrays, numbers)

    def __call__(self) -> bool:
        """Tell whether all is as it was, as far as this look sees."""
        return self._glance() == 0


def _type_number(interfaces: Interfaces, tensor: int) -> int:
    """Return what PyTorch's C interface calls a tensor's scalar type."""
    ask = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)(interfaces.type_of)
    number = ctypes.c_int32(-1)
    ask(tensor + 8 * interfaces.tensor_at, ctypes.addressof(number))
    return number.value


def step(size: int) -> int:
    """Return how many lines there are for each one that a look reads, for a span of bytes: a power of two."""
    lines = -(-size // _LINE)
    return 1 << max(0, (-(-lines // _SPREAD) - 1).bit_length())


def _count(size: int) -> int:
    """Return how many lines a look reads."""
    return -(-size // (_LINE * step(size)))


def sum_of_lines(start: int, size: int, first: int) -> int:
    """Return what machine code makes of a span's lines from `first` on; some number where it has no line."""
    if size < _LINE:
        return int.from_bytes(ctypes.string_at(start, size), "little")
    numbers = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(start))
    at = np.minimum((np.arange(_count(size)) * step(size) + first) * _LINE, size - _LINE)
    words = numbers[at[:, None] + np.arange(_LINE)].view(np.uint64)
    factor, mixed = np.uint64(_FACTOR % (1 << 64)), (at + start).astype(np.uint64)
    mixed *= factor
    for numbers in words.T:
        product = (mixed ^ numbers) * factor
        mixed = product << np.uint64(_ROTATION) | product >> np.uint64(64 - _ROTATION)
    return int(mixed.sum(dtype=np.uint64))


def _together(sums: np.ndarray, steps: Sequence[int], turns: int) -> np.ndarray:
    """Return the sum of all spans at each turn, from those of each span at each of its steps."""
    whole, start = np.zeros(turns, np.int64), 0
    for step in steps:
        whole.reshape(-1, step)[:] += sums[start : start + step]
        start += step
    return whole


def _look(target: Target) -> Code:
    look = Looking(target, "glance_tensors", (*_ARRAYS, *_NUMBERS))
    code, field, place, answer = look.code, look.field, look.cell(), look.cell()
    put(code, place, 0, 0)
    for i in code.each(0, field["line_count"]):
        code.prefetch(pointer(code, look.entry("lines", i)), 0)
    for i in code.each(0, field["tensor_count"]):
        _look_at_tensor(look, i, place, answer)
    for _ in code.when(look.same()):  # so the numbers are still there
        put(code, place, 0, 0)
        for i in code.each(0, field["little_count"]):
            done, size = word(code, place, 0), look.entry("little_sizes", i)
            then = pointer(code, field["little_held"] + done)
            look.compare(look.call("memcmp", "i32", pointer(code, look.entry("little", i)), then, size), 0)
            put(code, place, 0, done + size)
        put(code, place, 0, 0)
        for i in code.each(0, field["span_count"]):
            following = code.smaller(i + 1, field["span_count"] - 1)
            _ask_for_lines(look, following, _first(look, following))
            _add(code, place, _sum_of_lines(look, i, _first(look, i)))
        look.compare(word(code, place, 0), look.entry("sums", field["turn"]))
        look.put("turn", code.binary("and", field["turn"] + 1, field["turns"] - 1))
    return look.finish()


def _first(look: Looking, i: Operand) -> Value:
    """Return the first line of a span that this look reads."""
    return look.code.binary("and", look.field["turn"], look.entry("steps", i) - 1)


def _look_at_tensor(look: Looking, i: Operand, place: Value, answer: Value) -> None:
    """Compare a tensor's facts; its address is read anew, and no more of it than is sure to be there."""
    code = look.code
    handle = code.emit(
        "ptr",
        f"getelementptr i64, ptr {pointer(code, look.entry('objects', i))}, i64 {look.field['tensor_at']}",
    )
    impl = pointer(code, word(code, handle, 0))
    look.compare(word(code, impl, look.field["storage_at"]), look.entry("storages", i))
    counter = code.compare("eq", word(code, impl, look.field["counter_at"]), 0)
    look.compare(code.emit("i64", f"zext i1 {counter} to i64"), 0)
    for _ in code.when(look.same()):
        look.compare(look.call("version_of", "i64", handle), look.entry("versions", i))
        for function, fact in (("data_of", "data"), ("bytes_of", "bytes"), ("dimensions_of", "dimensions")):
            put(code, answer, 0, 0)
            look.compare(look.call(function, "i32", handle, answer), 0)
            look.compare(word(code, answer, 0), look.entry(fact, i))
        put(code, answer, 0, 0)
        look.compare(look.call("type_of", "i32", handle, answer), 0)
        look.compare(word(code, answer, 0), look.entry("types", i))
    for _ in code.when(look.same()):  # so there are as many sizes and strides
        for function in ("sizes_of", "strides_of"):
            look.compare(look.call(function, "i32", handle, answer), 0)
            numbers = pointer(code, word(code, answer, 0))
            for j in code.each(0, look.entry("dimensions", i)):
                done = word(code, place, 0)
                look.compare(word(code, numbers, j), look.entry("shapes", done))
                put(code, place, 0, done + 1)


def _sum(target: Target) -> Code:
    """Write what sums each span at each of its steps, into `sums`."""
    look = Looking(target, "sum_tensors", (*_ARRAYS, *_NUMBERS))
    code, place = look.code, look.cell()
    put(code, place, 0, 0)
    for i in code.each(0, look.field["span_count"]):
        for first in code.each(0, look.entry("steps", i)):
            done = word(code, place, 0)
            put(code, pointer(code, look.field["sums"]), done, _sum_of_lines(look, i, first))
            put(code, place, 0, done + 1)
    return look.finish()


def _sum_of_lines(look: Looking, i: Operand, first: Operand) -> Value:
    """Return a sum over the lines `first`, `first` + step ... of a span."""
    code = look.code

    def body(j: Value | int, sums: list[Value]) -> list[Value]:
        return [_plus(code, sums[0], _mixed(code, _line(look, i, first, j)))]

    (total,) = code.carry(0, look.entry("counts", i), 1, [code.value(0, "i64")], body)
    return total


def _ask_for_lines(look: Looking, i: Operand, first: Operand) -> None:
    """Prefetch what `_sum_of_lines` will read."""
    for j in look.code.each(0, look.entry("counts", i)):
        look.code.prefetch(pointer(look.code, _line(look, i, first, j)), 0)


def _line(look: Looking, i: Operand, first: Operand, j: Operand) -> Value:
    """Return the address of line `first` + j step of a span; the last one ends with the span."""
    code, start, last = look.code, look.entry("starts", i), look.entry("extents", i) - _LINE
    at = (code.value(j, "i64") * look.entry("steps", i) + first) * _LINE
    return start + code.smaller(at, last)


def _mixed(code: Code, at: Value) -> Value:
    """Return a number that any change of the line at an address changes, and a change of the address too."""
    mixed = code.emit("i64", f"mul i64 {at}, {_FACTOR}")
    for j in range(_LINE // 8):
        source = pointer(code, at + 8 * j)
        number = code.emit("i64", f"load i64, ptr {source}, align 1")
        product = code.emit("i64", f"mul i64 {code.binary('xor', mixed, number)}, {_FACTOR}")
        mixed = code.call("llvm.fshl", product, product, code.value(_ROTATION, "i64"))
    return mixed


def _plus(code: Code, a: Value, b: Value) -> Value:
    return code.emit("i64", f"add i64 {a}, {b}")  # it may wrap


def _add(code: Code, cell: Value, number: Value) -> None:
    put(code, cell, 0, _plus(code, word(code, cell, 0), number))
