"""JSON from files: what is not exactly what the reader declares is one error that says where, at any size."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regroup.files.documents import DocumentError, build, parse, read_document


@dataclass(frozen=True)
class Inner:
    number: float
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    name: str
    count: int
    flag: bool
    either: int | None
    kind: Literal["a", "b"]
    pair: tuple[int, str]
    inner: Inner
    many: list[Inner] = field(default_factory=list)
    by_name: dict[str, list[float]] = field(default_factory=dict)
    anything: Any = None


GOOD = Outer("x", 3, True, None, "b", (1, "y"), Inner(0.5, ("p",)), [Inner(2.0)], {"k": [1.0]}, {"z": [None]})


def test_what_was_written_comes_back():
    assert build(parse(json.dumps(asdict(GOOD))), Outer) == GOOD


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("name",), 3, "name is 3: must be a text"),
        (("count",), True, "count is True: must be an int"),
        (("count",), 3.0, "count is 3.0: must be an int"),
        (("flag",), 1, "flag is 1: must be true or false"),
        (("either",), "1", "either is '1': must be an int or null"),
        (("kind",), "c", "kind is 'c': must be one of 'a', 'b'"),
        (("kind",), ["a"], "kind is ['a']: must be one of 'a', 'b'"),
        (("pair",), [1], "pair is [1]: must be a list of 2"),
        (("pair", 1), 2, "pair[1] is 2: must be a text"),
        (("inner",), [], "inner is []: must be an object with the fields of Inner"),
        (("inner", "number"), "1", "inner.number is '1': must be a number"),
        (("inner", "words", 0), None, "inner.words[0] is None: must be a text"),
        (("many", 0, "more"), 1, "many[0].more is not known"),
        (("by_name", "k", 0), {}, "by_name.k[0] is {}: must be a number"),
        (("by_name", "a b"), 1, "by_name.'a b' is 1: must be a list"),
        (("\x1b[31m",), 1, r"'\x1b[31m' is not known"),
        ((), "text", "it is 'text': must be an object with the fields of Outer"),
    ],
)
def test_a_wrong_type_is_named_with_its_place(path, value, says):
    document = json.loads(json.dumps(asdict(GOOD)))
    place = document
    for key in path[:-1]:
        place = place[key]
    if path:
        place[path[-1]] = value
    else:
        document = value
    with pytest.raises(DocumentError) as error:
        build(document, Outer)
    assert str(error.value).startswith(says)


@pytest.mark.parametrize("name", ["name", "count", "flag", "either", "kind", "pair", "inner"])
def test_what_is_missing_is_named(name):
    document = asdict(GOOD)
    del document[name]
    with pytest.raises(DocumentError, match=f"^{name} is missing"):
        build(parse(json.dumps(document)), Outer)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON: 'utf-8'"),
        (b"[1", "is not JSON"),
        (b"[NaN]", "holds NaN"),
        (b"[-Infinity]", "holds -Infinity"),
        (b"[1e999]", "holds 1e999, which is too large"),
        (b"9" * 5000, "is not JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "names 'a' twice"),
        (b"[" * 65 + b"]" * 65, "nested more than 64"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested more than 64"),
        (b"[" * 100_000, "nested more than 64|not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 64"),
    ],
)
def test_what_is_no_json_is_refused(data, says):
    with pytest.raises(DocumentError, match=says):
        parse(data)


def test_64_levels_are_read():
    assert parse(b"[" * 64 + b"]" * 64)


def test_a_document_is_not_read_beyond_its_limit(tmp_path):
    path = tmp_path / "large.json"
    path.write_text(json.dumps(asdict(GOOD)))
    assert read_document(path, Outer) == GOOD
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a hole
    tracemalloc.start()
    with pytest.raises(OSError, match="more than the 16777216 that are read"):
        read_document(path, Outer)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("piece", [b"[]", b"{}", b"0", b'""', b"null", b'[""]', b"1e5", b'{"":0}'])
def test_a_document_takes_at_most_64_times_its_size(piece):
    data = b"[" + b",".join([piece] * 50_000) + b"]"
    tracemalloc.start()
    value = parse(data)
    assert tracemalloc.get_traced_memory()[1] < 64 * len(data)
    tracemalloc.stop()
    assert len(value) == 50_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


@given(JSON)
def test_parse_is_the_inverse_of_dumps(value):
    assert parse(json.dumps(value)) == value


@given(JSON, st.sampled_from(["name", "count", "inner", "many", "by_name", "either", "pair", "flag", "kind"]))
def test_any_other_value_is_taken_as_declared_or_refused(value, name):
    document = {**json.loads(json.dumps(asdict(GOOD))), name: value}
    try:
        found = build(document, Outer)
    except DocumentError:
        return
    assert json.loads(json.dumps(asdict(found)))[name] == value or isinstance(value, (list, dict))


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_parsed_or_refused(data):
    with suppress(DocumentError):
        parse(data)
