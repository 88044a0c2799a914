"""A WebAssembly object as a module that runs: what a linker does with one object, which here is little.

The object's addresses begin at 0 and its functions at number 0, and so do the module's; what is left is to
define the memory and the stack pointer that the object imports, and to export what is called.
(https://github.com/WebAssembly/tool-conventions/blob/main/Linking.md)
"""

from __future__ import annotations

from collections.abc import Iterator

_TYPE, _IMPORT, _FUNCTION, _MEMORY, _GLOBAL, _EXPORT, _CODE, _DATA, _COUNT = 1, 2, 3, 5, 6, 7, 10, 11, 12
_KEPT = (_TYPE, _FUNCTION, _COUNT, _CODE, _DATA)
_ORDER = (_TYPE, _FUNCTION, _MEMORY, _GLOBAL, _EXPORT, _COUNT, _CODE, _DATA)
_PAGE = 1 << 16
_STACK = 1 << 16
"""Bytes for what functions keep on the stack: some KiB."""

HEAP = "heap"
"""Name of the exported number of the first byte that the module does not use itself."""


def linked(code: bytes, symbol: str) -> bytes:
    """Return the module that exports the function `symbol` of an object, its memory, and `HEAP`."""
    assert code[:8] == b"\0asm\1\0\0\0", "no WebAssembly object"
    sections = dict(_sections(code))
    imports = _imports(sections.pop(_IMPORT, b"\0"))
    assert imports <= {"__linear_memory", "__stack_pointer"}, f"it calls {imports}"
    data_end = _data_end(sections.get(_DATA, b"\0"))
    heap = (data_end + _STACK + 63) // 64 * 64
    number = _function_number(code, symbol)
    sections[_MEMORY] = b"\1\0" + _leb(-(-heap // _PAGE))
    value = b"\x41" + _signed(heap) + b"\x0b"
    sections[_GLOBAL] = b"\2" + b"\x7f\1" + value + b"\x7f\0" + value  # the stack's pointer, which changes
    exports = [(symbol, b"\0" + _leb(number)), ("memory", b"\2\0"), (HEAP, b"\3\1")]
    sections[_EXPORT] = _leb(len(exports)) + b"".join(_name(name) + what for name, what in exports)
    found = [bytes([kind]) + _leb(len(body)) + body for kind in _ORDER if (body := sections.get(kind))]
    return code[:8] + b"".join(found)


def _sections(code: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the sections by number, but those for linkers."""
    at = 8
    while at < len(code):
        kind = code[at]
        size, at = _number(code, at + 1)
        if kind in (*_KEPT, _IMPORT):
            yield kind, code[at : at + size]
        at += size


def _imports(body: bytes) -> set[str]:
    count, at = _number(body, 0)
    found = set()
    for _ in range(count):
        _, at = _text(body, at)
        name, at = _text(body, at)
        kind, at = body[at], at + 1
        if kind == 2:  # a memory: flags, least pages, and most pages if the flags say so
            flags, at = _number(body, at)
            for _ in range(1 + (flags & 1)):
                _, at = _number(body, at)
        else:  # a global: its type, and whether it changes
            assert kind == 3, f"it imports {name}"
            at += 2
        found.add(name)
    return found


def _data_end(body: bytes) -> int:
    """Return the byte after the last that data segments fill."""
    count, at = _number(body, 0)
    end = 0
    for _ in range(count):
        assert body[at] == 0 and body[at + 1] == 0x41, "a segment whose place is not a number"
        start, at = _number(body, at + 2, signed=True)
        assert body[at] == 0x0B
        size, at = _number(body, at + 1)
        at += size
        end = max(end, start + size)
    return end


def _function_number(code: bytes, symbol: str) -> int:
    """Return the number of a function, by the symbols for linkers."""
    at = 8
    while at < len(code):
        kind = code[at]
        size, at = _number(code, at + 1)
        name, inside = _text(code, at) if kind == 0 else ("", at)
        if name == "linking":
            return _in_linking(code, inside, at + size, symbol)
        at += size
    raise AssertionError("no symbols")


def _in_linking(code: bytes, at: int, end: int, symbol: str) -> int:
    version, at = _number(code, at)
    assert version == 2, f"symbols of version {version}"
    while at < end:
        kind = code[at]
        size, at = _number(code, at + 1)
        if kind == 8:
            return _in_symbols(code, at, symbol)
        at += size
    raise AssertionError("no table of symbols")


def _in_symbols(code: bytes, at: int, symbol: str) -> int:
    count, at = _number(code, at)
    for _ in range(count):
        kind = code[at]
        flags, at = _number(code, at + 1)
        if kind in (0, 2):  # a function, or a global: undefined ones have names of their own only if flagged
            index, at = _number(code, at)
            name = ""
            if not flags & 0x10 or flags & 0x40:
                name, at = _text(code, at)
            if kind == 0 and name == symbol:
                return index
        elif kind == 1:
            _, at = _text(code, at)
            for _ in range(0 if flags & 0x10 else 3):
                _, at = _number(code, at)
        else:
            raise AssertionError(f"a symbol of kind {kind}")
    raise AssertionError(f"no function {symbol}")


def _number(code: bytes, at: int, signed: bool = False) -> tuple[int, int]:
    """Return a number in LEB128, and where it ends."""
    value = shift = 0
    while True:
        byte = code[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value - (1 << shift) if signed and byte & 0x40 else value, at


def _leb(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def _signed(value: int) -> bytes:
    """Return a number that is not negative as signed LEB128: its last byte's sixth bit is 0."""
    found = _leb(value)
    return found if not found[-1] & 0x40 else found[:-1] + bytes([found[-1] | 0x80, 0])


def _text(code: bytes, at: int) -> tuple[str, int]:
    size, at = _number(code, at)
    return code[at : at + size].decode(), at + size


def _name(text: str) -> bytes:
    return _leb(len(text)) + text.encode()
