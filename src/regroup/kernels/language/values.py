"""Values of the generated code: names and types with Python's operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regroup.kernels.language.code import Code


class Value:
    """A result of the generated code, with Python's operators."""

    __slots__ = ("code", "name", "type")

    def __init__(self, code: Code, name: str, type: str) -> None:
        self.code, self.name, self.type = code, name, type

    def __add__(self, other: Operand) -> Value:
        if self.type == "ptr":
            return self.code.offset(self, other)
        return self if other == 0 and self.type == "i64" else self.code.binary("add", self, other)

    __radd__ = __add__

    def __sub__(self, other: Operand) -> Value:
        if self.type == "ptr":
            return self.code.offset(self, 0 - other)
        return self.code.binary("sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.code.binary("sub", self.code.value(other, self.type), self)

    def __mul__(self, other: Operand) -> Value:
        return self if other == 1 and self.type == "i64" else self.code.binary("mul", self, other)

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


Operand = Value | int | float
