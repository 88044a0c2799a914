"""Tables of 64-bit words in generated code: numbers and addresses that Python has put there."""

from __future__ import annotations

from regroup.kernels.language.code import Code, Operand, Value


def word(code: Code, table: Value, index: Operand) -> Value:
    """Return an entry of a table."""
    at = code.emit("ptr", f"getelementptr inbounds i64, ptr {table}, i64 {index}")
    return code.emit("i64", f"load i64, ptr {at}, align 8")


def put(code: Code, table: Value, index: Operand, number: Operand) -> None:
    """Set an entry of a table."""
    at = code.emit("ptr", f"getelementptr inbounds i64, ptr {table}, i64 {index}")
    code.line(f"store i64 {number}, ptr {at}, align 8")


def pointer(code: Code, number: Operand) -> Value:
    """Return a number as an address."""
    return code.emit("ptr", f"inttoptr i64 {number} to ptr")


def wide(code: Code, number: Value) -> Value:
    """Return a C int as a word."""
    return code.emit("i64", f"sext i32 {number} to i64")
