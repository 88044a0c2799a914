"""One of several programs, by what the x86-64 CPU can that it runs on: for object code without a library.

`int name_cpu(void)` asks the CPU and the system and returns the best level that both allow, 0 for none. There
is no state in which an answer could be kept: who minds the time, which in a virtual machine is that of some
exits, keeps it. Levels are those of the psABI (System V Application Binary Interface, AMD64 Architecture
Processor Supplement 1.0, table 3.1); where bits are is in Intel's manual, volume 2, CPUID.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from regroup.kernels.language.code import Code, Value
from regroup.kernels.machine.target import Target
from regroup.kernels.program.entry import NO_CPU

BASELINE = Target("SSE2", "x86_64-unknown-linux-gnu", "x86-64", "", 4, 16, False)
"""The CPU that asks which one it is."""

_CPUID = "53 4989d0 89f8 89f1 0fa2 418900 41895804 41894808 4189500c 5b c3"
"""`cpuid(leaf, subleaf, four)`, as System V passes them. Bytes, since LLVM reads only the host's assembly:

push rbx; mov r8, rdx; mov eax, edi; mov ecx, esi; cpuid; mov [r8], eax; mov [r8+4], ebx; mov [r8+8], ecx;
mov [r8+12], edx; pop rbx; ret
"""

_XGETBV = "31c9 0f01d0 c3"
"""`xgetbv()`: which registers the system saves. xor ecx, ecx; xgetbv; ret"""

_FIRST, _SEVENTH, _EXTENDED = (1, 2), (7, 1), (0x80000001, 2)
"""Leaf and which of eax, ebx, ecx, edx."""

_SAVES_STATE = 1 << 27
"""Of the first leaf: xgetbv is there."""


def _bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


_V3 = {_FIRST: _bits(0, 9, 12, 13, 19, 20, 22, 23, 28, 29), _SEVENTH: _bits(3, 5, 8), _EXTENDED: _bits(0, 5)}
_V4 = {**_V3, _SEVENTH: _V3[_SEVENTH] | _bits(16, 17, 28, 30, 31)}
LEVELS = ((_V3, 0x06), (_V4, 0xE6))
"""What CPUs of the levels 3 and 4 have, and the registers that the system must save."""


def machine_code() -> str:
    """Return the functions in machine code as LLVM assembly: bytes, before a body that is never reached."""
    found = []
    for head, text in ((" @cpuid(i32, i32, ptr)", _CPUID), (" @xgetbv()", _XGETBV)):
        code = bytes.fromhex(text)
        data = "".join(f"\\{byte:02x}" for byte in code)
        kind = "i32" if "xgetbv" in head else "void"
        found.append(
            f'define internal {kind}{head} nounwind prologue [{len(code)} x i8] c"{data}" {{\nunreachable\n}}'
        )
    return "\n".join(found)


def asking(name: str) -> Code:
    """Return the function `name`: the number of the best level of `LEVELS`, from 1 on; 0 for none."""
    code = Code(BASELINE, name)
    code.type, code.end, code.attributes = "i32", "ret i32 0", "nounwind"
    answer = code.memory(2)
    _ask(code, answer, 0)
    for _ in code.when(code.compare("uge", _register(code, answer, 0), 7)):
        found = {}
        for leaf, register in (_FIRST, _SEVENTH, _EXTENDED):
            _ask(code, answer, leaf)
            found[leaf, register] = _register(code, answer, register)
        for _ in code.when(_has(code, found[_FIRST], _SAVES_STATE)):
            saved = code.emit("i32", "call i32 @xgetbv()")
            best: Value = code.value(0, "i32")
            for number, (needs, state) in enumerate(LEVELS, 1):
                is_there = _has(code, saved, state)
                for place, bits in needs.items():
                    is_there = code.binary("and", is_there, _has(code, found[place], bits))
                best = code.select(is_there, number, best, "i32")
            code.line(f"ret i32 {best}")
            code.label(code.fresh("unreached"))
    return code


def choosing(name: str, asks: str, arguments: Mapping[str, str], choices: Sequence[str]) -> Code:
    """Return the function `name`, which calls that of `choices` that is for this CPU.

    Args:
        name: of the function.
        asks: name of what `asking` has made.
        arguments: of all of them.
        choices: names of the functions, from level 1 on.
    """
    code = Code(BASELINE, name, **arguments)
    code.type, code.end, code.attributes = "i32", f"ret i32 {NO_CPU}", "nounwind"
    level = code.emit("i32", f"call i32 @{asks}()")
    given = ", ".join(f"{a.type} {a}" for a in code.arguments)
    for number, choice in enumerate(choices, 1):
        for _ in code.when(code.compare("eq", level, number)):
            code.line(f"ret i32 {code.emit('i32', f'call i32 @{choice}({given})')}")
            code.label(code.fresh("unreached"))
    return code


def attributes(target: Target) -> str:
    """Return the attributes of functions for a CPU in a module for `BASELINE`."""
    features = f' "target-features"="{target.features}"' if target.features else ""
    return f'nounwind "target-cpu"="{target.cpu}"{features}'


def _ask(code: Code, answer: Value, leaf: int) -> None:
    signed = leaf - (1 << 32) if leaf >> 31 else leaf
    code.line(f"call void @cpuid(i32 {signed}, i32 0, ptr {answer})")


def _register(code: Code, answer: Value, number: int) -> Value:
    at = code.emit("ptr", f"getelementptr inbounds i32, ptr {answer}, i64 {number}")
    return code.emit("i32", f"load i32, ptr {at}, align 4")


def _has(code: Code, register: Value, bits: int) -> Value:
    signed = bits - (1 << 32) if bits >> 31 else bits
    return code.compare("eq", code.binary("and", register, signed), signed)
