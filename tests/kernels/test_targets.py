"""Every template compiles for every target; AVX2 and AVX-512 are run by the random problems."""

from __future__ import annotations

from random import Random

import llvmlite.binding as llvm
import pytest

from regroup.kernels import templates
from regroup.kernels.language.code import assembly
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target
from tests.kernels.problems import MAKERS


@pytest.mark.parametrize("family", MAKERS)
def test_templates_compile_for_neon(family):
    rng, target, done = Random(family), Target.neon(), 0
    while done < 4:
        ways = templates.kernels(MAKERS[family](rng, False), target)
        if ways:
            code = jit.compile_object(assembly(rng.choice(ways).emit("kernel")), target)
            assert llvm.ObjectFileRef.from_data(code) and code[:4] == b"\x7fELF"
            assert int.from_bytes(code[18:20], "little") == 183, "not for AArch64"
            done += 1


def test_the_host_is_described():
    host = Target.host()
    assert host.lanes * 4 in (16, 32, 64)
    assert host.triple.split("-")[0] in llvm.get_process_triple()


def test_the_host_can_be_restricted(monkeypatch):
    if Target.host().name not in ("AVX-512", "AVX2"):
        pytest.skip("x86 only")
    monkeypatch.setenv("REGROUP_TARGET", "avx2")
    assert Target.host.__wrapped__(Target).lanes == 8
