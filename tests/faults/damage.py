"""Files as disks, networks, people and enemies damage them, by what they hold and by what they are."""

import json
import os
import shutil

from regroup.cli.convert import MEMORY
from regroup.files.sealed import MANIFEST, write_sealed
from regroup.training.directory import RUN, seal
from tests.data.malformed import damaged

ODD = [
    None,
    True,
    -1,
    0,
    10**7,
    10**30,
    1e308,
    0.5,
    "",
    "x",
    "\x1b[31m",
    "\ud800",
    "grouped",
    [],
    [[]],
    {},
    {"a": 1},
]


def odd(chance):
    return json.loads(json.dumps(chance.choice(ODD)))  # no two places share it


def changed(value, chance):
    """Return a JSON value with one to three of its parts exchanged, left out, doubled or added."""
    value = json.loads(json.dumps(value))
    for _ in range(chance.choice([1, 1, 2, 3])):
        place = value
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(place[key], (dict, list)) and place[key] and chance.random() < 0.7:
                place = place[key]
                continue
            kind = chance.randrange(6)
            if kind == 0:
                del place[key]
            elif kind == 1 and isinstance(place, dict):
                place[chance.choice(["more", "\x1b", ""])] = odd(chance)
            elif kind == 2 and isinstance(place, list):
                place *= 2
            else:
                place[key] = odd(chance)
            break
    return value


def document(value, chance):
    """Return the text of a JSON document that was changed by its meaning or by its bytes."""
    kind = chance.randrange(10)
    if kind == 0:
        return b"[" * chance.choice([65, 1000, 10**5]) + b"]" * chance.choice([0, 65, 10**5])
    if kind == 1:
        return chance.choice(
            [b"", b"\xff\xfe", b"NaN", b"[1e999]", b"9" * 5000, b'{"a":1,"a":2}', b"null", b"[]"]
        )
    if kind < 5:
        return damaged(json.dumps(value).encode(), chance)
    return json.dumps(changed(value, chance)).encode()


_LAUGHS = b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'


def text(whole, chance):
    """Return lines of numbers, XML or YAML with changed words, or bytes, or something else in their place."""
    kind = chance.randrange(10)
    if kind == 0:
        return chance.choice(
            [b"", b"\xff\xfe", b"<a>" * 10**5, b"[" * 10**5, b"- " * 10**4, b"a: &a [*a, *a]", _LAUGHS]
        )
    if kind < 5:
        return damaged(whole, chance)
    words = whole.split(b" ")
    for _ in range(chance.choice([1, 1, 2, 3])):
        words[chance.randrange(len(words))] = str(odd(chance)).encode("utf-8", "replace")
    return b" ".join(words)


def damaged_tensors(whole, chance):
    """Return a safetensors file with damage to its bytes, mostly of the header, or to what that says."""
    length = int.from_bytes(whole[:8], "little")
    kind = chance.randrange(4)
    if kind == 0:
        return damaged(whole, chance)
    if kind == 1:
        return damaged(whole[: 8 + length], chance) + whole[8 + length :]
    header = document(json.loads(whole[8 : 8 + length]), chance)
    return len(header).to_bytes(8, "little") + header + whole[8 + length :]


def content(path, chance):
    """Return other contents for a file, damaged in a way that suits what it holds."""
    whole = path.read_bytes()
    if path.suffix == ".safetensors":
        return damaged_tensors(whole, chance)
    if path.suffix == ".json" and chance.random() < 0.7:
        return document(json.loads(whole), chance)
    return damaged(whole or b"0", chance)


OF_FILES = ("gone", "empty", "directory", "pipe", "dangling", "loop", "device", "another")
OF_OBJECTS = ("gone", "empty", "another", "one more")
"""What may be in the place of a file, or of an object in a store."""


def spoil(path, chance, ways=OF_FILES):
    """Damage a file, or put something else in its place; return what was done, in a word."""
    if chance.random() < 0.7:
        path.write_bytes(content(path, chance))
        return "damaged"
    way = chance.choice(ways)
    if way == "one more":
        path.with_name(chance.choice(["more", "manifest.json", "run.json", f"{path.name}.lock"])).write_bytes(
            b"{}"
        )
        return way
    other = chance.choice([p for p in path.parent.iterdir() if p.is_file()]).read_bytes()
    path.unlink()
    if way == "empty":
        path.write_bytes(b"")
    elif way == "directory":
        (path / "inside").mkdir(parents=True)
    elif way == "pipe":
        os.mkfifo(path)
    elif way != "gone":
        ends = {"dangling": "nowhere", "loop": path.name, "device": "/dev/zero"}
        path.write_bytes(other) if way == "another" else path.symlink_to(ends[way])
    return way


def seal_again(path):
    """Let what seals a damaged file say that this is what was written, as an enemy would; return whether."""
    if (path.parent / MANIFEST).exists():
        if path.name == MANIFEST:
            return False
        files = {p.name: p.read_bytes() for p in path.parent.iterdir() if p.name != MANIFEST}
        shutil.rmtree(path.parent)
        write_sealed(path.parent, files)
        return True
    if path.name not in (RUN, MEMORY):
        return False
    try:
        value = json.loads(path.read_bytes())
        value.pop("sha256", None)
        path.write_text(json.dumps({**value, "sha256": seal(value)}))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return False
    return True
