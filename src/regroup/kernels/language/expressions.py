"""One LLVM instruction as people read it: `%v3 = fmul <16 x float> %v1, %v2` is `v1 * v2`."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

_OPERATORS = {"add": "+", "sub": "-", "mul": "*", "udiv": "//", "sdiv": "//", "urem": "%", "shl": "<<"}
_OPERATORS |= {"fadd": "+", "fsub": "-", "fmul": "*", "fdiv": "/", "and": "&", "or": "|", "xor": "^"}
_RELATIONS = {"lt": "<", "gt": ">", "ge": ">=", "le": "<=", "eq": "==", "ne": "!="}
_RELATION, _BITS, _SUM, _PRODUCT, _ATOM = range(5)
_BINDS = {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "//": _PRODUCT, "%": _PRODUCT}
_CALLS = {"fmuladd": "fma", "smin": "min", "smax": "max", "fabs": "abs"}
_SIMPLE = ("nsw ", "inbounds ", "nuw ")
_TYPE = re.compile(r"(?:<\d+ x \w+>|\[\d+ x \w+\]|ptr|float|i\d+)(?: align \d+)? (.*)")


@dataclass(frozen=True)
class Expression:
    """What stands for an instruction or a value in a listing.

    Attributes:
        text: the expression, or the statement.
        binds: how tightly its outermost operator binds.
        index: it is an address, index or condition, computed from others alone.
        continues: the sum that it adds to, by LLVM's name, or nothing.
    """

    text: str
    binds: int = _ATOM
    index: bool = False
    continues: str = ""

    def within(self, least: int) -> str:
        """Return it as an operand of something that binds so tightly."""
        return self.text if self.binds >= least else f"({self.text})"


Values = Callable[[str], Expression]
"""From LLVM's name of a value to what stands for it."""


def operation(instruction: str, values: Values) -> Expression:
    """Return what stands for an instruction; one that is not known stands for itself."""
    for flag in _SIMPLE:
        instruction = instruction.replace(flag, "")
    word, _, rest = instruction.partition(" ")
    find = _FORMS.get(word)
    if find is None and word in _OPERATORS:
        find = _binary
    return find(word, rest, values) if find else Expression(_renamed(instruction, values))


def constant(text: str) -> str:
    """Return a constant without its type: numbers in decimal, at the precision of a float32.

    >>> constant("splat (float 0x4000000000000000)"), constant("zeroinitializer")
    ('2', '0')
    """
    if text == "zeroinitializer":
        return "0"
    text = re.sub(r"^splat \(\w+ (.*)\)$", r"\1", text)
    if text.startswith("<i1 "):
        return f"lanes({_first(text)})"
    if re.fullmatch(r"0x[0-9a-f]{16}", text):
        number = struct.unpack(">d", bytes.fromhex(text[2:]))[0]
        return _shortest(number)
    return text


def _shortest(number: float) -> str:
    """Return the fewest digits that are this float32."""
    return next(
        text
        for digits in range(1, 18)
        if struct.pack("f", float(text := f"{number:.{digits}g}")) == struct.pack("f", number)
    )


def operands(text: str) -> list[str]:
    """Return operands without their types.

    >>> operands("<2 x i1> <i1 true, i1 false>, ptr align 4 %x")
    ['<i1 true, i1 false>', '%x']
    """
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "<([{") - (letter in ">)]}")
        if letter == "," and not depth:
            parts.append(text[start:i].strip())
            start = i + 1
    parts.append(text[start:].strip())
    return [match[1] if (match := _TYPE.match(part)) else part for part in parts]


def _renamed(text: str, values: Values) -> str:
    return re.sub(r"%[A-Za-z][\w.]*", lambda match: values(match[0]).within(_ATOM), text)


def _binary(word: str, rest: str, values: Values) -> Expression:
    a, b = operands(rest)
    sign, binds = _OPERATORS[word], _BINDS.get(_OPERATORS[word], _BITS)
    left = values(a).within(binds + (binds == _BITS))
    right = values(b).within(binds if sign == "+" else binds + 1)
    continues = a if word == "fadd" else ""
    return Expression(f"{left} {sign} {right}", binds, word[0] != "f" and not rest.startswith("<"), continues)


def _compare(word: str, rest: str, values: Values) -> Expression:
    relation, _, rest = rest.partition(" ")
    a, b = (values(each) for each in operands(rest))
    if relation in ("uno", "ord"):  # is there a NaN, or none
        word = "isnan" if relation == "uno" else "isnumber"
        return Expression(f"{word}({a.text})" if a == b else f"{word}({a.text}, {b.text})")
    sign = _RELATIONS[relation[-2:]]  # of "slt" (signed), "ult" (unsigned), "olt" (false for NaN)
    left = f"unsigned({a.text})" if relation[0] == "u" and rest.startswith("i") else a.within(_SUM)
    text = f"{left} {sign} {b.within(_SUM)}"
    return Expression(text, _RELATION, word == "icmp" and not rest.startswith("<"))


def _address(word: str, rest: str, values: Values) -> Expression:
    kind, pointer, index = operands(rest)
    base, by = values(pointer), values(index)
    if kind != "float":
        return Expression(f"{base.within(_ATOM)}[{by.text}]", _ATOM, True)
    if by.text == "0":
        return Expression(base.text, base.binds, True)
    if re.fullmatch(r"-\d+", by.text):
        return Expression(f"{base.within(_SUM)} - {by.text[1:]}", _SUM, True)
    return Expression(f"{base.within(_SUM)} + {by.within(_SUM)}", _SUM, True)


def _load(word: str, rest: str, values: Values) -> Expression:
    kind, pointer = operands(rest)[:2]
    at = values(pointer)
    if kind.startswith("<") and "float" not in kind:
        return Expression(f"load_ints{_width(kind)}({at.text})")
    if kind != "float" and not kind.startswith("<"):
        return Expression(_place(at), _ATOM, at.text.startswith("offsets"))
    return Expression(f"load{_width(kind)}({at.text})")


def _place(at: Expression) -> str:
    """Return the word at an address."""
    return at.text if at.text.endswith("]") else f"{at.within(_ATOM)}[0]"


def _width(kind: str) -> str:
    return "1" if kind == "float" else kind.strip("<").partition(" ")[0]


def _store(word: str, rest: str, values: Values) -> Expression:
    what, pointer = operands(rest)[:2]
    kind = rest.partition(" ")[0]
    at = values(pointer)
    if kind in ("ptr", "i32", "i64"):
        return Expression(f"{_place(at)} = {values(what).text}")
    return Expression(f"store{_width(kind)}({at.text}, {values(what).text})")


def _select(word: str, rest: str, values: Values) -> Expression:
    condition, a, b = (values(each).text for each in operands(rest))
    of_integers = rest.startswith("i1") and bool(re.search(r", i(64|32) ", rest))
    return Expression(f"select({condition}, {a}, {b})", _ATOM, of_integers)


def _insert(word: str, rest: str, values: Values) -> Expression:
    vector, scalar, lane = operands(rest)
    if vector == "poison":
        return replace(values(scalar), index=True)
    return Expression(f"insert({values(vector).text}, {values(scalar).text}, {lane})")


def _extract(word: str, rest: str, values: Values) -> Expression:
    vector, lane = operands(rest)
    return Expression(f"{values(vector).within(_ATOM)}[{lane}]")


def _shuffle(word: str, rest: str, values: Values) -> Expression:
    a, b, lanes = operands(rest)
    if lanes == "zeroinitializer":
        text = values(a).text
        return Expression(f"broadcast({text[6:-1]})" if text.startswith("load1(") else f"splat({text})")
    picked = [lane.removeprefix("i32 ") for lane in lanes.strip("<>").split(", ")]
    sources = values(a).text if b in (a, "poison") else f"{values(a).text}, {values(b).text}"
    return Expression(f"permute({sources}, [{_ranges(picked)}])")


def _ranges(lanes: Sequence[str]) -> str:
    """Return lanes, those that rise by one as `first:end`.

    >>> _ranges(["0", "1", "2", "7", "poison"])
    '0:3, 7, any'
    """
    found: list[list[int]] = []
    for lane in lanes:
        number = -1 if lane == "poison" else int(lane)
        if found and number >= 0 and found[-1][1] == number:
            found[-1][1] += 1
        else:
            found.append([number, number + 1])
    return ", ".join("any" if a < 0 else f"{a}" if b == a + 1 else f"{a}:{b}" for a, b in found)


def _call(word: str, rest: str, values: Values) -> Expression:
    function, _, given = rest[:-1].partition("(")
    kind, _, name = function.rpartition(" ")
    arguments = operands(given) if given else []
    texts = [values(each).text for each in arguments]
    if name.startswith("%"):
        return Expression(f"{values(name).text}({', '.join(texts)})")
    parts = name[1:].split(".")
    if parts[:2] == ["llvm", "masked"]:
        return _masked(parts[2], arguments, values)
    if parts[0] != "llvm":
        return Expression(f"{name[1:]}({', '.join(texts)})")
    if parts[1] == "prefetch":
        return Expression(f"prefetch({texts[0]})")
    short = parts[4] if parts[1] == "x86" and parts[3] == "mask" else parts[3 if parts[1] == "x86" else 1]
    if parts[1:3] == ["vector", "reduce"]:
        short = f"{parts[3]}_lanes"
    continues = arguments[2] if short == "fmuladd" else ""
    shown = f"{_CALLS.get(short, short)}({', '.join(texts)})"
    return Expression(shown, _ATOM, kind in ("i64", "i32"), continues)


def _masked(which: str, arguments: list[str], values: Values) -> Expression:
    """Return the load or store of a vector's first lanes: their number comes last."""
    if which == "load":
        pointer, _, mask, _ = arguments
        return Expression(f"load({values(pointer).text}, {_first(mask)})")
    vector, pointer, _, mask = arguments
    return Expression(f"store({values(pointer).text}, {values(vector).text}, {_first(mask)})")


def _first(mask: str) -> str:
    lanes = [lane.endswith("true") for lane in mask.strip("<>").split(", ")]
    count, chosen = sum(lanes), [str(i) for i, lane in enumerate(lanes) if lane]
    return str(count) if all(lanes[:count]) else f"[{_ranges(chosen)}]"


def _convert(word: str, rest: str, values: Values) -> Expression:
    value, _, kind = rest.rpartition(" to ")
    (name,) = operands(value)
    inner = values(name)
    if word in ("sext", "zext", "trunc", "inttoptr"):  # the same number
        return Expression(inner.text, inner.binds, True)
    names = {"sitofp": "float", "fptosi": "int", "bitcast": "float_bits" if "float" in kind else "bits"}
    return Expression(f"{names[word]}({inner.text})")


def _alloca(word: str, rest: str, values: Values) -> Expression:
    return Expression(f"room for {rest.partition(' x ')[0].lstrip('[')}")


_FORMS: dict[str, Callable[[str, str, Values], Expression]] = {
    "icmp": _compare,
    "fcmp": _compare,
    "getelementptr": _address,
    "load": _load,
    "store": _store,
    "select": _select,
    "insertelement": _insert,
    "extractelement": _extract,
    "shufflevector": _shuffle,
    "call": _call,
    "alloca": _alloca,
    "sext": _convert,
    "zext": _convert,
    "trunc": _convert,
    "inttoptr": _convert,
    "sitofp": _convert,
    "fptosi": _convert,
    "bitcast": _convert,
}
