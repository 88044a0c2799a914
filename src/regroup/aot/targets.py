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
class Board:
    """A microcontroller's board, as the emulator has it: where programs and data go.

    Attributes:
        name: what the emulator calls it.
        code: first byte, and how many, of memory for code; vectors are at 0.
        data: of memory for constants and data.
    """

    name: str
    code: tuple[int, int]
    data: tuple[int, int]


@dataclass(frozen=True)
class Machine:
    """A machine: its CPU and ABI, and with what its programs are built and run.

    Attributes:
        name: what people call it.
        cpu: for which the code is generated.
        about: what it is good for, in a line.
        more: better CPUs, for which there is code in the same object.
        compiler: the C compiler that the Makefile takes if none is given.
        flags: what that compiler needs besides.
        runs_with: what programs are run with where this is another machine.
        board: what the example runs on where there is no operating system.
    """

    name: str
    cpu: Target
    about: str
    compiler: str = "cc"
    flags: str = ""
    runs_with: str = ""
    board: Board | None = None
    more: tuple[Target, ...] = ()

    @property
    def runs_here(self) -> bool:
        """This process can run its code."""
        host = Target.host()
        same = host.triple.split("-")[0] == self.cpu.triple.split("-")[0] and "linux" in host.triple
        return same and host.lanes >= self.cpu.lanes and self.name.startswith("x86-64")

    @property
    def has_threads(self) -> bool:
        """Its programs may have several."""
        return self.board is None and not self.is_wasm

    @property
    def is_wasm(self) -> bool:
        """It is WebAssembly: called from JavaScript, not from C."""
        return self.cpu.triple.startswith("wasm")


_ARMV7 = Target(
    "NEON", "armv7-unknown-linux-gnueabihf", "cortex-a7", "+neon,+vfp4", 4, 16, False, l2=256 << 10, pointer=4
)
_RISCV = Target(
    "RV64GC", "riscv64-unknown-linux-gnu", "generic-rv64", "+m,+a,+f,+d,+c", 1, 32, False, abi="lp64d"
)
_RVV = replace(_RISCV, name="RVV", features=f"{_RISCV.features},+v", lanes=4)

_M4 = Target(
    "FPv4",
    "thumbv7em-none-unknown-eabihf",
    "cortex-m4",
    "",
    1,
    32,
    False,
    16 << 10,
    64 << 10,
    pointer=4,
    winograd=False,
)
"""What `l2` says of microcontrollers is what may lie in memory between two layers; above, they are joined.

Their flash is small, and Winograd's weights are large.
"""

_M7 = replace(_M4, name="FPv5", cpu="cortex-m7", l2=128 << 10)
_M55 = Target(
    "MVE",
    "thumbv8.1m.main-none-unknown-eabihf",
    "cortex-m55",
    "+mve.fp",
    4,
    8,
    False,
    16 << 10,
    128 << 10,
    pointer=4,
    winograd=False,
)

_ARM = replace(Target.neon(), l2=512 << 10)


def _controller(name: str, cpu: Target, about: str, fpu: str, board: Board) -> Machine:
    flags = f"-mcpu={cpu.cpu} -mthumb -mfloat-abi=hard {fpu} --specs=rdimon.specs"
    emulator = (
        f"qemu-system-arm -M {board.name} -nographic -semihosting-config enable=on,target=native -kernel"
    )
    return Machine(name, cpu, about, "arm-none-eabi-gcc", flags, emulator, board)


MACHINES: dict[str, Machine] = {
    machine.name: machine
    for machine in (
        Machine(
            "x86-64",
            Target.avx2(),
            "servers and PCs since 2013: code for AVX2 and for AVX-512, chosen from as it runs",
            more=(Target.avx512(),),
        ),
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
            "armv7-neon",
            _ARMV7,
            "32-bit Arm on Linux: Raspberry Pi 2 and later",
            "arm-linux-gnueabihf-gcc",
            "-static",
            "qemu-arm",
        ),
        Machine(
            "riscv64",
            _RISCV,
            "64-bit RISC-V on Linux, without vectors",
            "riscv64-linux-gnu-gcc",
            "-static",
            "qemu-riscv64",
        ),
        Machine(
            "riscv64-v",
            _RVV,
            "64-bit RISC-V on Linux, with vectors (V 1.0, of 128 bits or more)",
            "riscv64-linux-gnu-gcc",
            "-static",
            "qemu-riscv64 -cpu rv64,v=true",
        ),
        _controller(
            "cortex-m4",
            _M4,
            "microcontrollers with floats: Cortex-M4F",
            "-mfpu=fpv4-sp-d16",
            Board("mps2-an386", (0x400, (4 << 20) - 0x400), (0x21000000, 16 << 20)),
        ),
        _controller(
            "cortex-m7",
            _M7,
            "microcontrollers with floats: Cortex-M7",
            "-mfpu=fpv5-sp-d16",
            Board("mps2-an500", (0x400, (4 << 20) - 0x400), (0x60000000, 16 << 20)),
        ),
        _controller(
            "cortex-m55",
            _M55,
            "microcontrollers with vectors: Cortex-M55 with MVE",
            "",
            Board("mps3-an547", (0x01000000, 2 << 20), (0x60000000, 16 << 20)),
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
"""By name. Tests run the code of all, most in emulators; that of Android and Apple is compiled only."""


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
