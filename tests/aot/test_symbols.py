"""Object code calls nothing: no kernel of any template leaves a symbol to be found elsewhere."""

from __future__ import annotations

import struct
from random import Random

import pytest

from regroup.aot.targets import MACHINES
from regroup.aot.wasm import linked
from regroup.kernels import templates
from regroup.kernels.language.code import assembly
from regroup.kernels.machine import jit
from tests.kernels.problems import MAKERS

ELF = [name for name in MACHINES if not name.endswith(("apple", "android")) and "wasm" not in name]


def undefined(code: bytes) -> list[str]:
    """Return the symbols that a little-endian ELF object uses and does not define."""
    assert code[:4] == b"\x7fELF" and code[5] == 1
    wide = code[4] == 2
    (start,) = struct.unpack_from("<Q" if wide else "<I", code, 40 if wide else 32)
    size, count = struct.unpack_from("<HH", code, 58 if wide else 46)
    kind = "<IIQQQQIIQQ" if wide else "<10I"
    sections = [struct.unpack_from(kind, code, start + i * size) for i in range(count)]
    found = []
    for section in sections:
        if section[1] != 2:  # SHT_SYMTAB
            continue
        names, entry = sections[section[6]][4], section[9]
        for at in range(section[4] + entry, section[4] + section[5], entry):
            name, *rest = struct.unpack_from("<IBBHQQ" if wide else "<IIIBBH", code, at)
            if rest[2 if wide else 4] == 0:
                found.append(code[names + name : code.index(b"\0", names + name)].decode())
    return found


@pytest.mark.parametrize("machine", ELF)
@pytest.mark.parametrize("family", MAKERS)
def test_kernels_call_nothing(family, machine):
    rng, cpu, done = Random(f"{family} {machine}"), MACHINES[machine].cpu, 0
    while done < 2:
        ways = templates.kernels(MAKERS[family](rng, False), cpu)
        if ways:
            functions = rng.choice(ways).emit("kernel")
            for function in functions:
                function.attributes = "nounwind"
            assert not undefined(jit.compile_object(assembly(functions), cpu)), ways[0].key
            done += 1


@pytest.mark.parametrize("family", MAKERS)
def test_kernels_of_webassembly_call_nothing(family):
    """The linker takes an object that imports its memory and stack, and nothing else."""
    rng, cpu, done = Random(family), MACHINES["wasm32-simd128"].cpu, 0
    while done < 2:
        ways = templates.kernels(MAKERS[family](rng, False), cpu)
        if ways:
            linked(jit.compile_object(assembly(rng.choice(ways).emit("kernel")), cpu), "kernel")
            done += 1


def test_the_test_sees_calls():
    text = "declare void @elsewhere()\ndefine void @here() {\ncall void @elsewhere()\nret void\n}"
    for machine in ("aarch64", "cortex-m4"):
        assert "elsewhere" in undefined(jit.compile_object(text, MACHINES[machine].cpu))
    with pytest.raises(AssertionError, match="elsewhere"):
        linked(jit.compile_object(text, MACHINES["wasm32-simd128"].cpu), "here")
