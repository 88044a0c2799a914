"""A function of generated code: values with Python's operators, and what writes their instructions."""

from __future__ import annotations

import struct

from regroup.kernels.machine.target import Target

_INT = {"add": "add nsw", "sub": "sub nsw", "mul": "mul nsw", "div": "udiv", "rem": "urem"}
_INT |= {"and": "and", "or": "or", "xor": "xor"}
_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INTS = {name: name for name in ("add", "sub", "mul", "and", "or", "xor", "shl", "lshr", "ashr")}

_STEMS = {"ptr": "p", "i64": "n", "i32": "n", "i1": "yes", "float": "f"}
"""Names of values that are given none, by their type."""


class Builder:
    """One function being written: its instructions, one after the other.

    Args:
        target: the CPU.
        name: the function's symbol.
        arguments: LLVM type of each argument, by name.
    """

    def __init__(self, target: Target, name: str, **arguments: str) -> None:
        self.target, self.name, self.lanes = target, name, target.lanes
        self.vector = f"<{target.lanes} x float>"
        self.index = f"i{8 * target.pointer}"
        self.arguments = [Value(self, f"%{argument}", type) for argument, type in arguments.items()]
        self.lines: list[str] = []
        self._tables: list[str] = []
        self._count = 0
        self._globals: dict[str, str] = {}
        self.declarations: set[str] = set()
        self.type, self.end, self.internal, self.attributes = "void", "ret void", False, ""
        self.label("entry")

    def text(self) -> str:
        """Return the function and the constants it uses as LLVM assembly."""
        head = ", ".join(f"{a.type} {a.name}" for a in self.arguments)
        linkage = "internal " if self.internal else ""
        attributes = f"{self.attributes} " if self.attributes else ""
        start = f"define {linkage}{self.type} @{self.name}({head}) {attributes}{{"
        entry, *body = self.lines
        return "\n".join([*self._globals.values(), start, entry, *self._tables, *body, self.end, "}"])

    def emit(self, type: str, instruction: str, name: str = "") -> Value:
        """Append an instruction that has a result; `name` is for people, and gets a number."""
        name = f"%{self.fresh(name or _stem(type))}"
        self.lines.append(f"{name} = {instruction}")
        return Value(self, name, type)

    def value(self, number: Operand, type: str) -> Value:
        """Return a Python number as a value of `type`; values pass through."""
        if isinstance(number, Value):
            return number
        if type.startswith("i"):
            return Value(self, str(int(number)), type)
        if _is_ints(type):
            return Value(self, f"splat ({type.rpartition(' ')[2][:-1]} {int(number)})", type)
        bits = struct.pack(">d", struct.unpack("f", struct.pack("f", number))[0]).hex()
        if type == "float":
            return Value(self, f"0x{bits}", type)
        return Value(self, f"splat (float 0x{bits})", type)

    def integer(self, number: Operand) -> Value:
        """Return a Python number as an integer of the language; values pass through."""
        return self.value(number, self.index)

    def vec(self, number: float) -> Value:
        """Return a constant vector."""
        return self.value(number, self.vector)

    def binary(self, operation: str, a: Value, b: Operand) -> Value:
        """Return `a operation b` ("add", "sub", "mul", "div", "rem") of integers or vectors.

        Vectors of integers also know "and", "or", "xor", "shl", "lshr" and "ashr".
        """
        names = _INT if a.type.startswith("i") else _INTS if _is_ints(a.type) else _FLOAT
        return self.emit(a.type, f"{names[operation]} {a.type} {a}, {self.value(b, a.type)}")

    def compare(self, predicate: str, a: Operand, b: Operand) -> Value:
        """Return a mask; `predicate` as LLVM's icmp ("slt", "eq") or fcmp ("olt", "uno")."""
        a = self.integer(a)
        kind = "icmp" if a.type.startswith("i") or _is_ints(a.type) else "fcmp"
        type = f"{a.type.partition(' x ')[0]} x i1>" if a.type.startswith("<") else "i1"
        return self.emit(type, f"{kind} {predicate} {a.type} {a}, {self.value(b, a.type)}")

    def offset(self, pointer: Value, floats: Operand) -> Value:
        """Return the address `floats` floats on."""
        if not isinstance(floats, Value) and floats == 0:
            return pointer
        return self.emit("ptr", f"getelementptr inbounds float, ptr {pointer}, {self.index} {floats}")

    def line(self, text: str) -> None:
        """Append an instruction without a result, as it is."""
        self.lines.append(text)

    def note(self, text: str) -> None:
        """Append a comment: it stands in the assembly, and in the listing."""
        self.lines.append(f"; {text}")

    def label(self, label: str) -> None:
        """Begin a block of instructions."""
        self.block = label
        self.lines.append(f"{label}:")

    def fresh(self, stem: str) -> str:
        """Return a name that nothing has yet."""
        self._count += 1
        return f"{stem}{self._count}"


class Value:
    """A result of the generated code, with Python's operators."""

    __slots__ = ("code", "name", "type")

    def __init__(self, code: Builder, name: str, type: str) -> None:
        self.code, self.name, self.type = code, name, type

    def __add__(self, other: Operand) -> Value:
        if self.type == "ptr":
            return self.code.offset(self, other)
        return self if other == 0 and self.type == self.code.index else self.code.binary("add", self, other)

    __radd__ = __add__

    def __sub__(self, other: Operand) -> Value:
        if self.type == "ptr":
            return self.code.offset(self, 0 - other)
        return self.code.binary("sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.code.binary("sub", self.code.value(other, self.type), self)

    def __mul__(self, other: Operand) -> Value:
        return self if other == 1 and self.type == self.code.index else self.code.binary("mul", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> Value:
        return self.code.binary("div", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self.code.binary("div", self.code.value(other, self.type), self)

    def __floordiv__(self, other: Operand) -> Operand:
        return self if other == 1 else self.code.binary("div", self, other)

    def __mod__(self, other: Operand) -> Operand:
        return 0 if other == 1 else self.code.binary("rem", self, other)

    def __str__(self) -> str:
        return self.name


def _is_ints(type: str) -> bool:
    return type.startswith("<") and " x i" in type


def _stem(type: str) -> str:
    return _STEMS.get(type, "mask" if type.endswith("x i1>") else "v")


Operand = Value | int | float
