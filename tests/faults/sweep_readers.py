"""Damaged pictures, JSON, safetensors and cache entries before what reads them."""

import contextlib
import functools
import io
import json
import os
import shutil

import torch

import regroup
from regroup.cli import main as regroup_main
from regroup.cli.run import read_image
from regroup.comparison.result import Comparison
from regroup.conversion.packed import load_packed, save_packed
from regroup.files.cache import Cache
from regroup.files.sealed import MANIFEST, write_sealed
from regroup.profiling.profile import Profile
from regroup.training.checkpoint import load_checkpoint, save_checkpoint
from regroup.training.data import load_data
from tests.comparison.test_result import comparison
from tests.data.malformed import damaged, encoded, formats, picture
from tests.faults import damage


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


def images(sweep):
    """Damaged pictures through `run` of a run and of a network, and the look and the reading of training."""
    sources, run = list(formats().values()), trained(sweep.directory.parent / "run")
    sweep.command("warm", "run", "resnet_small", "--image", sweep.directory / "none.png")
    folder, named = sweep.directory / "data", regroup.create_model("resnet_small")
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for n in range(2):
            (folder / label / f"{n}.png").write_bytes(encoded(picture(), "PNG"))
    for n in sweep.turns():
        content = damaged(sweep.chance.choice(sources), sweep.chance)
        path = folder / "cat" / "a.png"
        path.write_bytes(content)
        data = sweep.call(f"image {n}: scan", lambda: load_data(folder, 16, bad_images="skip"))
        splits = (data.train, data.test) if data else ()
        good = any(split.name(i) == "cat/a.png" for split in splits for i in range(len(split)))
        network = run if n % 10 else "resnet_small"
        _, found = sweep.command(f"image {n}: run", "run", network, "--image", path, "--json")
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
    for n in sweep.turns():
        copy = resealed(run, {"network.json": damage.document(network, sweep.chance)})
        sweep.command(f"document {n}: run", "run", copy, "--image", image, "--json")
        out_file.write_bytes(damage.document(compared, sweep.chance))
        sweep.call(f"document {n}: comparison", lambda: Comparison.load(out_file).csv())
        sweep.call(
            f"document {n}: profile",
            lambda: Profile.from_json(damage.document(profile, sweep.chance).decode("latin-1")),
        )
        shutil.rmtree(saved)
        structure = damage.document(json.loads(parts["training.json"]), sweep.chance)
        write_sealed(saved, {**parts, "training.json": structure})
        sweep.call(f"document {n}: checkpoint", load_checkpoint, saved)
        manifest = saved / MANIFEST
        manifest.write_bytes(damage.document(json.loads(manifest.read_text()), sweep.chance))
        sweep.call(f"document {n}: manifest", load_checkpoint, saved)


def tensors(sweep):
    """Damaged safetensors: weights of a network, of a run, of a checkpoint, and packed integers."""
    run = trained(sweep.directory.parent / "run")
    weights, packed = sweep.directory / "a.safetensors", sweep.directory / "packed.safetensors"
    whole = (run / "weights" / "weights.safetensors").read_bytes()
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 8, 3))
    regroup.quantise(model, "shifted:bits=4,block=8")
    save_packed(packed, model)
    whole_packed = packed.read_bytes()
    for n in sweep.turns():
        content = damage.damaged_tensors(whole, sweep.chance)
        weights.write_bytes(content)
        sweep.command(
            f"tensors {n}: weights", "compile", "resnet_small", "--weights", weights, "--image", "16"
        )
        copy = resealed(run, {"weights.safetensors": content})
        sweep.command(f"tensors {n}: run", "profile", copy, "--no-time")
        packed.write_bytes(damage.damaged_tensors(whole_packed, sweep.chance))
        sweep.call(f"tensors {n}: packed", load_packed, packed, model)


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
    for n in sweep.turns():
        for path, whole in wholes.items():
            path.write_bytes(damaged(whole, sweep.chance))
        data = sweep.call(f"cache {n}: scan", load_data, folder)
        if data is None or data.shape != (3, 12, 16):
            sweep.wrong.append([f"cache {n}", "scan", "another picture"])
        if sweep.call(f"cache {n}: object", cache.get, "object", lambda: made) != made:
            sweep.wrong.append([f"cache {n}", "object", "other code"])
