"""The machines that object code is made for, as data: a row each.

>>> target("aarch64").cpu.lanes
4
>>> target("arm")
Traceback (most recent call last):
regroup.errors.UnknownNameError: target='arm': must be one of aarch64, ...
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from regroup.errors import unknown_name
from regroup.kernels.machine.target import Target


@dataclass(frozen=True)
class Machine:
    """A machine: its CPU and ABI, and with what its programs are built and run.

    Attributes:
        name: what people call it.
        cpu: for which the code is generated.
        about: what it is good for, in a line.
        compiler: the C compiler that the Makefile takes if none is given.
        flags: what that compiler needs besides.
        runs_with: what programs are run with where this is another machine.
    """

    name: str
    cpu: Target
    about: str
    compiler: str = "cc"
    flags: str = ""
    runs_with: str = ""

    @property
    def is_wasm(self) -> bool:
        """It is WebAssembly: called from JavaScript, not from C."""
        return self.cpu.triple.startswith("wasm")


_ARM = replace(Target.neon(), l2=512 << 10)

MACHINES: dict[str, Machine] = {
    machine.name: machine
    for machine in (
        Machine("x86-64-avx2", Target.avx2(), "servers and PCs since 2013 (AVX2 and FMA)"),
        Machine("x86-64-avx512", Target.avx512(), "servers since 2017 (AVX-512 F, VL, DQ, BW)"),
        Machine(
            "aarch64",
            _ARM,
            "64-bit Arm on Linux: Raspberry Pi 3 and later, servers",
            "aarch64-linux-gnu-gcc",
            "-static",
            "qemu-aarch64",
        ),
        Machine(
            "aarch64-android",
            replace(_ARM, triple="aarch64-unknown-linux-android"),
            "64-bit Arm on Android",
            "aarch64-linux-android24-clang",
        ),
        Machine(
            "aarch64-apple",
            replace(_ARM, triple="arm64-apple-macosx11.0.0", cpu="apple-m1", l1=64 << 10, l2=4 << 20),
            "Apple's computers since 2020",
        ),
        Machine(
            "wasm32-simd128",
            replace(Target.simd128(), l2=512 << 10),
            "web pages: browsers since 2021, Node.js, other WebAssembly runtimes",
            "",
            "",
            "node",
        ),
    )
}
"""By name. What is run in tests: x86-64 itself, aarch64 in an emulator; the others are compiled only."""


def target(name: str) -> Machine:
    """Return a machine by its name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in MACHINES:
        raise unknown_name("target", name, MACHINES)
    return MACHINES[name]


def listed() -> str:
    """Return all machines, with what each is good for, a line each."""
    width = max(map(len, MACHINES))
    return "\n".join(f"{name:<{width}}  {machine.about}" for name, machine in MACHINES.items())
