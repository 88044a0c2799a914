"""Files of weights that are foreign, hostile, damaged, or hold more than weights: one clear error each.

What a file may do is bounded before it is read: no pipe is waited for, no claimed size is believed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from regroup.errors import CheckpointError
from regroup.networks import create_model
from regroup.networks.anywhere import create_any_model
from regroup.networks.state_dicts import state_of
from regroup.networks.weight_files import read_weights

CASES = int(os.environ.get("REGROUP_FUZZ", "60"))
STATE = {"conv.weight": torch.arange(1000.0), "conv.bias": torch.arange(10)}


def saved(content: object, **options: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def refusal(path: Path) -> str:
    """Return the one error that the file gives, which is short, plain, and names it."""
    with pytest.raises(CheckpointError) as error:
        state_of(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and "\x1b" not in message
    assert len(message) - len(str(path)) < 400
    return message


FORMS = (saved(STATE), saved(STATE, _use_new_zipfile_serialization=False), save(STATE))
BESIDE = {
    "argparse.Namespace": argparse.Namespace(lr=0.1),
    "numpy": np.float64(0.761),
    "torch.nn.modules.linear.Linear": nn.Linear(2, 2),
    "pathlib": Path("runs"),
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_tensors_is_named_and_what_to_do_about_it(
    name: str, old: bool, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    content = {"state_dict": STATE, "beside": BESIDE[name]}
    path.write_bytes(saved(content, _use_new_zipfile_serialization=not old))
    message = refusal(path)
    assert f"holds {name}" in message
    assert "torch.load with weights_only=False" in message and "weights=" in message
    state, where = state_of(torch.load(path, weights_only=False))[1:]
    assert where == "state_dict" and torch.equal(state["conv.weight"], STATE["conv.weight"])


def test_what_the_user_calls_safe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(saved({"state_dict": STATE, "args": argparse.Namespace(lr=0.1)}))
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert state_of(path)[2] == "state_dict"


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a", "a.bin"])
def test_the_content_says_what_a_file_is_not_its_name(name: str, tmp_path: Path) -> None:
    for content in FORMS:
        (tmp_path / name).write_bytes(content)
        read = read_weights(tmp_path / name)
        assert all(torch.equal(read[key], value) for key, value in STATE.items())


FOREIGN = {
    b"": "it is empty",
    b"  \n": "it is blank",
    b"<!DOCTYPE html><html><body>404": "it is a web page",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3": "Git LFS.*git lfs pull",
    b'{"error": "Repository not found"}': """it is text: '{"error": "Repository not found"}'""",
    b"\x89HDF\r\n\x1a\n" + bytes(100): "HDF5",
    b"\x93NUMPY\x01\x00": "NumPy",
    b"\x1f\x8b\x08\x00": "gzip: unpack it",
    bytes(100): "neither what torch.save writes nor a .safetensors file",
    b"PK\x03\x04 no archive": "not a zip file",
    b"\x80\x02}q\x00.": "cannot be read as weights: ",
    "text that ends within a lett\u00e9".encode()[:-1]: "it is text",
}


@pytest.mark.parametrize("content", FOREIGN, ids=lambda content: str(content)[:20])
def test_a_file_of_something_else_is_told_for_what_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    message = refusal(path)
    assert "cannot be read as weights: " in message and re.search(FOREIGN[content], message), message


def test_directories_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "it is a directory, not a file" in refusal(tmp_path)
    assert "it is a pipe or a device, not a file" in refusal(tmp_path / "pipe")
    assert "it is a pipe or a device, not a file" in refusal(Path("/dev/zero"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "Too many levels of symbolic links" in refusal(tmp_path / "loop")
    assert "no such file" in refusal(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="null byte"):
        state_of("we\0ights.pth")


def archive(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as target:
        for name, content in entries.items():
            target.writestr(name, content)
    return file.getvalue()


def entries(content: bytes = saved(STATE)) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        return {name: source.read(name) for name in source.namelist()}


def pickled(body: bytes) -> bytes:
    return archive({"a/data.pkl": b"\x80\x02}X\x01\x00\x00\x00a" + body + b"s.", "a/version": b"3"})


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def header(fields: object, data: bytes = b"") -> bytes:
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text + data


HUGE = 1 << 36
EXPANDED = entries()["archive/data.pkl"].replace(b"M\xe8\x03\x85", number(HUGE) + b"\x85", 1)
F32 = {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "zip bomb": (
        lambda: archive({**entries(), "archive/data/0": bytes(1 << 27)}, zipfile.ZIP_DEFLATED),
        "claims .* bytes in an archive of",
    ),
    "stride of zero": (
        lambda: archive({**entries(), "archive/data.pkl": EXPANDED.replace(b"K\x01\x85", b"K\x00\x85", 1)}),
        "claims more numbers than the file has bytes for: conv.weight",
    ),
    "size of a view": (lambda: archive({**entries(), "archive/data.pkl": EXPANDED}), "cannot be read"),
    "size of a storage": (
        lambda: archive(
            {k: v.replace(b"M\xe8\x03", number(HUGE)) for k, v in entries().items()},
        ),
        "cannot be read",
    ),
    "size of an old storage": (
        lambda: saved(STATE, _use_new_zipfile_serialization=False).replace(b"M\xe8\x03", number(HUGE)),
        "cannot be read",
    ),
    "bytes by number": (
        lambda: pickled(b"cbuiltins\nbytearray\n" + number(HUGE) + b"\x85R"),
        "cannot be read",
    ),
    "tensor by number": (
        lambda: pickled(b"ctorch\nTensor\n" + number(HUGE) + b"\x85R"),
        "claims more|cannot",
    ),
    "string by number": (lambda: pickled(b"\x8d" + struct.pack("<Q", HUGE)), "cannot be read"),
    "safetensors header": (lambda: struct.pack("<Q", HUGE) + b"{}", "cannot be read"),
    "safetensors header beyond the end": (lambda: struct.pack("<Q", 50) + b"{}", "cannot be read"),
    "safetensors data": (lambda: header({"a": F32}), "cannot be read"),
    "safetensors overflow": (
        lambda: header({"a": {**F32, "shape": [1 << 62, 1 << 62], "data_offsets": [0, 0]}}),
        "cannot be read",
    ),
    "safetensors overlap": (
        lambda: header({key: {**F32, "shape": [1], "data_offsets": [0, 4]} for key in "ab"}, bytes(4)),
        "cannot be read",
    ),
    "safetensors nesting": (lambda: struct.pack("<Q", 200_000) + b'{"a":' * 40_000, "cannot be read"),
    "safetensors no json": (lambda: struct.pack("<Q", 8) + b"{'a':'b'", "cannot be read"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_claimed_size_is_believed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile"
    make, reason = HOSTILE[kind]
    path.write_bytes(make())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert re.search(reason, refusal(path)), refusal(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50 * 1024, f"{grown} KiB for a file of {path.stat().st_size} bytes"


@pytest.mark.parametrize(
    "content", [saved(STATE), saved(STATE, _use_new_zipfile_serialization=False), save(STATE)]
)
def test_every_file_that_was_cut_off_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    for length in range(0, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:length])
        assert "cannot be read as weights" in refusal(path)


@settings(max_examples=CASES, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_an_archive_is_an_error_or_changes_no_number(place: float, bit: int) -> None:
    content = bytearray(saved(STATE))
    content[int(place * len(content))] ^= 1 << bit
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"flipped-{os.getpid()}.pth"
    path.write_bytes(content)
    try:
        state = state_of(path)[1]
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert all(torch.equal(value, STATE[key]) for key, value in state.items())
        assert state.keys() == STATE.keys()
    finally:
        path.unlink()


@settings(max_examples=CASES, deadline=None)
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{", b"<"])
)
def test_any_bytes_are_one_clear_error(content: bytes, beginning: bytes) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"bytes-{os.getpid()}.pth"
    path.write_bytes(beginning + content)
    try:
        refusal(path)
    finally:
        path.unlink()


def test_archives_of_other_things_are_told(tmp_path: Path) -> None:
    program = torch.jit.script(nn.Linear(2, 2))
    torch.jit.save(program, tmp_path / "program.pt")
    assert "TorchScript program: give torch.jit.load" in refusal(tmp_path / "program.pt")
    np.savez(tmp_path / "arrays.npz", conv=np.zeros(3))
    assert "an archive of other things: conv.npy" in refusal(tmp_path / "arrays.npz")


def test_an_error_of_create_model_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "resnet.pth").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="a web page"):
        create_model("resnet_small", weights=tmp_path / "resnet.pth")


ANY = ("timm:test_resnet", "torchvision:squeezenet1_1", "resnet_small")


@pytest.mark.parametrize("name", ANY)
def test_any_network_takes_the_weights_and_the_classes_of_a_file(name: str, tmp_path: Path) -> None:
    """Of another number of classes than was published, too; with a new head, of yet another."""
    path, x = tmp_path / "w.pth", torch.rand(2, 3, 64, 64)
    trained = create_any_model(name, num_classes=7).eval()
    torch.save({"model": {f"module.{k}": v for k, v in trained.state_dict().items()}}, path)
    with torch.no_grad():
        assert torch.equal(create_any_model(name, weights=path).eval()(x), trained(x))
    with pytest.raises(CheckpointError, match=r"of another shape.*; new_head=True loads all but the"):
        create_any_model(name, weights=path, num_classes=5)
    other = create_any_model(name, weights=path, num_classes=5, new_head=True).state_dict()
    kept = {key for key, value in trained.state_dict().items() if torch.equal(value, other[key])}
    assert {key for key in other if key not in kept} == {
        key for key, value in trained.state_dict().items() if value.shape[:1] == (7,) != other[key].shape[:1]
    }
