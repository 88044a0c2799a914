"""The loop that runs a program: written once, the same machine code for every network.

A program is data for it: steps are ranges of parts, a part is a kernel's address, its number of work
items and its views, a view is a buffer and an offset. All threads of the region execute this function; they
share each part's items evenly and meet at a barrier after each step. Or each thread does whole images.
What a thread looks up for its image and part, it keeps before its scratch memory: any number of addresses.
"""

from __future__ import annotations

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.language.words import pointer, put, wide, word
from regroup.kernels.machine.target import Target
from regroup.kernels.problems.view import WEIGHTS
from regroup.kernels.templates.parts.fetch import CURSOR, MOST

FIELDS = (
    "parts",
    "views",
    "steps",
    "fetches",
    "first_step",
    "last_step",
    "images",
    "buffers",
    "strides",
    "buffer_count",
    "most_views",
    "thread_number",
    "thread_count",
    "barrier",
    "image_per_thread",
    "scratch",
    "scratch_stride",
    "arena_stride",
)
"""The region's argument: 64-bit integers, in this order. Strides are in floats."""


def table_words(buffer_count: int, most_views: int) -> int:
    """Return how many words each thread needs just before `scratch`, where its own addresses lie."""
    return buffer_count + most_views


def runner(target: Target) -> Code:
    """Return `void run(ptr fields)`, to be executed by every thread of a parallel region."""
    return _Runner(target).code


class _Runner:
    def __init__(self, target: Target) -> None:
        self.code = code = Code(target, "run", fields="ptr")
        fields = {name: word(code, code.arguments[0], i) for i, name in enumerate(FIELDS)}
        self.fields = fields
        self.thread = self._call_int(fields["thread_number"])
        self.threads = self._call_int(fields["thread_count"])
        alone = code.compare("ne", fields["image_per_thread"], 0)
        self.worker = code.select(alone, 0, self.thread, "i64")
        self.workers = code.select(alone, 1, self.threads, "i64")
        self.meet = code.compare("eq", fields["image_per_thread"], 0)
        private = fields["scratch"] + self.thread * fields["scratch_stride"] * 4
        self.cursor = pointer(code, private)
        self.pointers = pointer(code, private - fields["most_views"] * 8)
        self.local = pointer(code, private - (fields["most_views"] + fields["buffer_count"]) * 8)
        self.scratch = self.cursor + CURSOR
        first = code.select(alone, self.thread, 0, "i64")
        step = code.select(alone, self.threads, 1, "i64")
        turns = code.emit("i64", f"sdiv i64 {fields['images'] - first + step - 1}, {step}")
        for turn in code.each(0, turns):
            self._image(first + step * turn, alone)

    def _image(self, image: Operand, alone: Value) -> None:
        code, fields = self.code, self.fields
        arena = code.select(alone, self.thread * fields["arena_stride"], 0, "i64")
        for b in code.each(0, fields["buffer_count"]):
            start = word(code, pointer(code, fields["buffers"]), b)
            stride = word(code, pointer(code, fields["strides"]), b)
            is_arena = code.compare("eq", b, 0)
            moved = code.select(is_arena, arena, image * stride)
            put(code, self.local, b, start + moved * 4)
        for step in code.each(fields["first_step"], fields["last_step"]):
            steps = pointer(code, fields["steps"])
            self._look_ahead(step)
            for part in code.each(word(code, steps, step), word(code, steps, step + 1)):
                self._part(part)
            for _ in code.when(self.meet):
                barrier = pointer(code, fields["barrier"])
                code.line(f"call void {barrier}()")

    def _look_ahead(self, step: Operand) -> None:
        """Point the thread's cursor at the weights that it will need next."""
        code = self.code
        table = pointer(code, self.fields["fetches"])
        start, count, shared = (word(code, table, step * 3 + i) for i in range(3))
        split = code.compare("ne", shared, 0)
        low = code.select(split, count * self.worker // self.workers, 0, "i64")
        high = code.select(split, count * (self.worker + 1) // self.workers, count, "i64")
        weights = word(code, self.local, WEIGHTS)
        put(code, self.cursor, 0, weights + (start + low) * 4)
        put(code, self.cursor, 1, weights + (start + code.smaller(high, low + MOST)) * 4)

    def _part(self, part: Operand) -> None:
        code = self.code
        parts, views = pointer(code, self.fields["parts"]), pointer(code, self.fields["views"])
        function, items, first, count = (word(code, parts, part * 4 + i) for i in range(4))
        for v in code.each(0, count):
            buffer = word(code, views, (first + v) * 2)
            offset = word(code, views, (first + v) * 2 + 1)
            put(code, self.pointers, v, word(code, self.local, buffer) + offset * 4)
        low = items * self.worker // self.workers
        high = items * (self.worker + 1) // self.workers
        for _ in code.when(code.compare("slt", low, high)):
            kernel = pointer(code, function)
            code.line(f"call void {kernel}(ptr {self.pointers}, i64 {low}, i64 {high}, ptr {self.scratch})")

    def _call_int(self, function: Value) -> Value:
        return wide(self.code, self.code.emit("i32", f"call i32 {pointer(self.code, function)}()"))


def serial_stubs(target: Target) -> list[Code]:
    """Return stand-ins for the OpenMP functions where there is one thread: `number`, `count`, `barrier`."""
    stubs = []
    for name, value in (("number", 0), ("count", 1)):
        stub = Code(target, name)
        stub.type, stub.end = "i32", f"ret i32 {value}"
        stubs.append(stub)
    return [*stubs, Code(target, "barrier")]
