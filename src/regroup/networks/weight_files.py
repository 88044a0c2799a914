"""Files of weights: looked at before they are read, read without running code, unpacked from checkpoints.

A file is known by what it begins with, not by its name. Nothing of it is trusted: a pipe is not opened, an
archive that claims more than it holds is not unpacked, and a damaged record is found by its checksum.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
import zipfile
from pathlib import Path
from pickletools import genops
from typing import IO, Any

import torch

from regroup.errors import CheckpointError
from regroup.files.reading import open_file, read_beginning
from regroup.files.tensors import check_tensors

_BEGINNINGS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: `git lfs pull` fetches it"),
    (b"\x89HDF", "HDF5 (Keras)"),
    (b"\x93NUMPY", "an array of NumPy"),
    (b"\x1f\x8b", "gzip: unpack it first"),
    (b"BZh", "bzip2: unpack it first"),
    (b"\xfd7zXZ", "xz: unpack it first"),
)
_INNOCENT = re.compile(
    r"collections\.\w+|_codecs\.encode|(__builtin__|builtins)\.(set|complex)|copy_?reg\._reconstructor"
    r"|torch\.(\w+|_utils\.\w+|_tensor\._rebuild_\w+|storage\.\w+|serialization\.\w+|nn\.parameter\.\w+)"
)
"""Names in a pickle that tensors are made from; all others belong to something beside them."""
_GROWING = {"builtins.bytearray", "__builtin__.bytearray"}
"""Makes as many bytes as it is told, whatever the size of the file."""


def read_weights(path: str | Path) -> Any:
    """Read a .safetensors file, or what `torch.save` wrote, without running any code of it.

    Raises:
        CheckpointError: not there, no such file, damaged, or more than tensors and plain values.
    """
    path = Path(path)
    try:
        size, head = _look(path)
        if head.startswith(b"PK\x03\x04"):
            return _read_pickled(path, _names_in_archive(path, size))
        if head[8:9] == b"{":
            return _read_safetensors(path)
        if head.startswith(b"\x80") or head[257:262] == b"ustar":
            return _read_pickled(path, _names_in_pickles(path))
        raise ValueError(f"it is {_foreign(head)}")
    except FileNotFoundError:
        raise CheckpointError(path, "no such file") from None
    except Exception as error:  # damaged files raise six unrelated types
        raise CheckpointError(path, f"cannot be read as weights: {_reason(error)}") from error


def _look(path: Path) -> tuple[int, bytes]:
    """Return the size of the file and its first bytes."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise ValueError(f"it is {kind}, not a file")
    return status.st_size, read_beginning(path, 512)


def _foreign(head: bytes) -> str:
    """Say what a file is that begins so, if it can be told."""
    for beginning, what in _BEGINNINGS:
        if head.startswith(beginning):
            return what
    if not head:
        return "empty"
    text = head.decode("utf-8", "ignore").strip()
    if b"\x00" in head or not all(c.isprintable() or c.isspace() for c in text):
        return "neither what torch.save writes nor a .safetensors file"
    if text.startswith("<"):
        return "a web page, not the file behind its address"
    return f"text: {text.splitlines()[0][:40]!r}" if text else "blank"


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    check_tensors(path)
    return load_file(path)


def _read_pickled(path: Path, names: set[str]) -> Any:
    foreign = sorted(name for name in names if not _INNOCENT.fullmatch(name))
    if not names & _GROWING:
        try:
            with (
                os.fdopen(open_file(path), "rb") as file,
                warnings.catch_warnings(),
            ):  # of a path, torch.load reads the name
                warnings.simplefilter("ignore")
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception:
            if not foreign:
                raise
    raise ValueError(
        f"it holds {few(foreign)} beside tensors, which takes code of others to read. If you trust the file, "
        "read it yourself (torch.load with weights_only=False) and give the state dict in it by weights="
    )


def _names_in_archive(path: Path, size: int) -> set[str]:
    """Return what the pickle in an archive names, once the archive holds no more than it should."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        claimed = sum(entry.file_size for entry in entries)
        if claimed > size:
            raise ValueError(
                f"it claims {claimed} bytes in an archive of {size}; torch.save does not compress"
            )
        pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if not pickles:
            raise ValueError(f"it is an archive of other things: {few([e.filename for e in entries])}")
        if any("/code/" in entry.filename for entry in entries):
            raise ValueError(
                "it is a TorchScript program: give torch.jit.load(path).state_dict() by weights="
            )
        if damaged := archive.testzip():
            raise ValueError(f"it is damaged: {damaged} in it is not what was written")
        return set().union(*(_globals_of(archive.open(entry)) for entry in pickles))


def _names_in_pickles(path: Path) -> set[str]:
    """Return what the pickles name that torch.save wrote before PyTorch 1.6: three, then the content."""
    names: set[str] = set()
    with os.fdopen(open_file(path), "rb") as file:
        for _ in range(4):
            names |= _globals_of(file)
    return names


def _globals_of(pickled: IO[bytes]) -> set[str]:
    """Return the full names of the classes and functions that a pickle asks for."""
    names: set[str] = set()
    last: list[str] = []
    memo: dict[Any, str] = {}
    try:
        for operation, argument, _ in genops(pickled):
            kind = operation.name
            if kind in ("GLOBAL", "INST"):
                names.add(str(argument).replace(" ", "."))
            elif kind == "STACK_GLOBAL":
                names.add(".".join(last[-2:]))
            elif isinstance(argument, str):
                last.append(argument)
            elif kind == "MEMOIZE" or kind.endswith("PUT"):
                memo[len(memo) if argument is None else argument] = last[-1] if last else ""
            elif kind.endswith("GET"):
                last.append(memo.get(argument, ""))
    except (ValueError, IndexError, EOFError, OverflowError, MemoryError):
        pass  # torch.load says what is wrong with it
    return names


def _reason(error: Exception) -> str:
    """Return the first sentence of a message, without colours of a terminal."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    plain = plain.partition("WeightsUnpickler error:")[2].strip() or plain
    return plain.splitlines()[0][:300] if plain else type(error).__name__


def few(keys: list[str]) -> str:
    """Return the first five of `keys`, and how many more there are."""
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
