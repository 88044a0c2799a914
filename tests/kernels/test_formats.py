"""Code for Windows and macOS, as far as that goes without them: object files and assembly are read.

Rules are those of Microsoft's "x64 software conventions" and of Apple's "Writing ARM64 code for Apple
platforms".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from regroup.kernels import templates
from regroup.kernels.language.code import Code, assembly
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target
from regroup.kernels.program import team
from regroup.kernels.watch import objects, tensors
from tests.kernels.problems import MAKERS

WINDOWS = "x86_64-pc-windows-msvc"
TARGETS = {
    "windows-avx2": replace(Target.avx2(), triple=WINDOWS),
    "windows-avx512": replace(Target.avx512(), triple=WINDOWS),
    "macos-arm64": replace(Target.neon("apple-m1"), triple="arm64-apple-macosx11.0.0"),
    "macos-x86-64": replace(Target.avx2(), triple="x86_64-apple-macosx11.0.0"),
}
ON_WINDOWS = [name for name in TARGETS if name.startswith("windows")]
SAVED = {f"xmm{i}" for i in range(6, 16)}
"""Vector registers that a function of Windows leaves as they were."""

PAGE = 4096
"""Bytes of a frame from which on a function of Windows calls `__chkstk`."""


def modules(target: Target, seed: str) -> Iterator[list[Code]]:
    """Yield a kernel of each template, what threads agree by, and what looks at objects."""
    rng = Random(seed)
    for make in MAKERS.values():
        for _ in range(20):
            if ways := templates.kernels(make(rng, False), target):
                yield rng.choice(ways).emit("kernel")
                break
    yield team.codes(target)
    yield [objects._look(target), tensors._look(target)]


@pytest.fixture(scope="module", params=TARGETS)
def compiled(request):
    """Object code, assembly and what LLVM was given, of each module, for a target."""
    target = TARGETS[request.param]
    texts = [assembly(codes) for codes in modules(target, request.param)]
    made = [(jit.compile_object(text, target), jit.machine_assembly(text, target), text) for text in texts]
    return request.param, made


def coff(code: bytes) -> tuple[dict[str, bytes], list[tuple[str, int, int]]]:
    """Return the sections of a COFF object, those of a name together, and symbols: name, section, class."""
    machine, count, _, start, symbols, _, _ = struct.unpack_from("<HHIIIHH", code)
    assert machine == 0x8664
    sections: dict[str, bytes] = {}
    for i in range(count):
        name, _, _, size, at = struct.unpack_from("<8sIIII", code, 20 + 40 * i)
        text = name.rstrip(b"\0").decode()
        sections[text] = sections.get(text, b"") + code[at : at + size]
    strings, found, i = start + 18 * symbols, [], 0
    while i < symbols:
        name, _, section, _, kind, more = struct.unpack_from("<8sIhHBB", code, start + 18 * i)
        if name[:4] == b"\0\0\0\0":
            at = strings + int.from_bytes(name[4:], "little")
            name = code[at : code.index(b"\0", at)]
        found.append((name.rstrip(b"\0").decode(), section, kind))
        i += 1 + more
    return sections, found


def mach_o(code: bytes) -> list[tuple[str, int]]:
    """Return the symbols of a Mach-O object: name, and type (0x1 is one of elsewhere)."""
    magic, _, _, kind, commands, *_ = struct.unpack_from("<8I", code)
    assert (magic, kind) == (0xFEEDFACF, 1)
    at, found = 32, []
    for _ in range(commands):
        command, size = struct.unpack_from("<II", code, at)
        if command == 2:
            symbols, count, strings, _ = struct.unpack_from("<4I", code, at + 8)
            for i in range(count):
                name, type, *_ = struct.unpack_from("<IBBHQ", code, symbols + 16 * i)
                found.append((code[strings + name : code.index(b"\0", strings + name)].decode(), type))
        at += size
    return found


def undefined(code: bytes) -> set[str]:
    """Return the names of elsewhere that an object uses."""
    if code[:4] == b"\xcf\xfa\xed\xfe":
        return {name for name, type in mach_o(code) if type & 0x0E == 0}
    return {name for name, section, kind in coff(code)[1] if section == 0 and kind == 2}


def frame(lines: str) -> int:
    """Return the bytes of a function's frame."""
    return sum(map(int, re.findall(r"\.seh_stackalloc (\d+)", lines)))


def is_public(line: str) -> bool:
    """Tell whether a line of LLVM's begins a function that others see."""
    return line.startswith("define ") and " internal " not in line


def functions(text: str) -> dict[str, str]:
    """Return the assembly of each function of COFF."""
    return dict(re.findall(r"^\.seh_proc (\S+)\n(.*?)\.seh_endproc", text, re.DOTALL | re.MULTILINE))


def test_nothing_is_of_elsewhere_but_what_every_process_of_windows_has(compiled):
    name, made = compiled
    for code, text, _ in made:
        if name not in ON_WINDOWS:
            assert not undefined(code)
            continue
        # a mark for Microsoft's linker, to which nothing refers; and what touches a stack page by page
        assert undefined(code) <= {"_fltused", "__chkstk"}
        for lines in functions(text).values():
            assert ("__chkstk" in lines) == (frame(lines) >= PAGE)


def test_names_are_as_c_compilers_write_them(compiled):
    name, made = compiled
    for code, _, llvm in made:
        defined = {line.split("@")[1].split("(")[0] for line in llvm.splitlines() if is_public(line)}
        if name in ON_WINDOWS:
            found = {n for n, section, kind in coff(code)[1] if section > 0 and kind == 2}
            # constants that objects share, and what a linker is told
            assert {n for n in found if "@" not in n} == defined
        else:
            assert {n for n, type in mach_o(code) if type & 0x0F == 0x0F} == {f"_{n}" for n in defined}


@pytest.mark.parametrize("compiled", ON_WINDOWS, indirect=True)
def test_registers_that_windows_wants_back_are_saved_and_told_to_those_who_unwind(compiled):
    total = 0
    for code, text, _ in compiled[1]:
        sections, _ = coff(code)
        whole = functions(text)
        total += len(whole)
        assert len(sections.get(".pdata", b"")) == 12 * len(whole), "a function without its row"
        for lines in whole.values():
            written = {
                f"xmm{n}" for n in re.findall(r"%[xyz]mm(\d+)(?: \{.*)?$", lines, re.MULTILINE)
            } & SAVED
            assert written <= set(re.findall(r"\.seh_savexmm %(\w+)", lines))
            pushed = {"rbx", "rbp", "rdi", "rsi", "r12", "r13", "r14", "r15"}
            body = lines.partition(".seh_endprologue")[2]
            names = {f"r{n}" for n in re.findall(r"%e?r?([bsd][xpi])\b", body)}
            names |= {f"r{n}" for n in re.findall(r"%r(1[2-5])[dwb]?\b", body)}
            assert names & pushed <= set(re.findall(r"\.seh_pushreg %(\w+)", lines))
    assert total > len(MAKERS)


@pytest.mark.parametrize("compiled", ON_WINDOWS, indirect=True)
def test_nothing_lies_below_the_stack_pointer_and_callees_have_their_home(compiled):
    for _, text, _ in compiled[1]:
        for lines in functions(text).values():
            assert not re.search(r"-\d+\(%rsp", lines), "there is no red zone"
            if re.search(r"\bcall", lines):
                assert frame(lines) >= 32, "the four words of who is called"
            if re.search(
                r"vmova\w+\s+(%[yz]mm\d+, \d*\(%rsp\)|\d*\(%rsp\), %[yz]mm)", lines
            ):  # of more than the 16 bytes to which a frame is aligned
                assert re.search(r"andq\s+\$-(32|64), %rsp", lines)


@pytest.mark.parametrize("compiled", ["macos-arm64"], indirect=True)
def test_apples_own_register_is_left_alone(compiled):
    assert not any(re.search(r"\b[xw]18\b", text) for _, text, _ in compiled[1])


def test_the_tests_see_calls_and_large_frames():
    text = "declare void @elsewhere()\ndefine void @here() {\n%a = alloca [9000 x i8]\n"
    text += "store volatile i8 1, ptr %a\ncall void @elsewhere()\nret void\n}"
    for name, target in TARGETS.items():
        want = {"elsewhere", "__chkstk"} if name in ON_WINDOWS else {"_elsewhere"}
        assert undefined(jit.compile_object(text, target)) == want
