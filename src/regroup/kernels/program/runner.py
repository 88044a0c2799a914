"""What does the work of a program: written once, the same machine code for every network.

A program is data for it: steps are ranges of parts, a part is a kernel's address, its number of work
items and its views, a view is a buffer and an offset. Which items a thread does, it has claimed (`team.py`):
a chunk of a part's items, or a whole image. What it looks up for them, it keeps before its scratch memory:
any number of addresses.
"""

from __future__ import annotations

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.language.words import pointer, put, word
from regroup.kernels.machine.target import Target
from regroup.kernels.problems.view import WEIGHTS
from regroup.kernels.templates.parts.fetch import CURSOR, MOST

FIELDS = (
    "board",
    "teams",
    "parts",
    "views",
    "steps",
    "fetches",
    "first_step",
    "last_step",
    "chunks",
    "claims",
    "patience",
    "images",
    "buffers",
    "strides",
    "buffer_count",
    "most_views",
    "threads",
    "image_per_thread",
    "scratch",
    "scratch_stride",
    "arena_stride",
)
"""A call's data: 64-bit integers, in this order. Strides are in floats.

`teams` is a table of the boards of teams that may take part, with a zero at its end.
`chunks` has three numbers for each part: of the chunks into which each thread's share is cut the number of
the first, counted through the step, how many they are, and the items of one. `claims` has for each step the
chunks of a share. `patience` is how many pauses a thread may take for what it has claimed, and not be late.
"""

EPOCH, PART, HIGH = range(3)
"""What a thread remembers of its last chunk: step, part, and the item after the last."""

STEP_BITS, CLAIM_BITS = 40, 12
MOST_CLAIMS = (1 << CLAIM_BITS) - 1
"""Of a share, in one step. If there are more images, one claim is of several."""

MEMORY = 3
"""Words of that."""


def table_words(buffer_count: int, most_views: int) -> int:
    """Return how many words each thread needs just before `scratch`, where its own addresses lie."""
    return buffer_count + most_views


def share(code: Code, total: Operand, owner: Operand, owners: Operand) -> tuple[Value, Value]:
    """Return the first of an owner's share of `total` things, and the one after the last."""
    low, high = (code.value(total, "i64") * n // owners for n in (owner, code.value(owner, "i64") + 1))
    return code.value(low, "i64"), code.value(high, "i64")


def runner(target: Target) -> Code:
    """Return `void work(fields, seat, owner, index, turn, epoch, memory)`, which does what was claimed.

    `seat` is the thread, `index` counts the claims of the share of `owner`, `turn` the steps since the call
    began, of all images; `epoch` is a number that no other step of this or another call has.
    """
    return _Runner(target).code


class _Runner:
    def __init__(self, target: Target) -> None:
        integers = dict.fromkeys(("seat", "owner", "index", "turn", "epoch"), "i64")
        self.code = code = Code(target, "work", fields="ptr", **integers, memory="ptr")
        code.internal = True
        table, self.seat, self.owner, self.index, turn, self.epoch, self.memory = code.arguments
        self.fields = fields = {name: word(code, table, i) for i, name in enumerate(FIELDS)}
        private = fields["scratch"] + self.seat * fields["scratch_stride"] * 4
        self.cursor = pointer(code, private)
        self.pointers = pointer(code, private - fields["most_views"] * 8)
        self.local = pointer(code, private - (fields["most_views"] + fields["buffer_count"]) * 8)
        self.scratch = self.cursor + CURSOR
        alone = code.compare("ne", fields["image_per_thread"], 0)
        code.either(alone, self._whole_image, lambda: self._chunk(turn))

    def _whole_image(self) -> None:
        code, fields = self.code, self.fields
        low, high = share(code, fields["images"], self.owner, fields["threads"])
        for image in code.each(low + self.index, high, MOST_CLAIMS):
            self._addresses(image, self.seat * fields["arena_stride"])
            for step in code.each(fields["first_step"], fields["last_step"]):
                self._look_ahead(step, 0, 1)
                for part in code.each(*self._parts(step)):
                    items = word(code, pointer(code, fields["parts"]), part * 4 + 1)
                    self._kernel(part, code.value(0, "i64"), items, 0)

    def _chunk(self, turn: Value) -> None:
        code, fields = self.code, self.fields
        steps = fields["last_step"] - fields["first_step"]
        step = fields["first_step"] + turn % steps
        self._addresses(turn // steps, 0)
        for _ in code.when(code.compare("ne", word(code, self.memory, EPOCH), self.epoch)):
            put(code, self.memory, EPOCH, self.epoch)
            put(code, self.memory, PART, -1)
            self._look_ahead(step, self.seat, fields["threads"])
        chunks = pointer(code, fields["chunks"])
        for part in code.each(*self._parts(step)):
            start, count, size = (word(code, chunks, part * 3 + i) for i in range(3))
            for _ in code.when(code.compare("ult", self.index - start, count)):
                self._part(part, self.index - start, size)

    def _parts(self, step: Operand) -> tuple[Value, Value]:
        steps = pointer(self.code, self.fields["steps"])
        return word(self.code, steps, step), word(self.code, steps, step + 1)

    def _addresses(self, image: Operand, arena: Operand) -> None:
        """Set where each buffer begins, for an image; `arena` is an offset in floats."""
        code, fields = self.code, self.fields
        for b in code.each(0, fields["buffer_count"]):
            start = word(code, pointer(code, fields["buffers"]), b)
            stride = word(code, pointer(code, fields["strides"]), b)
            moved = code.select(code.compare("eq", b, 0), arena, stride * image, "i64")
            put(code, self.local, b, start + moved * 4)

    def _look_ahead(self, step: Operand, worker: Operand, workers: Operand) -> None:
        """Point the thread's cursor at the weights that it will need next."""
        code = self.code
        table = pointer(code, self.fields["fetches"])
        start, count, shared = (word(code, table, step * 3 + i) for i in range(3))
        split = code.compare("ne", shared, 0)
        mine = share(code, count, worker, workers)
        low, high = code.select(split, mine[0], 0, "i64"), code.select(split, mine[1], count, "i64")
        weights = word(code, self.local, WEIGHTS)
        put(code, self.cursor, 0, weights + (start + low) * 4)
        put(code, self.cursor, 1, weights + (start + code.smaller(high, low + MOST)) * 4)

    def _part(self, part: Operand, chunk: Value, size: Value) -> None:
        """Do a chunk of a part; the thread goes on where it was, if it did the chunk before."""
        code = self.code
        items = word(code, pointer(code, self.fields["parts"]), part * 4 + 1)
        low, high = share(code, items, self.owner, self.fields["threads"])
        low = low + chunk * size
        high = code.smaller(high, low + size)
        for _ in code.when(code.compare("slt", low, high)):
            same = code.compare("eq", word(code, self.memory, PART), part)
            same = code.binary("and", same, code.compare("eq", word(code, self.memory, HIGH), low))
            put(code, self.memory, PART, part)
            put(code, self.memory, HIGH, high)
            self._kernel(part, low, high, code.emit("i64", f"zext i1 {same} to i64"))

    def _kernel(self, part: Operand, low: Value, high: Value, goes_on: Operand) -> None:
        code = self.code
        parts, views = pointer(code, self.fields["parts"]), pointer(code, self.fields["views"])
        function, _, first, count = (word(code, parts, part * 4 + i) for i in range(4))
        for v in code.each(0, count):
            buffer = word(code, views, (first + v) * 2)
            offset = word(code, views, (first + v) * 2 + 1)
            put(code, self.pointers, v, word(code, self.local, buffer) + offset * 4)
        put(code, self.cursor, 2, goes_on)
        kernel = pointer(code, function)
        code.line(f"call void {kernel}(ptr {self.pointers}, i64 {low}, i64 {high}, ptr {self.scratch})")
