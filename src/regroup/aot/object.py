"""A network as object code: one module of all its kernels, its weights, and the function that calls them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.binding as llvm
import numpy as np

from regroup.aot.network import Network
from regroup.kernels.language.code import Code, assembly
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target
from regroup.kernels.program import Arrangement, choice
from regroup.kernels.program.choice import BASELINE
from regroup.kernels.program.entry import HEAD, Signature, entry, functions, private_floats
from regroup.kernels.program.parallel import parallel as parallel_entry

ABI_VERSION = 1
"""Of what `net.h` promises and of the head of weights; it grows when that changes."""

_MAGIC = b"regroup\0"

_KINDS = (".text", ".rodata", "__text", "__const", "__literal", "CODE", "DATA")
"""What sections of instructions and constants are called, in the formats that there are."""


@dataclass(frozen=True)
class Object:
    """Object code of a network.

    Attributes:
        arrangements: its kernels, for each CPU that it has code for.
        code: the object file.
        symbols: the functions that others see.
        levels: of several CPUs, what the functions for each end in, such as avx512; the worst is the first.
        weights: the head and the packed weights, as they are in the object file, or belong beside it.
        digest: SHA-256 of the packed weights.
        sizes: bytes of the object's sections that take memory, by name.
        arena_bytes: memory that a call needs.
        share_bytes: of that, memory of kernels alone, which every share of a parallel call needs.
        apart: the weights are not in the object file.
    """

    arrangements: tuple[Arrangement, ...]
    code: bytes
    symbols: tuple[str, ...]
    levels: tuple[str, ...]
    weights: bytes
    digest: str
    sizes: dict[str, int]
    arena_bytes: int
    share_bytes: int
    apart: bool

    @property
    def code_bytes(self) -> int:
        """Instructions and constant tables, without the weights."""
        return sum(self.sizes.values()) - (0 if self.apart else len(self.weights))


def compile_network(
    networks: Sequence[Network],
    name: str,
    *,
    apart: bool = False,
    parallel: bool = False,
    hook: bool = False,
) -> Object:
    """Return a network as object code, whose functions are called `name_run` and so on.

    Args:
        networks: what to compile: one, or the same for each CPU that is chosen from (`choice.py`).
        name: prefix of the functions.
        apart: the weights stay outside, and are an argument of the functions.
        parallel: with `name_run_parallel`, which is given threads.
        hook: with `name_run_hooked`, which tells of its steps.
    """
    several = len(networks) > 1
    target = BASELINE if several else networks[0].target
    programs = [_Program(network, f"_{_suffix(network.target)}" if several else "") for network in networks]
    packed = b"".join(program.packed for program in programs)
    digest = hashlib.sha256(packed)
    head = _MAGIC + struct.pack("<II", ABI_VERSION, 0) + digest.digest()
    weights = head.ljust(HEAD, b"\0") + packed
    module = _Module(programs, name, None if apart else weights, parallel=parallel, hook=hook)
    code = jit.compile_object(module.text(), target)
    sizes = _sizes(code)
    if not apart:
        code = _filled(code, weights)
    arrangements = tuple(program.arrangement for program in programs)
    share = 4 * max(map(private_floats, arrangements))
    arena = 4 * max(arrangement.arena_floats for arrangement in arrangements) + share
    return Object(
        arrangements=arrangements,
        code=code,
        symbols=tuple(module.symbols),
        levels=tuple(program.suffix.lstrip("_") for program in programs) if several else (),
        weights=weights,
        digest=digest.hexdigest(),
        sizes=sizes,
        arena_bytes=arena,
        share_bytes=share,
        apart=apart,
    )


def _suffix(target: Target) -> str:
    """Return what the functions for a CPU are called: avx512."""
    return "".join(c for c in target.name.lower() if c.isalnum())


class _Program:
    """A network for one CPU, and its weights; the names of its functions end in `suffix`."""

    def __init__(self, network: Network, suffix: str) -> None:
        steps, target = network.schedule.steps, network.target
        self.suffix, self.attributes = suffix, choice.attributes(target) if suffix else ""
        self.arrangement = Arrangement(steps, target, network.schedule.arena_floats)
        self.packed = np.ascontiguousarray(self.arrangement.pack(steps)).view(np.uint8).tobytes()
        self.buffers = {port.name: port.buffer for port in (*network.inputs, *network.outputs)}


class _Module:
    """All functions of an object, in LLVM assembly."""

    def __init__(
        self, programs: Sequence[_Program], name: str, weights: bytes | None, *, parallel: bool, hook: bool
    ) -> None:
        self._constant, self.codes, self.symbols = "", [], list[str]()
        place, start = None, 0
        if weights is not None:
            place, self._constant = _constant(weights)
        wanted = ["run", *(["run_parallel"] if parallel else []), *(["run_hooked"] if hook else [])]
        public: dict[str, dict[str, str]] = {}
        for program in programs:
            signature = Signature(program.buffers, place, start // 4)
            start += len(program.packed)
            codes = functions(program.arrangement)
            for what in wanted:
                made = _function(program.arrangement, f"{name}_{what}{program.suffix}", signature, what)
                public[what] = {a.name.lstrip("%"): a.type for a in made[-1].arguments}
                self.symbols.append(made[-1].name)
                codes += made
            for code in codes:
                code.attributes = program.attributes or code.attributes
            self.codes += codes
        if len(programs) > 1:
            self._choose(name, public, [program.suffix for program in programs])

    def _choose(self, name: str, public: dict[str, dict[str, str]], suffixes: Sequence[str]) -> None:
        """Add the functions that ask the CPU."""
        self._constant += choice.machine_code() + "\n"
        self.codes.append(choice.asking(f"{name}_cpu"))
        for what, arguments in public.items():
            choices = [f"{name}_{what}{suffix}" for suffix in suffixes]
            self.codes.append(choice.choosing(f"{name}_{what}", f"{name}_cpu", arguments, choices))
        self.symbols += [f"{name}_cpu", *(f"{name}_{what}" for what in public)]

    def text(self) -> str:
        return self._constant + assembly(self.codes)


def _function(arrangement: Arrangement, name: str, signature: Signature, what: str) -> list[Code]:
    if what == "run_parallel":
        return parallel_entry(arrangement, name, signature)
    return [entry(arrangement, name, signature, hooked=what == "run_hooked")]


def _constant(weights: bytes) -> tuple[str, str]:
    """Return where weights are, and their constant, with zeros: as text, millions would take minutes."""
    head = "".join(f"\\{byte:02x}" for byte in weights[:HEAD])
    rest = f"[{len(weights) - HEAD} x i8]"
    kind = f"{{ [{HEAD} x i8], {rest} }}"
    value = f'{{ [{HEAD} x i8] c"{head}", {rest} zeroinitializer }}'
    place = f"getelementptr (i8, ptr @weights, i64 {HEAD})"
    return place, f"@weights = internal constant {kind} {value}, align 64\n"


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
