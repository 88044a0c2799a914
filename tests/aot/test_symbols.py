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

ELF = ["x86-64-avx2", "x86-64-avx512", "aarch64"]


def undefined(code: bytes) -> list[str]:
    """Return the symbols that an ELF object of 64 bits uses and does not define."""
    assert code[:6] == b"\x7fELF\x02\x01"
    (start,) = struct.unpack_from("<Q", code, 40)
    size, count = struct.unpack_from("<HH", code, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", code, start + i * size) for i in range(count)]
    found = []
    for section in sections:
        if section[1] == 2:  # SHT_SYMTAB
            names = sections[section[6]][4]
            for at in range(section[4] + 24, section[4] + section[5], 24):
                name, _, _, index, *_ = struct.unpack_from("<IBBHQQ", code, at)
                if index == 0:
                    end = code.index(b"\0", names + name)
                    found.append(code[names + name : end].decode())
    return found


@pytest.mark.parametrize("machine", ELF)
@pytest.mark.parametrize("family", MAKERS)
def test_kernels_call_nothing(family, machine):
    rng, cpu, done = Random(f"{family} {machine}"), MACHINES[machine].cpu, 0
    while done < 2:
        ways = templates.kernels(MAKERS[family](rng, False), cpu)
        if ways:
            code = jit.compile_object(assembly(rng.choice(ways).emit("kernel")), cpu)
            assert not undefined(code), f"{rng} {ways[0].key}"
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
    assert undefined(jit.compile_object(text, MACHINES["aarch64"].cpu)) == ["elsewhere"]
    with pytest.raises(AssertionError, match="elsewhere"):
        linked(jit.compile_object(text, MACHINES["wasm32-simd128"].cpu), "here")
