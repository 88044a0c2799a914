"""Tables of words, as wide as addresses, in generated code: integers and addresses."""

from __future__ import annotations

from regroup.kernels.language.code import Code, Operand, Value


def word(code: Code, table: Value, index: Operand) -> Value:
    """Return an entry of a table."""
    at = code.emit("ptr", f"getelementptr inbounds {code.index}, ptr {table}, {code.index} {index}")
    return code.emit(code.index, f"load {code.index}, ptr {at}, align {code.target.pointer}")


def put(code: Code, table: Value, index: Operand, number: Operand) -> None:
    """Set an entry of a table."""
    at = code.emit("ptr", f"getelementptr inbounds {code.index}, ptr {table}, {code.index} {index}")
    code.line(f"store {code.index} {number}, ptr {at}, align {code.target.pointer}")


def pointer(code: Code, number: Operand) -> Value:
    """Return a number as an address."""
    return code.emit("ptr", f"inttoptr i64 {number} to ptr")


def wide(code: Code, number: Value) -> Value:
    """Return a C int as a word."""
    return code.emit("i64", f"sext i32 {number} to i64")
