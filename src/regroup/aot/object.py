"""A network as object code: one module of all its kernels, its weights, and the function that calls them."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import llvmlite.binding as llvm
import numpy as np

from regroup.aot.network import Network
from regroup.kernels.language.code import assembly
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target
from regroup.kernels.program import Arrangement
from regroup.kernels.program.entry import HEAD, entry, functions, memory_floats

ABI_VERSION = 1
"""Of what `net.h` promises and of the head of weights; it grows when that changes."""

_MAGIC = b"regroup\0"

_KINDS = (".text", ".rodata", "__text", "__const", "__literal", "CODE", "DATA")
"""What sections of instructions and constants are called, in the formats that there are."""


@dataclass(frozen=True)
class Object:
    """Object code of a network.

    Attributes:
        arrangement: its kernels.
        code: the object file.
        weights: the head and the packed weights, as they are in the object file, or belong beside it.
        digest: SHA-256 of the packed weights.
        sizes: bytes of the object's sections that take memory, by name.
        arena_bytes: memory that a call needs.
        apart: the weights are not in the object file.
    """

    arrangement: Arrangement
    code: bytes
    weights: bytes
    digest: str
    sizes: dict[str, int]
    arena_bytes: int
    apart: bool

    @property
    def code_bytes(self) -> int:
        """Instructions and constant tables, without the weights."""
        return sum(self.sizes.values()) - (0 if self.apart else len(self.weights))


def compile_network(network: Network, target: Target, symbol: str, *, apart: bool = False) -> Object:
    """Return `network` as object code whose only symbol is the function `symbol`.

    Args:
        network: what to compile.
        target: the CPU.
        symbol: name of the function: its arguments are the inputs, the outputs, the arena.
        apart: the weights stay outside, and are the function's last argument.
    """
    steps = network.schedule.steps
    arrangement = Arrangement(steps, target, network.schedule.arena_floats)
    packed = np.ascontiguousarray(arrangement.pack(steps)).view(np.uint8).tobytes()
    digest = hashlib.sha256(packed)
    head = _MAGIC + struct.pack("<II", ABI_VERSION, 0) + digest.digest()
    weights = head.ljust(HEAD, b"\0") + packed
    text = _module(network, arrangement, symbol, None if apart else weights)
    code = jit.compile_object(text, target)
    sizes = _sizes(code)
    if not apart:
        code = _filled(code, weights)
    arena = 4 * memory_floats(arrangement)
    return Object(arrangement, code, weights, digest.hexdigest(), sizes, arena, apart)


def _module(network: Network, arrangement: Arrangement, symbol: str, weights: bytes | None) -> str:
    """Return the module as LLVM assembly, with zeros for weights: as text, millions would take minutes."""
    buffers = {port.name: port.buffer for port in (*network.inputs, *network.outputs)}
    place = None
    constant = ""
    if weights is not None:
        head = "".join(f"\\{byte:02x}" for byte in weights[:HEAD])
        rest = f"[{len(weights) - HEAD} x i8]"
        place = f"getelementptr (i8, ptr @weights, i64 {HEAD})"
        kind = f"{{ [{HEAD} x i8], {rest} }}"
        value = f'{{ [{HEAD} x i8] c"{head}", {rest} zeroinitializer }}'
        constant = f"@weights = internal constant {kind} {value}, align 64\n"
    main = entry(arrangement, symbol, buffers, place)
    return constant + assembly([*functions(arrangement), main])


def _filled(code: bytes, weights: bytes) -> bytes:
    """Return object code with the weights where their head and zeros are."""
    head = weights[:HEAD]
    start = code.find(head)
    end = start + len(weights)
    assert start >= 0 and code.find(head, start + 1) < 0, "the weights' place is not to be found"
    assert not any(code[start + HEAD : end]), "there is something in the weights' place"
    return code[:start] + weights + code[end:]


def _sizes(code: bytes) -> dict[str, int]:
    """Return the sizes of an object's sections of instructions and constants, by the start of their names."""
    found: dict[str, int] = {}
    for section in llvm.ObjectFileRef.from_data(code).sections():
        name = section.name() or b""  # of WebAssembly, what follows in the file belongs to it
        kind = next((kind for kind in _KINDS if name.startswith(kind.encode())), None)
        if kind is not None:
            found[kind] = found.get(kind, 0) + section.size()
    return found
