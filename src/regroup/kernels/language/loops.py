"""Loops of the generated code."""

from __future__ import annotations

from collections.abc import Sequence

from regroup.kernels.language.builder import Builder, Operand, Value


class Loop:
    """A loop whose head is written; `close` writes its end."""

    def __init__(
        self,
        code: Builder,
        start: Operand,
        stop: Operand,
        step: int,
        values: Sequence[Value],
        sure: bool = False,
        name: str = "i",
    ) -> None:
        self.code, self.stop, self.step, self.initial = code, code.integer(stop), step, list(values)
        self.before, self.head, self.done = code.block, code.fresh("loop"), code.fresh("end")
        self.skips = not (sure or (isinstance(start, int) and isinstance(stop, int) and start < stop))
        begin = code.integer(start)
        if self.skips:
            assert not values
            enter = code.compare("slt", begin, self.stop)
            code.line(f"br i1 {enter}, label %{self.head}, label %{self.done}")
        else:
            code.line(f"br label %{self.head}")
        code.label(self.head)
        self._phis: list[tuple[int, str]] = []
        self.index = self._phi(begin, name)
        self.carried = [self._phi(value, "sum" if value.type == code.vector else "next") for value in values]

    def _phi(self, value: Value, name: str) -> Value:
        code = self.code
        phi = code.emit(value.type, f"phi {value.type} [ {value}, %{self.before} ]", name)
        self._phis.append((len(code.lines) - 1, phi.name))
        return phi

    def close(self, values: Sequence[Value]) -> list[Value]:
        """Write the end, with the values for the next pass; return those after the last."""
        code = self.code
        following = self.index + self.step
        again = code.compare("slt", following, self.stop)
        for (line, _), value in zip(self._phis, [following, *values], strict=True):
            code.lines[line] += f", [ {value}, %{code.block} ]"
        code.line(f"br i1 {again}, label %{self.head}, label %{self.done}")
        code.label(self.done)
        return list(values)
