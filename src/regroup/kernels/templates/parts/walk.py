"""Loops that many templates share: over channels by vectors, over rows as work items, gathers of channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.problems.view import View


def vectors(code: Code, count: int, start: Operand = 0) -> Iterator[tuple[Operand, int]]:
    """Write a loop over `count` floats by vectors: (position, valid lanes), the partial one last.

    Positions count from `start`.
    """
    rest = count % code.lanes
    if count > rest:
        for c in code.each(0, count - rest, code.lanes, name="c"):
            yield c + start, code.lanes
    if rest:
        yield start + (count - rest), rest


def share(code: Code, channels: int, part: Operand, parts: int) -> Iterator[tuple[Operand, int]]:
    """Write a loop over part `part` of `parts` of the channels, by vectors: (channel, valid lanes)."""
    if parts == 1:
        yield from vectors(code, channels)
        return
    whole = channels // code.lanes
    count = whole + bool(channels % code.lanes)
    part = code.integer(part)
    low, high = part * count // parts, (part + 1) * count // parts
    for i in code.each(low, code.smaller(high, whole)):
        yield i * code.lanes, code.lanes
    if count > whole:
        for _ in code.when(code.compare("eq", high, count)):
            yield whole * code.lanes, channels - whole * code.lanes


def address(view: View, pointer: Value, y: Operand, x: Operand) -> Value:
    """Return the address of channel 0 of pixel (y, x)."""
    return pointer + y * view.row_pitch + x * view.pixel_pitch


def gather(code: Code, pointer: Value, offsets: Sequence[int], limit: int) -> Value:
    """Return a vector of the floats at constant `offsets`; a negative offset leaves the lane undefined.

    Vectors are loaded at multiples of the lane count, below `limit`, and permuted together; where that would
    take many, or `limit` is 0, floats are loaded one by one.
    """
    lanes = code.lanes
    first = offsets[0]
    if limit and all(o == first + i for i, o in enumerate(offsets)) and first >= 0:
        return code.load(pointer + first, len(offsets))
    picks = [*offsets, *[-1] * (lanes - len(offsets))]
    sources = sorted({o // lanes for o in picks if o >= 0})
    if len(sources) > 4 or limit == 0:
        return _one_by_one(code, pointer, picks)
    loaded = {s: code.load(pointer + s * lanes, min(lanes, limit - s * lanes)) for s in sources}
    return pick(code, loaded, picks)


def pick(code: Code, sources: Mapping[int, Value], offsets: Sequence[int]) -> Value:
    """Return a vector of floats of `sources`, which hold all in order; a negative offset leaves any there."""
    lanes, mixed = code.lanes, None
    for s in sorted({o // lanes for o in offsets if o >= 0}):
        mine = [o >= 0 and o // lanes == s for o in offsets]
        if mixed is None:
            chosen = [o % lanes if m else -1 for o, m in zip(offsets, mine, strict=True)]
            mixed = code.permute(sources[s], chosen)
        else:
            lane = [lanes + o % lanes if m else i for i, (o, m) in enumerate(zip(offsets, mine, strict=True))]
            mixed = code.permute(mixed, lane, sources[s])
    assert mixed is not None
    return mixed


def _one_by_one(code: Code, pointer: Value, picks: Sequence[int]) -> Value:
    v = code.vec(0.0)
    for lane, offset in enumerate(picks):
        if offset >= 0:
            v = code.insert(v, code.load_scalar(pointer + offset), lane)
    return v


def transpose(code: Code, rows: Sequence[Value]) -> list[Value]:
    """Return the columns of a square of vectors: as many as a vector has lanes."""
    found, lanes = list(rows), code.lanes
    step = 1
    while step < lanes:
        upper = [lane if not lane & step else lanes + lane - step for lane in range(lanes)]
        lower = [lane + step if not lane & step else lanes + lane for lane in range(lanes)]
        for i in range(lanes):
            if not i & step:
                a, b = found[i], found[i + step]
                found[i], found[i + step] = code.permute(a, upper, b), code.permute(a, lower, b)
        step *= 2
    return found


def repeat(code: Code, pointer: Value, count: int) -> Value:
    """Return a vector that holds the `count` floats at `pointer` again and again."""
    if count == 1:
        return code.broadcast(pointer)
    few = code.emit(f"<{count} x float>", f"load <{count} x float>, ptr {pointer}, align 4")
    return code.permute(few, [lane % count for lane in range(code.lanes)])
