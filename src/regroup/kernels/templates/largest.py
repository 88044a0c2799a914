"""The largest numbers of a vector: bisection over the bits finds the least of them, one pass collects all."""

from __future__ import annotations

from regroup.kernels.language.code import Code, Value
from regroup.kernels.machine.target import Target
from regroup.kernels.problems.dynamic import Largest
from regroup.kernels.templates.base import Kernel, ceil_div, whole_lines
from regroup.kernels.templates.parts.walk import vectors

_BITS = 31
"""Of a float but for its sign: as integers they are in the order of the magnitudes, NaN above infinity."""


class LargestByBits(Kernel):
    """A work item is a head. Scratch memory: magnitudes, then chosen numbers, then chosen magnitudes."""

    template = "largest"

    def __init__(self, problem: Largest, target: Target) -> None:
        super().__init__(problem, target)
        self.count, self.kept = problem.x.channels // problem.heads, problem.kept
        self.items, self.tile = problem.heads, f"{self.kept} of {self.count}"
        self.ints = f"<{target.lanes} x i32>"
        self.padded = ceil_div(self.count, target.lanes) * target.lanes
        self.room = whole_lines(self.kept + 1)  # the pass writes first and counts then: one more
        self.scratch = whole_lines(self.padded) + 2 * self.room
        self.cycles = problem.heads * (_BITS * (self.padded / target.lanes + 15.0) + 4.0 * self.count)

    def _emit(self, name: str) -> list[Code]:
        code, (x, y) = self._open(name)
        _, low, high, scratch = code.arguments
        for head in code.each(low, high):
            self._magnitudes(code, x + head * self.count)
            threshold = self._threshold(code)
            self._collect(code, threshold)
            chosen, first = scratch + whole_lines(self.padded), y + head * self.kept
            for part in range(2):  # the numbers, the magnitudes
                for i, count in vectors(code, self.kept):
                    value = code.load(chosen + part * self.room + i, count)
                    code.store(value, first + part * self.items * self.kept + i, count)
        return [code]

    def _magnitudes(self, code: Code, source: Value) -> None:
        """Copy them to scratch memory; lanes beyond the last hold a negative number, smaller than all."""
        for c, count in vectors(code, self.count):
            v = code.call("llvm.fabs", code.load(source + c, count))
            if count < code.lanes:
                v = code.select(code.first_lanes(count), v, -1.0)
            code.store(v, code.arguments[3] + c)

    def _threshold(self, code: Code) -> Value:
        """Return the bits of the smallest number that is kept: the largest that `kept` numbers reach."""

        def body(i: Value | int, found: list[Value]) -> list[Value]:
            bit = code.emit(code.index, f"shl {code.index} 1, {_BITS - 1 - i}")
            more = found[0] + bit
            enough = code.compare("sge", self._reaching(code, more), self.kept)
            return [code.select(enough, more, found[0])]

        return code.carry(0, _BITS, 1, [code.integer(0)], body)[0]

    def _reaching(self, code: Code, bits: Value) -> Value:
        """Return how many magnitudes are at least as large as the one with these bits."""
        ints, lanes = self.ints, code.lanes
        narrow = code.narrowed(bits)
        one = code.emit(ints, f"insertelement {ints} poison, i32 {narrow}, i32 0")
        zeros = f"<{lanes} x i32> zeroinitializer"
        all_ = code.emit(ints, f"shufflevector {ints} {one}, {ints} poison, {zeros}")

        def body(c: Value | int, total: list[Value]) -> list[Value]:
            v = code.emit(ints, f"load {ints}, ptr {code.arguments[3] + c}, align 4")
            reaches = code.emit(f"<{lanes} x i1>", f"icmp sge {ints} {v}, {all_}")
            as_int = code.emit(ints, f"zext <{lanes} x i1> {reaches} to {ints}")
            return [code.emit(ints, f"add {ints} {total[0]}, {as_int}")]

        (total,) = code.carry(0, self.padded, lanes, [Value(code, "zeroinitializer", ints)], body)
        name = f"@llvm.vector.reduce.add.v{lanes}i32"
        code.declarations.add(f"declare i32 {name}({ints})")
        count = code.emit("i32", f"call i32 {name}({ints} {total})")
        return code.widened(count)

    def _collect(self, code: Code, threshold: Value) -> None:
        """Collect what is above the threshold and, the first ones first, as much at it as there is room."""
        magnitudes = code.arguments[3]
        numbers = magnitudes + whole_lines(self.padded)

        def body(c: Value | int, state: list[Value]) -> list[Value]:
            done, ties = state
            c = code.integer(c)
            bits = code.load_int(magnitudes, c)
            at = code.compare("eq", bits, threshold)
            tie = code.emit("i1", f"and i1 {at}, {code.compare('sgt', ties, 0)}")
            taken = code.emit("i1", f"or i1 {tie}, {code.compare('sgt', bits, threshold)}")
            code.store_scalar(code.as_float(c), numbers + done)
            code.store_scalar(code.load_scalar(magnitudes + c), numbers + self.room + done)
            return [code.select(taken, done + 1, done), code.select(tie, ties - 1, ties)]

        ties = self.kept - self._reaching(code, threshold + 1)
        code.carry(0, self.count, 1, [code.integer(0), ties], body)
