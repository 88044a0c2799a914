"""Generated code as people read it: loops, branches and vector operations, in the order in which they stand.

A listing is made from the LLVM assembly that is compiled, instruction by instruction, so it cannot differ
from what runs. Addresses and indices that are used once stand where they are used, and a sum keeps its
name while terms are added to it; sums, products, loads and stores have a line each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from regroup.kernels.language.code import Code
from regroup.kernels.language.expressions import Expression, constant, operation

_LABEL = re.compile(r"([a-z]+)\d*:$")
_BRANCH = re.compile(r"br i1 (\S+), label %([a-z]+)\d+, label %([a-z]+)\d+")
_NAME = re.compile(r"%[A-Za-z][\w.]*")
_PHI = re.compile(r"\[ (.+?), %\w+ \]")
_INDENT = "  "


def listing(functions: Sequence[Code]) -> str:
    """Return functions as pseudo-code; names of a function's values mean nothing in the next.

    >>> from regroup.kernels.machine.target import Target
    >>> code = Code(Target.avx512(), "twice", x="ptr", n="i64")
    >>> x, n = code.arguments
    >>> for i in code.each(0, n, 16):
    ...     code.store(code.load(x + i) * 2.0, x + i)
    >>> print(listing([code]))
    def twice(x, n):  # vectors of 16 floats
      for i in range(0, n, 16):
        v = load(x + i)
        v2 = v * 2
        store(x + i, v2)
    """
    return "\n\n".join("\n".join(_Function(code).lines) for code in functions)


class _Function:
    """The lines of one function."""

    def __init__(self, code: Code) -> None:
        text = [line for line in code.text().splitlines() if line]
        start = next(i for i, line in enumerate(text) if line.startswith("define"))
        self._body = text[start + 2 : -2]  # without its head, the first label, the return and the brace
        self.lines: list[str] = []
        self._depth, self._whole = 0, tuple(f"{word}{code.lanes}(" for word in ("load", "load_ints", "store"))
        self._names: dict[str, str] = {}
        self._taken: Counter[str] = Counter()
        self._inlined: dict[str, Expression] = {}
        self._loops: list[tuple[str, list[tuple[str, str]]]] = []
        self._sums: set[str] = set()
        used = (line.partition(" = ")[2] if line.startswith("%") else line for line in self._body)
        self._uses = Counter(name for line in used for name in _NAME.findall(line))
        self._left = self._uses.copy()
        for line in text[:start]:
            self._table(line)
        arguments = ", ".join(self._named(argument.name) for argument in code.arguments)
        self._say(f"def {code.name}({arguments}):  # vectors of {code.lanes} floats")
        self._depth = 1
        for i, line in enumerate(self._body):
            self._line(i, line)

    def _line(self, i: int, line: str) -> None:
        if line.startswith(";"):
            self._say("#" + line[1:])
        elif label := _LABEL.match(line):
            self._block(label[1], i)
        elif branch := _BRANCH.match(line):
            self._branch(*branch.groups())
        elif not line.startswith("br ") and " = phi " not in line:
            self._instruction(i, line)

    def _say(self, text: str) -> None:
        last = self.lines[-1] if self.lines else ""
        if text.startswith("prefetch(") and last.strip().startswith("prefetch("):
            self.lines[-1] = f"{last[:-1]}, {text.removeprefix('prefetch(')}"
        else:
            self.lines.append(_INDENT * self._depth + text)

    def _table(self, line: str) -> None:
        """Write a constant table."""
        name, _, numbers = line.partition(" = ")
        self._names[name] = "offsets" + name.rpartition(".t")[2].replace("0", "", 1)
        listed = ", ".join(re.findall(r"i32 (-?\d+)", numbers))
        self._say(f"{self._names[name]} = [{listed}]")

    # -- control ----------------------------------------------------------------------------------

    def _block(self, kind: str, at: int) -> None:
        """Begin what a label begins: a loop's body, the other branch, or what follows."""
        if kind == "loop":
            self._loop(at)
        elif kind == "no":
            self._depth -= 1
            self._say("else:")
            self._depth += 1
        elif kind in ("end", "done"):
            if self.lines[-1] == _INDENT * (self._depth - 1) + self.lines[-1].strip():
                self._say("pass")
            self._depth -= 1

    def _branch(self, condition: str, kind: str, other: str) -> None:
        if kind in ("then", "yes"):
            self._left[condition] -= 1
            self._say(f"if {self._value(condition).text}:")
            self._depth += 1
        elif self._loops and condition == self._loops[-1][0]:
            changed = [(self._named(name), self._value(value).text) for name, value in self._loops[-1][1]]
            changed = [(old, new) for old, new in changed if old != new]
            if changed:
                olds, news = zip(*changed, strict=True)
                self._say(f"{', '.join(olds)} = {', '.join(news)}")
            self._left -= Counter(value for _, value in self._loops.pop()[1])

    def _loop(self, at: int) -> None:
        """Write the head of the loop whose label is line `at`, and the values that it begins with."""
        phis: list[tuple[str, str, str]] = []
        for line in self._body[at + 1 :]:
            name, is_phi, values = line.partition(" = phi ")
            if not is_phi:
                break
            before, after = _PHI.findall(values)
            phis.append((name, before, after))
        (index, start, following), *carried = phis
        begins: dict[str, list[str]] = {}
        self._left -= Counter(before for _, before, _ in carried)
        for name, before, _ in carried:
            self._sums.add(name)
            if before in self._sums and not self._left[before]:
                self._names[name] = self._names[before]
            else:
                begins.setdefault(self._value(before).text, []).append(self._named(name))
        for value, names in begins.items():
            self._say(f"{' = '.join(names)} = {value}")
        step, stop, again = self._bounds(following)
        bounds = f"{self._value(start).text}, {self._value(stop).text}" + ("" if step == "1" else f", {step}")
        self._say(f"for {self._named(index)} in range({bounds}):")
        self._loops.append((again, [(name, after) for name, _, after in carried]))
        self._depth += 1

    def _bounds(self, following: str) -> tuple[str, str, str]:
        """Return step and stop of a loop, and the condition of going on; they are in its range."""
        step = next(line for line in self._body if line.startswith(f"{following} = ")).rpartition(", ")[2]
        test = next(line for line in self._body if re.search(rf" = icmp slt i\d+ {following}, ", line))
        again = test.partition(" = ")[0]
        self._inlined |= {following: Expression(""), again: Expression("")}
        return step, test.rpartition(", ")[2], again

    # -- values -----------------------------------------------------------------------------------

    def _instruction(self, i: int, line: str) -> None:
        target, _, text = line.partition(" = ") if line.startswith("%") else ("", "", line)
        if target in self._inlined:
            return
        self._left -= Counter(_NAME.findall(text))
        found = operation(text, self._value)
        for whole in self._whole:
            found = replace(found, text=found.text.replace(whole, re.sub(r"\d+", "", whole)))
        if not target:
            self._say(found.text)
        elif self._is_inlined(i, target, found):
            self._inlined[target] = found
        else:
            self._say(f"{self._result(target, found)} = {found.text}")

    def _is_inlined(self, i: int, target: str, found: Expression) -> bool:
        """Tell whether a value is to stand where it is used, rather than have a line of its own."""
        if found.index:
            return self._uses[target] <= 1 or found.text in self._names.values()
        spread = f"insertelement .* poison, float {target}, "  # by the next instructions, into all lanes
        return found.text.startswith("load1(") and bool(re.search(spread, self._body[i + 1]))

    def _result(self, target: str, found: Expression) -> str:
        """Return the name of a result: that of the sum that it continues, if nothing reads that again."""
        old = found.continues
        if old in self._sums and not self._left[old]:
            self._names[target] = self._names[old]
        elif found.text.startswith("fma(") and old.startswith("%"):
            self._names[target] = self._numbered("sum")
        else:
            return self._named(target)
        self._sums.add(target)
        return self._names[target]

    def _value(self, name: str) -> Expression:
        if name in self._inlined:
            return self._inlined[name]
        if name.startswith("%"):
            return Expression(self._named(name))
        return Expression(self._names.get(name, constant(name)))

    def _named(self, name: str) -> str:
        """Return a short name: the stem that the code gave, with a number from the second on."""
        if name not in self._names:
            self._names[name] = self._numbered(re.sub(r"\d+$", "", name[1:]))
        return self._names[name]

    def _numbered(self, stem: str) -> str:
        self._taken[stem] += 1
        return stem if self._taken[stem] == 1 else f"{stem}{self._taken[stem]}"
