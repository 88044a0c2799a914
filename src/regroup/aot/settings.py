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

_RESERVED = ("main", "input", "output", "arena", "weights", "ports", "compare")
"""Names that the example has already."""


@dataclass(frozen=True)
class Settings:
    """The options of `export_object`.

    Attributes:
        name: prefix of all names in C, so that several networks can be in one program.
        weights: "inside" the object as constants, or "apart" in `net.weights`, to be mapped or flashed by the
            caller and given to `net_run`.
        ram: bytes of working memory that the machine has: a number, or such as "256k"; any by default.
        flash: bytes of memory for code and weights, likewise.
        winograd: do wide 3x3 convolutions in 4/9 of the multiply-adds, with weights that take 25/9 of the
            memory; None: unless `flash` is given or the target is a microcontroller.

    Raises:
        ParameterError: one of them cannot be.
    """

    name: str = "net"
    weights: str = "inside"
    ram: str | int | None = None
    flash: str | int | None = None
    winograd: bool | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            allowed = "a name in C of lower-case letters, digits and _, such as net"
            raise ParameterError("name", self.name, allowed)
        if self.weights not in ("inside", "apart"):
            raise ParameterError("weights", self.weights, "'inside' or 'apart'")
        if self.winograd is not None and not isinstance(self.winograd, bool):
            raise ParameterError("winograd", self.winograd, "true, false, or left out")
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
        return self.weights == "apart"

    def cpu(self, machine: Machine) -> Target:
        """Return the CPU of a machine, with Winograd's algorithm or without.

        Raises:
            ParameterError: the machine has no such export.
        """
        if machine.is_wasm and self.apart:
            raise ParameterError(
                "weights", self.weights, f"'inside' for {machine.name}, whose memory begins empty"
            )
        cpu, flash_counts = machine.cpu, self.flash is not None
        wanted = cpu.winograd and not flash_counts if self.winograd is None else self.winograd
        return replace(cpu, winograd=wanted)
