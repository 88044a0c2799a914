"""What a safetensors file holds, checked against the file's size before anything is loaded.

>>> from safetensors.torch import save_file
>>> save_file({"weight": torch.zeros(2, 3)}, "/tmp/two.safetensors")
>>> check_tensors(Path("/tmp/two.safetensors"))
{'weight': Stored(dtype='F32', shape=(2, 3), bytes=24)}

The format: eight bytes with the length of the header, little-endian; the header, a JSON object of dtype,
shape and data_offsets by name; the tensors. (https://github.com/huggingface/safetensors)
"""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from regroup.files.documents import LARGEST, DocumentError, parse
from regroup.files.reading import open_file, read_exactly

_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8}
_BITS |= {"F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32}
_BITS |= {"I64": 64, "U64": 64, "F64": 64, "C64": 64, "C128": 128, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


class Stored(NamedTuple):
    """A tensor in a file: its type as safetensors calls it, its shape, and how many bytes it takes there."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


def check_tensors(path: Path, *, most: int | None = None) -> dict[str, Stored]:
    """Return what a safetensors file holds, once its header is known to describe exactly the file.

    Args:
        path: of the file.
        most: bytes that it may have; None is any number.

    Raises:
        OSError: it cannot be read, is no file, or is larger.
        DocumentError: it is no safetensors file, is cut off, or its tensors overlap, leave gaps or are of
            another size than their shapes say.
    """
    handle = open_file(path, most=most)
    try:
        size = os.fstat(handle).st_size
        length = int.from_bytes(read_exactly(handle, 8), "little")
        if size < 8:
            raise DocumentError(f"it has {size} bytes, too few for a safetensors file")
        if length > min(size - 8, LARGEST):
            allowed = f"{size - 8} follow" if size - 8 < LARGEST else f"{LARGEST} are read"
            raise DocumentError(
                f"its header claims {length} bytes, but {allowed}: it is cut off, or no safetensors"
            )
        header = parse(read_exactly(handle, length))
    finally:
        os.close(handle)
    if not isinstance(header, dict):
        raise DocumentError("its header is no object")
    found = {name: _entry(name, value) for name, value in header.items() if name != "__metadata__"}
    end = 0
    for start, stop, name in sorted((*found[name][1], name) for name in found):
        if start != end:
            raise DocumentError(
                f"{name!r} begins at byte {start}, not at {end}, where the one before it ends"
            )
        end = stop
    if end != size - 8 - length:
        raise DocumentError(f"its tensors have {end} bytes, but {size - 8 - length} follow its header")
    return {name: stored for name, (stored, _) in found.items()}


def _entry(name: str, value: Any) -> tuple[Stored, tuple[int, int]]:
    """Return a tensor and where it begins and ends."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise DocumentError(f"{name!r} has not just dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise DocumentError(f"{name!r} has a dtype that is not known")
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or any(type(n) is not int or n < 0 for n in numbers):
            raise DocumentError(f"{name!r} has {what} that are not numbers from 0 on")
    if len(offsets) != 2 or len(shape) > 64:
        raise DocumentError(f"{name!r} has {len(offsets)} offsets and {len(shape)} dimensions")
    start, stop = offsets
    if 8 * (stop - start) != prod(shape) * _BITS[dtype]:
        raise DocumentError(f"{name!r} takes {stop - start} bytes, which its shape and type do not fit")
    return Stored(dtype, tuple(shape), stop - start), (start, stop)
