"""The machine that a measured figure belongs to."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Machine:
    """What a reader must know to place a measured time."""

    device: str
    """Name of the processor or GPU."""
    cores: int
    """CPU cores that this process may use."""
    threads: int
    """Threads that torch uses for one operation."""
    capability: str
    """Vector instructions that torch found on the CPU, e.g. AVX2."""
    torch: str
    system: str

    def to_dict(self) -> dict[str, str | int]:
        """Return the fields, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.device}, {self.cores} cores, {self.threads} threads, {self.capability}, "
            f"torch {self.torch}, {self.system}"
        )


def machine(device: torch.device | str = "cpu") -> Machine:
    """Return a description of this machine, for measurements made on `device`."""
    device = torch.device(device)
    return Machine(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        capability=torch.backends.cpu.get_cpu_capability(),
        torch=torch.__version__,
        system=f"{platform.system()} {platform.machine()}",
    )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
