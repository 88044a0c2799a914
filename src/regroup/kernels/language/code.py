"""A small vector language that writes LLVM IR: loops, vectors of the target's width, partial vectors.

>>> from regroup.kernels.machine.target import Target
>>> code = Code(Target.avx512(), "twice", x="ptr", n="i64")
>>> x, n = code.arguments
>>> for i in code.each(0, n, 16):
...     code.store(code.load(x + i) * 2.0, x + i)
>>> "fmul <16 x float>" in code.text()
True

Integers are as wide as addresses, and fold while they are Python numbers; pointers step in floats; a Python
number beside a vector stands for a vector of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from regroup.kernels.language.builder import Builder, Operand, Value
from regroup.kernels.language.loops import Loop


class Code(Builder):
    """One function being written, in the words of the language; arguments are as of `Builder`."""

    # -- arithmetic -------------------------------------------------------------------------------

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """Return `a * b + c`, fused where the machine can."""
        return self.call("llvm.fmuladd", a, b, c)

    def call(self, intrinsic: str, *values: Value) -> Value:
        """Return an overloaded intrinsic of values that all have the type of its result."""
        type = values[0].type
        suffix = "f32" if type == "float" else f"v{self.lanes}f32" if type == self.vector else type
        name = f"@{intrinsic}.{suffix}"
        self.declarations.add(f"declare {type} {name}({', '.join([type] * len(values))})")
        return self.emit(type, f"call {type} {name}({', '.join(f'{type} {v}' for v in values)})")

    def select(self, mask: Value, a: Operand, b: Operand, type: str = "") -> Value:
        """Return `a` where `mask` is true, else `b`."""
        type = type or next(v.type for v in (a, b) if isinstance(v, Value))
        a, b = self.value(a, type), self.value(b, type)
        return self.emit(type, f"select {mask.type} {mask}, {type} {a}, {type} {b}")

    def smaller(self, a: Operand, b: Operand) -> Value:
        """Return the smaller of two integers."""
        return self.call("llvm.smin", self.integer(a), self.integer(b))

    def larger(self, a: Operand, b: Operand) -> Value:
        """Return the larger of two integers."""
        return self.call("llvm.smax", self.integer(a), self.integer(b))

    def as_float(self, integer: Value) -> Value:
        """Return an integer as a float."""
        return self.emit("float", f"sitofp {integer.type} {integer} to float")

    # -- memory -----------------------------------------------------------------------------------

    def load_scalar(self, pointer: Value) -> Value:
        """Load one float."""
        return self.emit("float", f"load float, ptr {pointer}, align 4")

    def load_int(self, table: Value, index: Operand) -> Value:
        """Load an entry of a table of integers."""
        at = self.emit("ptr", f"getelementptr inbounds i32, ptr {table}, {self.index} {index}")
        narrow = self.emit("i32", f"load i32, ptr {at}, align 4")
        return self.widened(narrow)

    def store_int(self, number: Value, table: Value, index: Operand) -> None:
        """Store an entry of a table of integers."""
        at = self.emit("ptr", f"getelementptr inbounds i32, ptr {table}, {self.index} {index}")
        self.lines.append(f"store i32 {self.narrowed(number)}, ptr {at}, align 4")

    def widened(self, number: Value) -> Value:
        """Return an i32 as an integer of the language."""
        return number if self.index == "i32" else self.emit(self.index, f"sext i32 {number} to {self.index}")

    def narrowed(self, number: Value) -> Value:
        """Return the lower 32 bits of an integer of the language."""
        return number if self.index == "i32" else self.emit("i32", f"trunc {self.index} {number} to i32")

    def load_pointer(self, table: Value, index: int, name: str = "p") -> Value:
        """Load an entry of a table of pointers."""
        at = self.emit("ptr", f"getelementptr inbounds ptr, ptr {table}, {self.index} {index}")
        return self.emit("ptr", f"load ptr, ptr {at}, align {self.target.pointer}", name)

    def store_pointer(self, pointer: Value, table: Value, index: int) -> None:
        """Set an entry of a table of pointers."""
        at = self.emit("ptr", f"getelementptr inbounds ptr, ptr {table}, {self.index} {index}")
        self.lines.append(f"store ptr {pointer}, ptr {at}, align {self.target.pointer}")

    def pointers(self, values: Sequence[Value]) -> Value:
        """Return a table of pointers in the function's own memory, refilled wherever this stands."""
        table = Value(self, f"%table{len(self._tables)}", "ptr")
        self._tables.append(f"{table} = alloca [{len(values)} x ptr], align 16")
        for i, value in enumerate(values):
            self.store_pointer(value, table, i)
        return table

    def memory(self, words: int) -> Value:
        """Return a table of words in the function's own memory; what is in it is not defined."""
        table = Value(self, f"%table{len(self._tables)}", "ptr")
        self._tables.append(f"{table} = alloca [{words} x i64], align 16")
        return table

    def load(self, pointer: Value, count: int = 0, name: str = "") -> Value:
        """Load a vector: `count` floats (all lanes by default), zeros in the other lanes."""
        if count in (0, self.lanes):
            return self.emit(self.vector, f"load {self.vector}, ptr {pointer}, align 4", name)
        if not self.target.masks:
            return self._load_pieces(pointer, count)
        intrinsic = f"@llvm.masked.load.v{self.lanes}f32.p0"
        mask = f"<{self.lanes} x i1>"
        # with the alignment as an argument: older releases of LLVM know no other form, newer ones take it too
        self.declarations.add(f"declare {self.vector} {intrinsic}(ptr, i32, {mask}, {self.vector})")
        given = f"ptr {pointer}, i32 4, {mask} {self.first_lanes(count)}, {self.vector} zeroinitializer"
        return self.emit(self.vector, f"call {self.vector} {intrinsic}({given})", name)

    def prefetch(self, pointer: Value, floats: Operand) -> None:
        """Ask for the cache line `floats` floats on; any address is allowed, even one beyond all memory."""
        self.declarations.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        at = self.emit("ptr", f"getelementptr float, ptr {pointer}, {self.index} {floats}")
        self.line(f"call void @llvm.prefetch.p0(ptr {at}, i32 0, i32 2, i32 1)")

    def store(self, vector: Value, pointer: Value, count: int = 0) -> None:
        """Store the first `count` lanes of a vector (all by default); no other byte is touched."""
        if count in (0, self.lanes):
            self.lines.append(f"store {self.vector} {vector}, ptr {pointer}, align 4")
        elif not self.target.masks:
            for start, size in _pieces(count):
                self._store_piece(vector, pointer + start, start, size)
        else:
            name = f"@llvm.masked.store.v{self.lanes}f32.p0"
            mask = f"<{self.lanes} x i1>"
            self.declarations.add(f"declare void {name}({self.vector}, ptr, i32, {mask})")
            to = f"ptr {pointer}, i32 4, {mask} {self.first_lanes(count)}"
            self.lines.append(f"call void {name}({self.vector} {vector}, {to})")

    def store_scalar(self, number: Operand, pointer: Value) -> None:
        """Store one float."""
        self.lines.append(f"store float {self.value(number, 'float')}, ptr {pointer}, align 4")

    def _load_pieces(self, pointer: Value, count: int) -> Value:
        whole = Value(self, "zeroinitializer", self.vector)
        for start, size in _pieces(count):
            at = pointer + start
            if size == 1:
                whole = self.insert(whole, self.load_scalar(at), start)
                continue
            part = self.emit(f"<{size} x float>", f"load <{size} x float>, ptr {at}, align 4")
            wide = self._shuffle(part, part, [min(i, size) for i in range(self.lanes)])
            inside = range(start, start + size)
            whole = self._shuffle(
                whole, wide, [self.lanes + i - start if i in inside else i for i in range(self.lanes)]
            )
        return whole

    def _store_piece(self, vector: Value, pointer: Value, start: int, size: int) -> None:
        if size == 1:
            self.store_scalar(self.extract(vector, start), pointer)
        else:
            part = self._shuffle(vector, vector, list(range(start, start + size)))
            self.lines.append(f"store {part.type} {part}, ptr {pointer}, align 4")

    # -- lanes ------------------------------------------------------------------------------------

    def first_lanes(self, count: int) -> Value:
        """Return the mask of the first `count` lanes."""
        return self.lane_mask(range(count))

    def lane_mask(self, chosen: range) -> Value:
        """Return the mask of some lanes."""
        ones = ", ".join(f"i1 {str(i in chosen).lower()}" for i in range(self.lanes))
        return Value(self, f"<{ones}>", f"<{self.lanes} x i1>")

    def splat(self, scalar: Value) -> Value:
        """Return a vector whose lanes all hold a scalar."""
        one = self.emit(self.vector, f"insertelement {self.vector} poison, float {scalar}, i32 0")
        zeros = f"<{self.lanes} x i32> zeroinitializer"
        return self.emit(
            self.vector, f"shufflevector {self.vector} {one}, {self.vector} poison, {zeros}", "s"
        )

    def broadcast(self, pointer: Value) -> Value:
        """Load one float into every lane."""
        return self.splat(self.load_scalar(pointer))

    def permute(self, a: Value, lanes: Sequence[int], b: Value | None = None) -> Value:
        """Return the lanes of `a` (0 ..) and `b` (from the lane count on) that `lanes` names; -1: any."""
        return self._shuffle(a, b or a, lanes)

    def insert(self, vector: Value, scalar: Value, lane: int) -> Value:
        """Return `vector` with one lane replaced."""
        return self.emit(self.vector, f"insertelement {self.vector} {vector}, float {scalar}, i32 {lane}")

    def extract(self, vector: Value, lane: int) -> Value:
        """Return one lane."""
        return self.emit("float", f"extractelement {self.vector} {vector}, i32 {lane}")

    def _shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        picks = ", ".join("i32 poison" if i < 0 else f"i32 {i}" for i in lanes)
        return self.emit(
            f"<{len(lanes)} x float>",
            f"shufflevector {a.type} {a}, {b.type} {b}, <{len(lanes)} x i32> <{picks}>",
        )

    # -- control ----------------------------------------------------------------------------------

    def each(self, start: Operand, stop: Operand, step: int = 1, name: str = "i") -> Iterator[Value | int]:
        """Write a loop: `for i in code.each(0, n): ...` - its body is written once."""
        if isinstance(start, int) and isinstance(stop, int) and start < stop <= start + step:
            yield start
            return
        loop = Loop(self, start, stop, step, (), name=name)
        yield loop.index
        loop.close(())

    def carry(
        self,
        start: Operand,
        stop: Operand,
        step: int,
        values: Sequence[Value],
        body: Callable[[Value | int, list[Value]], list[Value]],
        name: str = "i",
    ) -> list[Value]:
        """Write a loop that hands `values` from one pass to the next; return them after the last.

        A range that is known to be empty is passed over; any other must not be empty.
        """
        if isinstance(start, int) and isinstance(stop, int) and stop <= start + step:
            return body(start, list(values)) if start < stop else list(values)
        loop = Loop(self, start, stop, step, values, sure=True, name=name)
        return loop.close(body(loop.index, loop.carried))

    def when(self, condition: Value) -> Iterator[None]:
        """Write an if: `for _ in code.when(mask): ...`."""
        then, done = self.fresh("then"), self.fresh("done")
        self.lines.append(f"br i1 {condition}, label %{then}, label %{done}")
        self.label(then)
        yield
        self.lines.append(f"br label %{done}")
        self.label(done)

    def either(self, condition: Value, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
        """Write an if with an else."""
        yes, no, done = self.fresh("yes"), self.fresh("no"), self.fresh("done")
        self.lines.append(f"br i1 {condition}, label %{yes}, label %{no}")
        for label, branch in ((yes, then), (no, otherwise)):
            self.label(label)
            branch()
            self.lines.append(f"br label %{done}")
        self.label(done)

    def table(self, numbers: Sequence[int]) -> Value:
        """Return a pointer to a constant table of 32-bit integers."""
        entries = ", ".join(f"i32 {n}" for n in numbers)
        if entries not in self._globals:
            name = f"@{self.name}.t{len(self._globals)}"
            self._globals[entries] = (
                f"{name} = private unnamed_addr constant [{len(numbers)} x i32] [{entries}], align 4"
            )
        return Value(self, self._globals[entries].split()[0], "ptr")

    def text_constant(self, text: str) -> Value:
        """Return a pointer to a constant text, with a zero at its end."""
        data = text.encode() + b"\0"
        if text not in self._globals:
            name = f"@{self.name}.t{len(self._globals)}"
            literal = "".join(f"\\{byte:02x}" for byte in data)
            self._globals[text] = f'{name} = private unnamed_addr constant [{len(data)} x i8] c"{literal}"'
        return Value(self, self._globals[text].split()[0], "ptr")

    def invoke(self, function: str, *values: Value) -> None:
        """Call another generated function."""
        self.lines.append(f"call void @{function}({', '.join(f'{v.type} {v}' for v in values)})")


def assembly(functions: Sequence[Code]) -> str:
    """Return functions as one module of LLVM assembly."""
    declarations = sorted(set().union(*(code.declarations for code in functions)))
    return "\n".join([*(code.text() for code in functions), *declarations])


def _pieces(count: int) -> Iterator[tuple[int, int]]:
    """Split `count` into powers of two, largest first: (start, size)."""
    start = 0
    while start < count:
        size = 1 << ((count - start).bit_length() - 1)
        yield start, size
        start += size
