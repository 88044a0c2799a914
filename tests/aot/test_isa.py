"""Kernels of instruction sets that this CPU has not: random problems, in an emulator."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from regroup.aot.targets import Machine
from regroup.kernels.language.code import assembly
from regroup.kernels.machine import jit
from regroup.kernels.templates.base import Kernel
from tests.aot.running import board_files, program, require, run
from tests.kernels.problems import MAKERS
from tests.kernels.run import Bench, Job, run_family

pytestmark = pytest.mark.isa

_RUNNER = Path(__file__).with_name("elsewhere.c")
_FUZZ = int(os.environ.get("REGROUP_FUZZ", "0"))
COUNT = _FUZZ // 10 or 1
"""Problems of each family on each machine; in the short form every machine meets another one."""

EMULATED = ["aarch64", "armv7-neon", "riscv64", "riscv64-v", "cortex-m4", "cortex-m7", "cortex-m55"]


class Elsewhere:
    """Runs kernels in an emulator: each is linked to a program that does one job.

    Attributes:
        machine: whose code the emulator runs.
    """

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine, self._folder = machine, folder
        self._last: Kernel | None = None
        flags = ["-O1", "-Wall", "-Werror", *machine.flags.split()]
        sources, self._parts = [_RUNNER], []
        for part in board_files(machine, folder):
            (sources if str(part).endswith(".c") else self._parts).append(part)
        for source in sources:
            self._parts.append(folder / f"{source.stem}.o")
            run([machine.compiler, *flags, "-c", source, "-o", self._parts[-1]])

    def __call__(self, job: Job) -> None:
        folder, buffers = self._folder, [*job.buffers, job.private]
        if self._last is not job.kernel:
            functions = job.kernel.emit("kernel")
            for function in functions:
                function.attributes = "nounwind"
            code = jit.compile_object(assembly(functions), job.kernel.target)
            (folder / "kernel.o").write_bytes(code)
            parts = [*self._parts, folder / "kernel.o", *self.machine.flags.split()]
            run([self.machine.compiler, "-o", folder / "job", *parts])
            self._last = job.kernel
        numbers = [int(job.at_end), len(job.ranges), *(n for pair in job.ranges for n in pair), len(buffers)]
        data = struct.pack(f"<{len(numbers)}q", *numbers)
        for buffer, offset in zip(buffers, [*job.offsets, 0], strict=True):
            data += struct.pack("<2q", buffer.nbytes, 4 * offset) + buffer.tobytes()
        (folder / "in").write_bytes(data)
        command = program(self.machine, folder / "job", [folder / "in", folder / "out"])
        done = subprocess.run(command, capture_output=True, timeout=250, cwd=folder)
        if b"qemu" in done.stderr and b"Assertion" in done.stderr:  # of its own code, not of what it runs
            pytest.skip(f"the emulator itself failed: {done.stderr.decode().splitlines()[-1]}")
        assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}: it touches others' memory"
        result, at = np.fromfile(folder / "out", np.float32), 0
        for buffer in buffers:
            buffer[:] = result[at : at + len(buffer)]
            at += len(buffer)


@pytest.fixture(scope="module", params=EMULATED)
def bench(request, tmp_path_factory):
    return Bench(Elsewhere(require(request.param), tmp_path_factory.mktemp(request.param)))


@pytest.mark.timeout(0 if _FUZZ else 300)
@pytest.mark.parametrize("family", MAKERS)
def test_kernels_stay_within_the_rounding_bound_and_within_their_tensors(family, bench, capsys):
    machine = bench.machine.machine
    run_family(family, EMULATED.index(machine.name), COUNT, [machine.cpu], bench)
    assert capsys.readouterr().out.splitlines()[-1] == f"passed {COUNT}"
