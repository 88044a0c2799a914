"""A static library of one object file: the `ar` format of GNU's and LLVM's linkers.

The first member is an index of symbols, without which a linker takes nothing out of an archive: their number,
for each the offset of its member, and their names (big-endian; System V ABI, chapter 7).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

_MAGIC = b"!<arch>\n"


def archive(name: str, data: bytes, symbols: Sequence[str]) -> bytes:
    """Return an archive with the one member `name`, which defines `symbols`."""
    assert len(name) < 16, name
    names = b"".join(symbol.encode() + b"\0" for symbol in symbols)
    size = 4 + 4 * len(symbols) + len(names)
    offset = len(_MAGIC) + 60 + size + size % 2
    index = struct.pack(f">{1 + len(symbols)}I", len(symbols), *[offset] * len(symbols)) + names
    return _MAGIC + _member("/", index) + _member(f"{name}/", data)


def _member(name: str, data: bytes) -> bytes:
    """Return a member; of no date, owner or group, so that the same object gives the same library."""
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
    assert len(head) == 60
    return head + data + (b"\n" if len(data) % 2 else b"")
