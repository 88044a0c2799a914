"""Safetensors files: the check agrees with the library, and refuses before anything is loaded."""

from __future__ import annotations

import json
import random
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file

from regroup.files.documents import DocumentError
from regroup.files.tensors import check_tensors

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.zeros(0, 4, dtype=torch.int64),
    "c": torch.tensor(True),
    "d": torch.ones(5, dtype=torch.bfloat16),
}
TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16]
TYPES += [torch.int32, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]


SHAPES = st.lists(st.integers(0, 3), max_size=64)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=4), st.tuples(SHAPES, st.sampled_from(TYPES))))
def test_what_the_library_writes_is_described(tmp_path_factory, kinds):
    kinds.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("tensors") / "x.safetensors"
    tensors = {name: torch.zeros(shape, dtype=kind) for name, (shape, kind) in kinds.items()}
    save_file(tensors, path, {"made": "here"})
    found = check_tensors(path)
    assert found.keys() == tensors.keys()
    for name, stored in found.items():
        assert stored.shape == tensors[name].shape and stored.bytes == tensors[name].nbytes


def damaged(seed):
    """Return a file of `TENSORS` with one fault in header, length or size."""
    chance = random.Random(seed)
    whole = save(TENSORS)
    length = int.from_bytes(whole[:8], "little")
    header, rest = whole[8 : 8 + length], whole[8 + length :]
    kind = chance.choice(["byte", "cut", "more", "length", "field", "field"])
    if kind == "byte":
        at = chance.randrange(8 + length)
        return whole[:at] + bytes([chance.randrange(256)]) + whole[at + 1 :]
    if kind == "cut":
        return whole[: chance.randrange(len(whole))]
    if kind == "more":
        return whole + bytes(chance.randrange(1, 9))
    if kind == "length":
        return (
            chance.choice([0, 1, 2**31, 2**63, 2**64 - 1, length + 1]).to_bytes(8, "little") + header + rest
        )
    fields = json.loads(header)
    name, what = chance.choice("abcd"), chance.choice(["dtype", "shape", "data_offsets"])
    wrong = [
        None,
        -1,
        [],
        [1],
        [-1, 24],
        [10**18],
        [0, 2**63],
        "F32",
        "F16",
        "X",
        {},
        1.5,
        [1.5, 2],
        [True, 2],
    ]
    fields[name][what] = chance.choice(wrong)
    text = json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + rest


@pytest.mark.parametrize("part", range(4))
def test_what_the_check_takes_the_library_loads_within_the_size_of_the_file(part, tmp_path):
    path, refused = tmp_path / "x.safetensors", 0
    for seed in range(100 * part, 100 * part + 100):
        content = damaged(seed)
        path.write_bytes(content)
        tracemalloc.start()
        try:
            found = check_tensors(path)
        except DocumentError:
            refused += 1
        else:
            loaded = load_file(path)
            assert {name: stored.shape for name, stored in found.items()} == {
                name: tuple(tensor.shape) for name, tensor in loaded.items()
            }
        assert tracemalloc.get_traced_memory()[1] < 64 * len(content) + 100_000
        tracemalloc.stop()
    assert refused > 60


def test_what_the_library_refuses_the_check_refuses(tmp_path):
    path = tmp_path / "x.safetensors"
    for seed in range(1000, 1300):
        path.write_bytes(damaged(seed))
        try:
            load_file(path)
        except (SafetensorError, OSError):
            with pytest.raises(DocumentError):
                check_tensors(path)


def test_what_is_no_file_is_not_read(tmp_path):
    with pytest.raises(IsADirectoryError):
        check_tensors(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        check_tensors(tmp_path / "none")
