"""Export networks, build them with a C compiler, and run them: here, or in an emulator."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from regroup.aot.network import Network, Port, whole_network
from regroup.aot.object import Object, compile_network
from regroup.aot.sources import board_sources, sources
from regroup.aot.targets import MACHINES, Machine
from regroup.aot.wasm import linked
from regroup.kernels.machine.target import Target

_HOST = Target.host().name
RUNNABLE = {
    "x86-64": _HOST in ("AVX2", "AVX-512"),
    "x86-64-avx2": _HOST in ("AVX2", "AVX-512"),
    "x86-64-avx512": _HOST == "AVX-512",
    "aarch64": True,
    "armv7-neon": True,
    "riscv64": True,
    "riscv64-v": True,
    "cortex-m4": True,
    "cortex-m7": True,
    "cortex-m55": True,
    "wasm32-simd128": True,
}
"""The machines whose programs tests run, and whether this CPU, or an emulator, could."""

_PACKAGES = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu and libc6-dev-arm64-cross",
    "arm-linux-gnueabihf-gcc": "gcc-arm-linux-gnueabihf and libc6-dev-armhf-cross",
    "riscv64-linux-gnu-gcc": "gcc-riscv64-linux-gnu and libc6-dev-riscv64-cross",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi and libnewlib-arm-none-eabi",
    "qemu-aarch64": "qemu-user",
    "qemu-system-arm": "qemu-system-arm",
    "qemu-arm": "qemu-user",
    "qemu-x86_64": "qemu-user",
    "qemu-riscv64": "qemu-user",
    "node": "nodejs",
}


def require(machine: str) -> Machine:
    """Return a machine whose programs can be built and run here; else skip the test, and say why."""
    found = MACHINES[machine]
    if not RUNNABLE[machine]:
        pytest.skip(f"{machine} is not run: this CPU is {_HOST}")
    emulator = "qemu-x86_64" if found.more else found.runs_with.partition(" ")[0]
    for program in filter(None, (found.compiler, emulator)):
        if shutil.which(program) is None:
            package = _PACKAGES.get(program, "a C compiler")
            pytest.skip(f"{machine} is not run: there is no {program} (apt-get install {package})")
    return found


def board_files(machine: Machine, folder: Path) -> list[object]:
    """Write what programs for a bare board need, and return what the compiler is given of it."""
    if machine.board is None:
        return []
    for name, text in board_sources(machine.board).items():
        (folder / name).write_bytes(text)
    return [folder / "start.c", "-T", folder / "board.ld"]


def program(machine: Machine, path: Path, arguments: Sequence[object]) -> list[object]:
    """Return the command that runs a program of a machine, in the directory of its arguments."""
    if machine.board is None:
        return [*machine.runs_with.split(), path, *arguments]
    names = " ".join(Path(str(argument)).name for argument in arguments)  # a command line of few bytes
    return [*machine.runs_with.split(), path, "-append", names]


class Built:
    """A network as a program with fences around its memory."""

    def __init__(
        self, model: object, example: object, machine: Machine, folder: Path, *, apart: bool = True
    ) -> None:
        self.networks = [whole_network(model, example, cpu) for cpu in (machine.cpu, *machine.more)]
        self.network: Network = self.networks[-1 if _HOST == "AVX-512" else 0]
        apart = apart and not machine.is_wasm
        options = {"parallel": machine.has_threads, "hook": not machine.is_wasm}
        self.made: Object = compile_network(self.networks, "net", apart=apart, **options)
        self.machine, self.folder = machine, folder
        for name, data in sources(self.network, self.made, machine, "net", "a test").items():
            (folder / name).write_bytes(data)
        (folder / "net.o").write_bytes(self.made.code)
        if apart:
            (folder / "net.weights").write_bytes(self.made.weights)
        self._build_wasm() if machine.is_wasm else self._build()

    def _build(self) -> None:
        inputs, outputs, apart = self.network.inputs, self.network.outputs, self.made.apart
        ports = ["{NET_WEIGHTS_BYTES, 0}"] if apart else []
        ports += [f"{{4 * NET_{p.name.upper()}_FLOATS, {int(p in outputs)}}}" for p in (*inputs, *outputs)]
        count, skipped = len(inputs) + len(outputs), int(apart)
        given = [f"memory[{skipped + i}]" for i in range(count)]
        given += ["arena", *(["memory[0]"] if apart else [])]
        macros = {
            "HEADER": '"net.h"',
            "TABLE": ", ".join(ports),
            "GIVEN": ", ".join(given),
            "GIVEN_TO_RUN": ", ".join(f"given[{i}]" for i in range(len(given))),
            "ARENA_AT": str(count),
        }
        command = [self.machine.compiler, "-O1", "-Wall", "-Werror", f"-I{self.folder}"]
        command += [f"-D{name}={text}" for name, text in macros.items()]
        parts = [Path(__file__).with_name("fenced.c"), self.folder / "net.o"]
        parts += [*board_files(self.machine, self.folder), *self.machine.flags.split()]
        run([*command, "-o", self.folder / "fenced", *parts])

    def _build_wasm(self) -> None:
        (self.folder / "net.wasm").write_bytes(linked(self.made.code, "net_run"))
        floats = ",".join(str(port.floats) for port in (*self.network.inputs, *self.network.outputs))
        numbers = [self.made.arena_bytes, floats, len(self.network.outputs)]
        self._script = [Path(__file__).with_name("fenced.mjs"), self.folder / "net.wasm", *numbers]

    def __call__(self, *inputs: Tensor, emulator: str = "") -> list[Tensor]:
        """Run one image, as the machine's programs run or in another emulator, and return the outputs."""
        files = [self.folder / "net.weights"] if self.made.apart else []
        for port, x in zip(self.network.inputs, inputs, strict=True):
            files.append(self.folder / f"{port.name}.bin")
            files[-1].write_bytes(x.contiguous().numpy().tobytes())
        results = [self.folder / f"{port.name}.bin" for port in self.network.outputs]
        if self.machine.is_wasm:
            run([self.machine.runs_with, *self._script, *files, *results])
        else:
            command = program(self.machine, self.folder / "fenced", [*files, *results])
            run([*emulator.split(), *command], self.folder)
        return [_read(path, port) for path, port in zip(results, self.network.outputs, strict=True)]


def run(command: Sequence[object], folder: Path | None = None) -> str:
    """Run a program that must succeed, and return what it prints."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=250, cwd=folder)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def engine(network: Network, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return what the same steps give in this process, on one thread."""
    program = network.schedule.build()
    arena = program.new_arena(1)
    arena[:] = np.nan
    numbers = [x.contiguous() for x in inputs]
    outputs = [torch.full((1, *port.shape), torch.nan) for port in network.outputs]
    at = {p.buffer: t for p, t in zip((*network.inputs, *network.outputs), (*numbers, *outputs), strict=True)}
    buffers = [at[number] for number in range(2, 2 + len(at))]
    strides = [x.numel() for x in buffers]
    program.run([arena.ctypes.data, *(x.data_ptr() for x in buffers)], threads=1, strides=strides)
    return outputs


def _read(path: Path, port: Port) -> Tensor:
    return torch.from_numpy(np.fromfile(path, np.float32).copy()).view(1, *port.shape)
