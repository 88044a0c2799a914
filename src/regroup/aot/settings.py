"""How object code is made: names, where the weights are, what counts more than time.

>>> Settings(ram="256k").ram_bytes
262144
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from regroup.aot.report import parse_size
from regroup.aot.targets import Machine
from regroup.errors import ParameterError
from regroup.kernels.machine.target import Target

_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")

_RESERVED = {"main", "input", "output", "arena", "weights", "ports", "compare", "times", "pool", "parallel"}
"""Names that the example has already."""

_KEYWORDS = re.compile(
    "alignas|alignof|and|asm|auto|bitand|bitor|bool|break|case|catch|char|class|compl|concept|const|continue|"
    "decltype|default|delete|do|double|else|enum|explicit|export|extern|false|float|for|friend|goto|if|inline|"
    "int|long|mutable|namespace|new|noexcept|not|nullptr|operator|or|private|protected|public|register|"
    "requires|return|short|signed|sizeof|static|struct|switch|template|this|throw|true|try|typedef|typeid|"
    "typename|union|unsigned|using|virtual|void|volatile|while|xor"
)
"""Of C++, in which the name is that of a namespace."""


@dataclass(frozen=True)
class Settings:
    """The options of `export_object`.

    Attributes:
        name: prefix of all names in C, so that several networks can be in one program.
        packed: where the weights are: "inside" the object as constants, or "apart" in `net.weights`, to be
            mapped or flashed by the caller and given to `net_run`.
        ram: bytes of working memory that the machine has: a number, or such as "256k"; any by default.
        flash: bytes of memory for code and weights, likewise.
        winograd: do wide 3x3 convolutions in 4/9 of the multiply-adds, with weights that take 25/9 of the
            memory; None: unless `flash` is given or the target is a microcontroller.
        hook: with `net_run_hooked`, which calls a function of yours before and after each step, and names of
            the steps; the example times them.

    Raises:
        ParameterError: one of them cannot be.
    """

    name: str = "net"
    packed: str = "inside"
    ram: str | int | None = None
    flash: str | int | None = None
    winograd: bool | None = None
    hook: bool = False

    def __post_init__(self) -> None:
        taken = self.name in _RESERVED or _KEYWORDS.fullmatch(self.name)
        if taken or not _NAME.fullmatch(self.name):
            allowed = "a name in C of lower-case letters, digits and _, such as net"
            raise ParameterError("name", self.name, allowed)
        if self.packed not in ("inside", "apart"):
            raise ParameterError("packed", self.packed, "'inside' or 'apart'")
        if self.winograd is not None and not isinstance(self.winograd, bool):
            raise ParameterError("winograd", self.winograd, "true, false, or left out")
        if not isinstance(self.hook, bool):
            raise ParameterError("hook", self.hook, "true or false")
        _ = self.ram_bytes, self.flash_bytes

    @property
    def ram_bytes(self) -> int | None:
        """Of working memory; None: any."""
        return parse_size("ram", self.ram)

    @property
    def flash_bytes(self) -> int | None:
        """Of memory for code and weights; None: any."""
        return parse_size("flash", self.flash)

    @property
    def apart(self) -> bool:
        """The weights are beside the object."""
        return self.packed == "apart"

    def cpus(self, machine: Machine) -> list[Target]:
        """Return the CPUs of a machine, with Winograd's algorithm or without.

        Raises:
            ParameterError: the machine has no such export.
        """
        if machine.is_wasm and self.apart:
            allowed = f"'inside' for {machine.name}, whose memory begins empty"
            raise ParameterError("packed", self.packed, allowed)
        if machine.is_wasm and self.hook:
            raise ParameterError("hook", self.hook, f"left out for {machine.name}: browsers have a profiler")
        flash_counts = self.flash is not None
        wanted = machine.cpu.winograd and not flash_counts if self.winograd is None else self.winograd
        return [replace(cpu, winograd=wanted) for cpu in (machine.cpu, *machine.more)]
