"""Words of a table that several threads read and change: in generated code.

Orders are LLVM's. What a thread wrote before it releases a word, another finds there that has acquired it.
"""

from __future__ import annotations

from regroup.kernels.language.code import Code, Operand, Value


def load(code: Code, table: Value, index: Operand, order: str = "acquire") -> Value:
    """Return a word, as it is now."""
    return code.emit("i64", f"load atomic i64, ptr {_at(code, table, index)} {order}, align 8")


def store(code: Code, table: Value, index: Operand, number: Operand, order: str = "release") -> None:
    """Set a word."""
    code.line(f"store atomic i64 {number}, ptr {_at(code, table, index)} {order}, align 8")


def add(code: Code, table: Value, index: Operand, number: Operand, order: str = "acq_rel") -> Value:
    """Add to a word, and return what it was before."""
    return code.emit("i64", f"atomicrmw add ptr {_at(code, table, index)}, i64 {number} {order}")


def exchange(
    code: Code, table: Value, index: Operand, old: Operand, new: Operand, order: str = "acq_rel"
) -> tuple[Value, Value]:
    """Set a word to `new` if it is `old`; return what it was, and whether it is set."""
    at, type = _at(code, table, index), "{ i64, i1 }"
    seen = "seq_cst" if order == "seq_cst" else "monotonic"  # where it is another, and stays it
    both = code.emit(type, f"cmpxchg ptr {at}, i64 {old}, i64 {new} {order} {seen}")
    return (
        code.emit("i64", f"extractvalue {type} {both}, 0"),
        code.emit("i1", f"extractvalue {type} {both}, 1"),
    )


def fetch(code: Code, table: Value, index: Operand) -> None:
    """Ask for the cache line of a word that will be changed."""
    code.declarations.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
    code.line(f"call void @llvm.prefetch.p0(ptr {_at(code, table, index)}, i32 1, i32 3, i32 1)")


def pause(code: Code) -> None:
    """Tell the CPU that a loop waits for another thread."""
    architecture = code.target.triple.partition("-")[0]
    if architecture in ("x86_64", "amd64", "i686"):
        code.declarations.add("declare void @llvm.x86.sse2.pause()")
        code.line("call void @llvm.x86.sse2.pause()")
    elif architecture in ("aarch64", "arm64"):
        code.declarations.add("declare void @llvm.aarch64.isb(i32)")
        code.line("call void @llvm.aarch64.isb(i32 15)")


def _at(code: Code, table: Value, index: Operand) -> Value:
    return code.emit("ptr", f"getelementptr inbounds i64, ptr {table}, i64 {index}")
