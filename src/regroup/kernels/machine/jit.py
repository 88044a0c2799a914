"""LLVM assembly -> machine code in this process."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass

import llvmlite.binding as llvm

from regroup.kernels.machine.target import Target

VERSION = f"llvmlite {llvm.llvm_version_info}"
"""Part of a cache key: another LLVM makes other code."""


_lock = llvm.ffi.lib._lock
"""llvmlite's own, which a thread holds while it is in LLVM.

A fork waits for it: what another thread leaves half done in LLVM cannot be mended in the child.
"""

if hasattr(os, "register_at_fork"):

    def _release() -> None:
        _lock.__exit__(None, None, None)

    os.register_at_fork(before=_lock.__enter__, after_in_parent=_release, after_in_child=_release)


@functools.cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def machine(target: Target) -> llvm.TargetMachine:
    """Return LLVM's view of a target."""
    _initialize()
    # of 32-bit targets there are no shared libraries: code lies where it is linked to
    reloc = "pic" if target.pointer == 8 else "static"
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu,
        features=target.features,
        opt=2,
        reloc=reloc,
        codemodel="default",
        jit=False,
        abiname=target.abi,
    )


def compile_object(text: str, target: Target) -> bytes:
    """Return a module of LLVM assembly as object code.

    Only the code generator runs: templates write what the optimiser would, and measured the same with it.
    """
    tm = machine(target)
    return tm.emit_object(_module(text, target, tm))


def machine_assembly(text: str, target: Target) -> str:
    """Return what `compile_object` makes of LLVM assembly in the CPU's own assembly."""
    tm = machine(target)
    return tm.emit_assembly(_module(text, target, tm))


def _module(text: str, target: Target, tm: llvm.TargetMachine) -> llvm.ModuleRef:
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = target.triple, str(tm.target_data)
    return module


@dataclass(frozen=True)
class Loaded:
    """Object code in memory; the functions live as long as this."""

    engine: llvm.ExecutionEngine

    def address(self, name: str) -> int:
        """Return the address of a function."""
        return self.engine.get_function_address(name)


def load(objects: Iterable[bytes]) -> Loaded:
    """Link object code into this process."""
    _initialize()
    target = Target.host()
    empty = llvm.parse_assembly("")
    empty.triple = target.triple
    # its own memory manager keeps code and constants of an object within the reach of relative addresses
    engine = llvm.create_mcjit_compiler(empty, machine(target), use_lmm=True)
    for code in objects:
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return Loaded(engine)
