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
from regroup.comparison.result import Comparison
from regroup.conversion.packed import load_packed, save_packed
from regroup.files.cache import Cache
from regroup.files.sealed import MANIFEST, write_sealed
from regroup.loading import ImageInput
from regroup.profiling.profile import Profile
from regroup.training.checkpoint import load_checkpoint, save_checkpoint
from regroup.training.data import load_data
from tests.comparison.test_result import comparison
from tests.data import written
from tests.data.malformed import damaged, encoded, formats, picture
from tests.data.test_annotated import coco
from tests.faults import damage, runs

TINY = ("--model", "tiny", "--data", "tiny", "--batch-size", "16")


@functools.cache
def trained(directory, *more):
    """Return the directory of a finished run on 8x8 images, or `more`, as `regroup train` leaves it."""
    options = ["--epochs", "1", "--display", "quiet", "--device", "cpu", "--output", directory, *more]
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
    with runs.registered():
        _images(sweep, trained(sweep.directory.parent / "tiny", *TINY))


def _images(sweep, run):
    sources = list(formats().values())
    sweep.command("warm", "", "run", "resnet_small", "--image", sweep.directory / "none.png")
    folder, named = sweep.directory / "data", regroup.create_model("resnet_small")
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for n in range(2):
            (folder / label / f"{n}.png").write_bytes(encoded(picture(), "PNG"))
    path = folder / "cat" / "a.png"

    def turn(n):
        content = damaged(sweep.chance.choice(sources), sweep.chance)
        path.write_bytes(content)
        data = sweep.call("scan", "an image", lambda: load_data(folder, 16, bad_images="skip"))
        splits = (data.train, data.test) if data else ()
        good = any(split.name(i) == "cat/a.png" for split in splits for i in range(len(split)))
        network = "tiny" if n % 10 == 0 else run
        status, found = sweep.command("run", "an image", "run", network, "--image", path, "--json")
        if (status == 0) != good:
            sweep.fail("run", "an image", "run and the look at all files differ", found[:40])
        sweep.call("image of a network of others", "an image", ImageInput.of(named).read, path)
        if good:
            sweep.call("reading", "an image", lambda: data.train.fetch(torch.arange(len(data.train))))

    sweep.each(turn)


def documents(sweep):
    """Damaged JSON: of a run's network, a comparison, a profile, a checkpoint, a manifest; of objects.

    Those are COCO's JSON, VOC's XML, YOLO's text and YAML.
    """
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
    drawn = coco(sweep.directory / "coco")
    annotations = drawn / "annotations" / "instances_train2017.json"
    objects = json.loads(annotations.read_text())
    voc = written.voc(sweep.directory / "voc")
    yolo = written.yolo(sweep.directory / "yolo", outlines=True)
    texts = {"VOC's XML": voc / "Annotations" / "0.xml", "VOC's list": voc / "ImageSets" / "Main" / "val.txt"}
    texts |= {"YOLO's text": yolo / "labels" / "train" / "0.txt", "YOLO's YAML": yolo / "data.yaml"}
    wholes = {name: path.read_bytes() for name, path in texts.items()}

    def shown(root, task):
        data = load_data(root, 16, task=task, bad_images="skip")
        data.train.fetch(torch.arange(len(data.train)))

    def turn(n):
        copy = resealed(run, {"network.json": damage.document(network, sweep.chance)})
        sweep.command("run", "network.json", "run", copy, "--image", image, "--json")
        out_file.write_bytes(damage.document(compared, sweep.chance))
        sweep.call("comparison", "a document", lambda: Comparison.load(out_file).csv())
        text = damage.document(profile, sweep.chance).decode("latin-1")
        sweep.call("profile", "a document", Profile.from_json, text)
        shutil.rmtree(saved, ignore_errors=True)
        structure = damage.document(json.loads(parts["training.json"]), sweep.chance)
        write_sealed(saved, {**parts, "training.json": structure})
        sweep.call("checkpoint", "its training.json", load_checkpoint, saved)
        manifest = saved / MANIFEST
        manifest.write_bytes(damage.document(json.loads(manifest.read_text()), sweep.chance))
        sweep.call("checkpoint", "its manifest", load_checkpoint, saved)
        annotations.write_bytes(damage.document(objects, sweep.chance))
        sweep.call("boxes", "COCO's JSON", shown, drawn, "detect")
        sweep.call("outlines", "COCO's JSON", shown, drawn, "segment")
        name = sweep.chance.choice(list(texts))
        texts[name].write_bytes(damage.text(wholes[name], sweep.chance))
        sweep.call("boxes", name, shown, voc if "VOC" in name else yolo, "detect")
        texts[name].write_bytes(wholes[name])

    sweep.each(turn)


def tensors(sweep):
    """Damaged safetensors: weights of a network, of a run, of a checkpoint, and packed integers."""
    run = trained(sweep.directory.parent / "run")
    weights, packed = sweep.directory / "a.safetensors", sweep.directory / "packed.safetensors"
    whole = (run / "weights" / "weights.safetensors").read_bytes()
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 8, 3))
    regroup.quantise(model, "shifted:bits=4,block=8")
    save_packed(packed, model)
    whole_packed = packed.read_bytes()
    named = ("compile", "resnet_small", "--weights", weights, "--image", "16")

    def turn(n):
        content = damage.damaged_tensors(whole, sweep.chance)
        weights.write_bytes(content)
        sweep.command("compile", "weights", *named)
        copy = resealed(run, {"weights.safetensors": content})
        sweep.command("profile", "weights of a run", "profile", copy, "--no-time")
        packed.write_bytes(damage.damaged_tensors(whole_packed, sweep.chance))
        sweep.call("packed integers", "a file", load_packed, packed, model)

    sweep.each(turn)


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

    def turn(n):
        for path, whole in wholes.items():
            path.write_bytes(damaged(whole, sweep.chance))
        data = sweep.call("scan", "an entry", load_data, folder)
        if data is None or data.shape != (3, 12, 16):
            sweep.fail("scan", "an entry", "another picture")
        if sweep.call("object code", "an entry", cache.get, "object", lambda: made) != made:
            sweep.fail("object code", "an entry", "other code")

    sweep.each(turn)
