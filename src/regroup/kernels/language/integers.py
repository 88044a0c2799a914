"""Vectors of integers, of 8, 16 and 32 bits: as many as fit where a vector of floats does.

>>> from regroup.kernels.machine.target import Target
>>> code = Code(Target.avx512(), "twice", x="ptr")
>>> ints(code, 8), ints(code, 32)
('<64 x i8>', '<16 x i32>')
>>> twice = load_ints(code, code.arguments[0], 16) + 1
>>> "add <32 x i16>" in code.text()
True

`+`, `-` and `*` of them wrap around; a Python number beside a vector stands for a vector of it.
"""

from __future__ import annotations

from regroup.kernels.language.code import Code, Value
from regroup.kernels.machine.target import Target


def ints(code: Code, bits: int, count: int = 0) -> str:
    """Return the type of a vector of integers; `count` of them, or as many as fill a register."""
    return f"<{count or code.lanes * 32 // bits} x i{bits}>"


def load_ints(code: Code, pointer: Value, bits: int = 32) -> Value:
    """Load a register of integers."""
    type = ints(code, bits)
    return code.emit(type, f"load {type}, ptr {pointer}, align 4", "ints")


def store_ints(code: Code, vector: Value, pointer: Value) -> None:
    """Store a vector of integers."""
    code.line(f"store {vector.type} {vector}, ptr {pointer}, align 4")


def broadcast_int(code: Code, pointer: Value) -> Value:
    """Load 32 bits into every lane."""
    return splat_int(code, code.emit("i32", f"load i32, ptr {pointer}, align 4"))


def splat_int(code: Code, scalar: Value) -> Value:
    """Return a vector whose lanes all hold a 32-bit integer."""
    type = ints(code, 32)
    one = code.emit(type, f"insertelement {type} poison, i32 {scalar}, i32 0")
    zeros = f"<{code.lanes} x i32> zeroinitializer"
    return code.emit(type, f"shufflevector {type} {one}, {type} poison, {zeros}", "s")


def bits_of(code: Code, value: Value, type: str) -> Value:
    """Return the same bits as another type of as many."""
    return value if value.type == type else code.emit(type, f"bitcast {value.type} {value} to {type}")


def narrowed(code: Code, vector: Value, bits: int) -> Value:
    """Return the low bits of each integer."""
    type = f"{vector.type.partition(' x ')[0]} x i{bits}>"
    return code.emit(type, f"trunc {vector.type} {vector} to {type}")


def as_floats(code: Code, vector: Value) -> Value:
    """Return 32-bit integers as floats, rounded to the nearest where they have more than 24 bits."""
    return code.emit(code.vector, f"sitofp {vector.type} {vector} to {code.vector}")


def from_floats(code: Code, vector: Value) -> Value:
    """Return floats without what stands behind the point as 32-bit integers; they must fit."""
    type = ints(code, 32)
    return code.emit(type, f"fptosi {code.vector} {vector} to {type}")


def largest_lane(code: Code, vector: Value) -> Value:
    """Return the largest of a vector's integers."""
    return _reduced(code, "smax", vector)


def sum_of_lanes(code: Code, vector: Value) -> Value:
    """Return the sum of a vector's integers."""
    return _reduced(code, "add", vector)


def _reduced(code: Code, operation: str, vector: Value) -> Value:
    count, _, scalar = vector.type.strip("<>").partition(" x ")
    name = f"@llvm.vector.reduce.{operation}.v{count}{scalar}"
    code.declarations.add(f"declare {scalar} {name}({vector.type})")
    return code.emit(scalar, f"call {scalar} {name}({vector.type} {vector})")


def larger_ints(code: Code, a: Value, b: Value) -> Value:
    """Return the larger of the integers in each lane."""
    count, _, scalar = a.type.strip("<>").partition(" x ")
    name = f"@llvm.smax.v{count}{scalar}"
    code.declarations.add(f"declare {a.type} {name}({a.type}, {a.type})")
    return code.emit(a.type, f"call {a.type} {name}({a.type} {a}, {a.type} {b})")


def first_of(code: Code, vector: Value, count: int) -> Value:
    """Return a shorter vector of the first integers."""
    whole, _, scalar = vector.type.strip("<>").partition(" x ")
    if int(whole) == count:
        return vector
    picks = ", ".join(f"i32 {i}" for i in range(count))
    text = f"shufflevector {vector.type} {vector}, {vector.type} poison, <{count} x i32> <{picks}>"
    return code.emit(f"<{count} x {scalar}>", text)


def has_products_of_bytes(target: Target) -> bool:
    """Tell whether the CPU has one instruction for `products_of_bytes` (VNNI)."""
    return f"+{'avx512vnni' if target.lanes == 16 else 'avxvnni'}" in target.features.split(",")


def products_of_bytes(code: Code, total: Value, unsigned: Value, signed: Value) -> Value:
    """Return `total` plus, in each 32-bit lane, its four products of bytes; nothing saturates."""
    type = ints(code, 32)
    # with lanes for bytes: newer releases of LLVM have vectors of bytes there, and take these too
    name = f"@llvm.x86.avx512.vpdpbusd.{32 * code.lanes}"
    code.declarations.add(f"declare {type} {name}({type}, {type}, {type})")
    return code.emit(type, f"call {type} {name}({type} {total}, {type} {unsigned}, {type} {signed})")


def has_pairs(target: Target) -> bool:
    """Tell whether the CPU has `pairs_of_bytes` and `pairs_of_words`."""
    return target.triple.startswith("x86_64") and target.lanes in (8, 16)


def pairs_of_bytes(code: Code, unsigned: Value, signed: Value) -> Value:
    """Return the sum of each two neighbouring products of bytes as 16 bits, which saturate."""
    name = "avx512.pmaddubs.w.512" if code.lanes == 16 else "avx2.pmadd.ub.sw"
    return _of_pairs(code, name, 8, unsigned, signed)


def pairs_of_words(code: Code, a: Value, b: Value) -> Value:
    """Return the sum of each two neighbouring products of 16-bit integers as 32 bits."""
    name = "avx512.pmaddw.d.512" if code.lanes == 16 else "avx2.pmadd.wd"
    return _of_pairs(code, name, 16, a, b)


def _of_pairs(code: Code, name: str, bits: int, a: Value, b: Value) -> Value:
    narrow, wide = ints(code, bits), ints(code, 2 * bits)
    code.declarations.add(f"declare {wide} @llvm.x86.{name}({narrow}, {narrow})")
    a, b = bits_of(code, a, narrow), bits_of(code, b, narrow)
    return code.emit(wide, f"call {wide} @llvm.x86.{name}({narrow} {a}, {narrow} {b})")
