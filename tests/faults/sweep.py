"""A program that puts damaged files before everything that reads them, and prints what went wrong, as JSON.

    python -m tests.faults.sweep DIRECTORY COUNT SEED KIND...

It is a process of its own because its memory is limited: what is allocated beyond `MEMORY` is a failure.
"""

import contextlib
import functools
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from PIL import Image

import regroup
from regroup.cli import main as regroup_main
from regroup.cli.run import read_image
from regroup.comparison.result import Comparison
from regroup.conversion.packed import load_packed, save_packed
from regroup.errors import RegroupError
from regroup.files.cache import Cache
from regroup.files.sealed import MANIFEST, write_sealed
from regroup.profiling.profile import Profile
from regroup.training.checkpoint import load_checkpoint, save_checkpoint
from regroup.training.data import load_data
from regroup.training.directory import RUN
from regroup.training.directory import _seal as seal
from tests.comparison.test_result import comparison
from tests.data.malformed import damaged, encoded, formats, picture

MEMORY = {"images": 2 << 30, "documents": 1 << 30, "tensors": 1 << 30, "caches": 1 << 30}
"""Bytes beyond those of the process before; an image of the most pixels allowed takes most of two GB."""

PATIENCE = 60  # seconds for one file in one reader, on a busy machine


class Sweep:
    """Counts what was tried, and keeps what is no right outcome."""

    def __init__(self, directory, count, seed):
        self.directory, self.count, self.chance = directory, count, random.Random(seed)
        self.tried, self.refused, self.wrong = 0, 0, []

    def command(self, what, *argv):
        """Run a command: status 0, or 1 with one line that is no accident."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), self.watched(what):
            try:
                regroup_main(list(map(str, argv)))
            except SystemExit as exit:
                status = exit.code
        lines = err.getvalue().splitlines()
        self.refused += status == 1
        accident = "should not have happened" in err.getvalue() or "not enough memory" in err.getvalue()
        if status not in (0, 1) or accident or (status == 1 and len(lines) != 1):
            self.wrong.append([what, status, err.getvalue()[-400:]])
        return out.getvalue()

    def call(self, what, function, *arguments):
        """Call a function: a value, or an error that regroup raises knowingly."""
        with self.watched(what):
            try:
                return function(*arguments)
            except RegroupError as error:
                self.refused += 1
                if not str(error).replace("\n", "").isprintable() or "memory" in str(error):
                    self.wrong.append([what, "error", str(error)[:400]])
            except (Exception, RecursionError) as error:
                self.wrong.append([what, type(error).__name__, str(error)[:400]])
        return None

    @contextlib.contextmanager
    def watched(self, what):
        self.tried += 1
        (self.directory / "now").write_text(what)
        signal.alarm(PATIENCE)  # ends the process: hangs in C do not come back
        try:
            yield
        finally:
            signal.alarm(0)


def limited(extra):
    """Let this process allocate so much beyond what it has; None is any amount."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = resource.RLIM_INFINITY if extra is None else pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


@functools.cache
def trained(directory):
    """Return the directory of a finished run on 8x8 images, as `regroup train` leaves it."""
    options = ["--epochs", "1", "--display", "quiet", "--device", "cpu", "--output", directory]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        regroup_main(["train", *map(str, options)])
    return directory


def resealed(run, files):
    """Return a copy of a run with other files in its weights, sealed as if they had been written so."""
    copy = run.with_name("resealed")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    kept = {p.name: p.read_bytes() for p in (copy / "weights").iterdir() if p.name != MANIFEST}
    shutil.rmtree(copy / "weights")
    write_sealed(copy / "weights", {**kept, **files})
    return copy


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


def images(sweep):
    """Damaged pictures through `run` of a run and of a network, and the look and the reading of training."""
    sources, run = list(formats().values()), trained(sweep.directory.parent / "run")
    sweep.command("warm", "run", "resnet_small", "--image", sweep.directory / "none.png")
    folder, named = sweep.directory / "data", regroup.create_model("resnet_small")
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for n in range(2):
            (folder / label / f"{n}.png").write_bytes(encoded(picture(), "PNG"))
    limited(MEMORY["images"])
    for n in range(sweep.count):
        content = damaged(sweep.chance.choice(sources), sweep.chance)
        path = folder / "cat" / "a.png"
        path.write_bytes(content)
        data = sweep.call(f"image {n}: scan", lambda: load_data(folder, 16, bad_images="skip"))
        splits = (data.train, data.test) if data else ()
        good = any(split.name(i) == "cat/a.png" for split in splits for i in range(len(split)))
        network = run if n % 10 else "resnet_small"
        found = sweep.command(f"image {n}: run", "run", network, "--image", path, "--json")
        if bool(found) != good:
            sweep.wrong.append([f"image {n}", "run and the look at all files differ", found[:40]])
        sweep.call(f"image {n}: as a network of others", read_image, path, named)
        if good:
            sweep.call(f"image {n}: read", lambda data=data: data.train.fetch(torch.arange(len(data.train))))


def documents(sweep):
    """Damaged JSON: what a run says of its network, a comparison, a profile, a checkpoint, a manifest."""
    run, out = trained(sweep.directory.parent / "run"), sweep.directory / "out"
    image, out_file = sweep.directory / "a.png", out / "comparison.json"
    image.write_bytes(encoded(picture("L", (8, 8)), "PNG"))
    out.mkdir()
    network = json.loads((run / "weights" / "network.json").read_text())
    comparison().save(out_file)
    compared = json.loads(out_file.read_text())
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3))
    profile = regroup.profile(model, torch.zeros(1, 1, 8, 8), time=False).to_dict()
    state = {"model": model.state_dict(), "lists": [{"a": (1, 2.0)}, {3: torch.ones(2, 2).t()}, float("inf")]}
    saved = save_checkpoint(sweep.directory / "checkpoints", {"training": state})
    parts = {p.name: p.read_bytes() for p in saved.iterdir() if p.name != MANIFEST}
    limited(MEMORY["documents"])
    for n in range(sweep.count):
        copy = resealed(run, {"network.json": document(network, sweep.chance)})
        sweep.command(f"document {n}: run", "run", copy, "--image", image, "--json")
        out_file.write_bytes(document(compared, sweep.chance))
        sweep.call(f"document {n}: comparison", lambda: Comparison.load(out_file).csv())
        sweep.call(
            f"document {n}: profile",
            lambda: Profile.from_json(document(profile, sweep.chance).decode("latin-1")),
        )
        shutil.rmtree(saved)
        structure = document(json.loads(parts["training.json"]), sweep.chance)
        write_sealed(saved, {**parts, "training.json": structure})
        sweep.call(f"document {n}: checkpoint", load_checkpoint, saved)
        manifest = saved / MANIFEST
        manifest.write_bytes(document(json.loads(manifest.read_text()), sweep.chance))
        sweep.call(f"document {n}: manifest", load_checkpoint, saved)


def runs(sweep):
    """Damaged files of a run, sealed again where they were sealed, through resuming it and looking at it."""
    run = trained(sweep.directory.parent / "run")
    (checkpoint,) = run.glob("checkpoint-*")
    targets = [
        "run.json",
        "log.jsonl",
        "run.lock",
        *(f"{checkpoint.name}/{p.name}" for p in checkpoint.iterdir()),
    ]
    limited(MEMORY["tensors"])
    for n in range(sweep.count // 4):  # each of them trains
        copy, target = sweep.directory / "copy", sweep.chance.choice(targets)
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        _damage_part(copy / target, sweep.chance)
        argv = ["--display", "quiet", "--device", "cpu", "--no-wait"]
        sweep.command(f"runs {n}: resume after {target}", "train", "--resume", copy, *argv)
        sweep.command(f"runs {n}: profile after {target}", "profile", copy, "--no-time", "--json")


def _damage_part(path, chance):
    """Damage a file of a run, and let what seals it say that this is what was written."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        content = _damaged_tensors(content, chance)
    elif path.suffix == ".json":
        content = document(json.loads(content), chance)
    else:
        content = damaged(content or b"0", chance)
    if path.name == RUN and path.parent.name == "copy" and chance.random() < 0.7:
        with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
            value = json.loads(content)
            value.pop("sha256", None)
            content = json.dumps({**value, "sha256": seal(value)}).encode()
    path.write_bytes(content)
    if path.parent.name.startswith("checkpoint-") and path.name != MANIFEST and chance.random() < 0.9:
        files = {p.name: p.read_bytes() for p in path.parent.iterdir() if p.name != MANIFEST}
        shutil.rmtree(path.parent)
        write_sealed(path.parent, files)


def tensors(sweep):
    """Damaged safetensors: weights of a network, of a run, of a checkpoint, and packed integers."""
    run = trained(sweep.directory.parent / "run")
    weights, packed = sweep.directory / "a.safetensors", sweep.directory / "packed.safetensors"
    whole = (run / "weights" / "weights.safetensors").read_bytes()
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 8, 3))
    regroup.quantise(model, "shifted:bits=4,block=8")
    save_packed(packed, model)
    whole_packed = packed.read_bytes()
    limited(MEMORY["tensors"])
    for n in range(sweep.count):
        content = _damaged_tensors(whole, sweep.chance)
        weights.write_bytes(content)
        sweep.command(
            f"tensors {n}: weights", "compile", "resnet_small", "--weights", weights, "--image", "16"
        )
        copy = resealed(run, {"weights.safetensors": content})
        sweep.command(f"tensors {n}: run", "profile", copy, "--no-time")
        packed.write_bytes(_damaged_tensors(whole_packed, sweep.chance))
        sweep.call(f"tensors {n}: packed", load_packed, packed, model)


def _damaged_tensors(whole, chance):
    """Return a safetensors file with damage to its bytes, mostly of the header, or to what that says."""
    length = int.from_bytes(whole[:8], "little")
    kind = chance.randrange(4)
    if kind == 0:
        return damaged(whole, chance)
    if kind == 1:
        return damaged(whole[: 8 + length], chance) + whole[8 + length :]
    header = document(json.loads(whole[8 : 8 + length]), chance)
    return len(header).to_bytes(8, "little") + header + whole[8 + length :]


def caches(sweep):
    """Damaged entries of the cache, of scans and of object code: forgotten, and the outcome is the same."""
    folder = sweep.directory / "data"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for n in range(2):
            (folder / label / f"{n}.png").write_bytes(encoded(picture(size=(16, 12)), "PNG"))
    os.environ["REGROUP_CACHE"] = str(sweep.directory / "cache")
    cache, made = Cache.default(), bytes(range(256)) * 20
    load_data(folder)
    (scanned,) = cache.folder.iterdir()
    cache.get("object", lambda: made)
    (code,) = set(cache.folder.iterdir()) - {scanned}
    wholes = {path: path.read_bytes() for path in (scanned, code)}
    limited(MEMORY["caches"])
    for n in range(sweep.count):
        for path, whole in wholes.items():
            path.write_bytes(damaged(whole, sweep.chance))
        data = sweep.call(f"cache {n}: scan", load_data, folder)
        if data is None or data.shape != (3, 12, 16):
            sweep.wrong.append([f"cache {n}", "scan", "another picture"])
        if sweep.call(f"cache {n}: object", cache.get, "object", lambda: made) != made:
            sweep.wrong.append([f"cache {n}", "object", "other code"])


def main(directory, count, seed, kinds):
    os.environ["REGROUP_CACHE"] = str(directory / "cache")
    os.fsync = lambda handle: None  # nobody pulls the plug here
    torch.set_num_threads(1)
    Image.init()
    results = {}
    for kind in kinds:
        (directory / kind).mkdir()
        sweep = Sweep(directory / kind, count, seed)
        start = time.process_time()
        globals()[kind](sweep)
        limited(None)
        results[kind] = {"tried": sweep.tried, "refused": sweep.refused, "wrong": sweep.wrong[:20]}
        results[kind] |= {"seconds": round(time.process_time() - start, 1)}
    results["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
