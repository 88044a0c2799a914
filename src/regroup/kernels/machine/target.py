"""The CPU as data: everything that a template may know about the machine it writes for.

>>> Target.avx512().lanes, Target.avx512().registers
(16, 32)
>>> Target.neon().triple
'aarch64-unknown-linux-gnu'
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace

_WITHOUT = "128-bit"


@dataclass(frozen=True)
class Target:
    """A CPU.

    Attributes:
        name: what people call the vector unit.
        triple: LLVM's name of the machine and its ABI.
        cpu: LLVM's name of the processor.
        features: LLVM's feature list.
        lanes: float32 lanes of a vector register.
        registers: vector registers.
        masks: partial vectors can be loaded and stored at full speed.
        l1: bytes of one core's first-level data cache.
        l2: bytes of one core's second-level cache.
        pointer: bytes of an address.
        abi: LLVM's name of the calling convention, where the triple does not say it.
        winograd: 3x3 convolutions may be done by Winograd's algorithm, whose weights take 25/9 of the memory.
    """

    name: str
    triple: str
    cpu: str
    features: str
    lanes: int
    registers: int
    masks: bool
    l1: int = 32 << 10
    l2: int = 1 << 20
    pointer: int = 8
    abi: str = ""
    winograd: bool = True

    @property
    def lacks(self) -> str:
        """What this CPU lacks, or nothing: without it generated code calls a library for each product."""
        return "this CPU has neither AVX2 and FMA nor NEON" if self.name == _WITHOUT else ""

    @classmethod
    def avx512(cls, cpu: str = "x86-64-v4", features: str = "") -> Target:
        """Return an x86 CPU with AVX-512."""
        features = ",".join(filter(None, (features, "-prefer-256-bit")))
        return cls("AVX-512", "x86_64-unknown-linux-gnu", cpu, features, 16, 32, True)

    @classmethod
    def avx2(cls, cpu: str = "x86-64-v3", features: str = "") -> Target:
        """Return an x86 CPU with AVX2 and FMA."""
        return cls("AVX2", "x86_64-unknown-linux-gnu", cpu, features, 8, 16, False)

    @classmethod
    def neon(cls, cpu: str = "generic", features: str = "+neon") -> Target:
        """Return a 64-bit ARM CPU."""
        return cls("NEON", "aarch64-unknown-linux-gnu", cpu, features, 4, 32, False)

    @classmethod
    def simd128(cls) -> Target:
        """Return WebAssembly with vectors of 128 bits, of which the CPUs below have 16."""
        triple = "wasm32-unknown-unknown"
        return cls("SIMD128", triple, "generic", "+simd128", 4, 16, False, pointer=4)

    @classmethod
    @functools.cache
    def host(cls) -> Target:
        """Return the CPU this process runs on; `REGROUP_TARGET=avx2` restricts a larger x86 CPU."""
        import llvmlite.binding as llvm

        triple, cpu = llvm.get_process_triple(), llvm.get_host_cpu_name()
        has = llvm.get_host_cpu_features()
        restricted = os.environ.get("REGROUP_TARGET", "") == "avx2"
        if all(has.get(f) for f in ("avx512f", "avx512vl", "avx512dq", "avx512bw")) and not restricted:
            target = cls.avx512(cpu, has.flatten())
        elif has.get("avx2") and has.get("fma"):
            target = cls.avx2() if restricted else cls.avx2(cpu, has.flatten())
        elif triple.startswith(("aarch64", "arm64")):
            target = cls.neon(cpu, has.flatten())
        else:
            target = cls(_WITHOUT, triple, cpu, has.flatten(), 4, 16, False)
        l1, l2 = _cache("SC_LEVEL1_DCACHE_SIZE"), _cache("SC_LEVEL2_CACHE_SIZE")
        return replace(target, triple=triple, l1=l1 or target.l1, l2=l2 or target.l2)


def _cache(name: str) -> int:
    """Return the size of a cache in bytes, 0 where the system does not tell."""
    known = getattr(os, "sysconf_names", {})
    return max(0, os.sysconf(name)) if name in known else 0
