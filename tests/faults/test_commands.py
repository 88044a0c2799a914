"""Every file operation of the other commands fails in turn, or is the last one; then it is run again.

`train` and `compare` are in `test_runs`. These read a run, and write the cache of kernels.
"""

import io
import json
import os
import random
import shutil
import zipfile
from contextlib import suppress
from itertools import count

import pytest
from torchvision.transforms.v2.functional import to_pil_image

from regroup.cli import main
from regroup.training.data import load_data

from . import runs
from .programs import LONG
from .system import ERRORS, Crash, Fault, descriptors, faults

STEP = 1 if LONG else 40


def call(capsys, *argv):
    with runs.registered(), pytest.raises(SystemExit) as exit:
        main(list(map(str, argv)))
    return (exit.value.code, *capsys.readouterr())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a run and an image."""
    place = tmp_path_factory.mktemp("place")
    options = ("train", "--epochs", "1", "--display", "quiet", "--device", "cpu", "--output")
    with runs.registered(), pytest.raises(SystemExit):
        main([*options, str(place / "run"), "--model", "tiny", "--data", "tiny", "--batch-size", "16"])
    to_pil_image(load_data("digits").test[0][0]).save(place / "a.png")
    return place


def options(command, place):
    """Return the arguments of a command that looks at a run."""
    more = {
        "run": ["--image", place / "a.png", "--json"],
        "profile": ["--no-time", "--json"],
        "evaluate": ["--data", "tiny", "--no-time", "--no-compiled", "--quiet", "--json"],
        "compile": ["--json"],
    }
    return (command, place / "run", *more[command])


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", ["run", "profile", "evaluate"])
def test_operations_that_fail_cost_a_line_at_most(command, place, capsys, monkeypatch, tell, tried):
    monkeypatch.setenv("REGROUP_CACHE", str(place / "cache"))
    argv = options(command, place)
    code, right, _ = call(capsys, *argv)
    assert code == 0 and json.loads(right)
    points = 0
    for number in ERRORS:
        for last in count(random.randrange(min(STEP, 8)), STEP):
            fault = Fault(last, number)
            with faults(monkeypatch, fault, place):
                code, out, err = call(capsys, *argv)
            check(code, err)
            assert code == 1 or out == right
            if fault.seen <= last:
                break
            points += 1
        tell(f"operations of {command} that fail: {points}")
    assert points >= len(ERRORS)
    assert call(capsys, *argv)[:2] == (0, right)
    tried(f"file operations of {command} that failed", points)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", ["run", "compile"])
def test_a_cache_that_is_written_may_fail_or_end_at_any_operation(
    command, place, capsys, monkeypatch, tell, tried
):
    """The work is done all the same, or there is a line; what a crash leaves is in nobody's way.

    What is counted are operations on paths in the cache, and on whatever descriptor.
    """
    argv, cache, points = options(command, place), place / "cache", 0

    def ran(cached):
        monkeypatch.setenv("REGROUP_CACHE", str(cache) if cached else "")
        return call(capsys, *argv)

    right = found(ran(cached=False)[1])
    for number in (None, *ERRORS):
        for last in count(random.randrange(min(STEP, 8)), STEP):
            shutil.rmtree(cache, ignore_errors=True)
            fault = Fault(last, number)
            with faults(monkeypatch, fault, cache), suppress(Crash):
                code, out, err = ran(cached=True)
                if number is not None:
                    check(code, err)
                    assert code == 1 or found(out) == right
            if fault.seen <= last:
                break
            code, out, err = ran(cached=True)
            assert code == 0 and found(out) == right, err
            points += 1
        tell(f"operations of {command} in its cache: {points}")
    assert points >= len(ERRORS)
    tried(f"operations in the cache of {command} that failed or were the last one", points)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("way", "name"), [("pt2", "net.pt2"), ("object", "net")])
def test_what_is_exported_is_whole_or_not_there(way, name, place, capsys, monkeypatch, tell, tried):
    out = place / way / name
    argv = ("export", place / "run", "--to", way, "--no-check", "--replace", "--json", "--out", out)
    argv += ("--target", "x86-64-avx2") if way == "object" else ()

    def files():
        if way == "object":
            return {path.name for path in out.iterdir()}
        return {zipped.filename for zipped in zipfile.ZipFile(out).infolist()}

    found = swept(argv, out, files, capsys, monkeypatch, tell)
    tried(f"file operations of export to {way} that failed or were the last one", found)


@pytest.mark.timeout(3600)
def test_what_is_converted_is_whole_or_not_there_and_gone_on_with(place, capsys, monkeypatch, tell, tried):
    runs.converts_at_once(monkeypatch)
    out = place / "conversions" / "small"

    def files():
        return [(out / name).read_bytes() for name in runs.CONVERTED]

    ways, step = ((None, *ERRORS), 1) if LONG else ((None, random.choice(ERRORS)), 100)
    argv = runs.conversion(runs.dense(), out)
    found = swept(argv, out, files, capsys, monkeypatch, tell, ways=ways, step=step, alone=True)
    tried("file operations of convert that failed or were the last one", found)


def swept(argv, out, files, capsys, monkeypatch, tell, *, ways=(None, *ERRORS), step=STEP, alone=False):
    """Let the operations of a command that writes `out` fail, or be the last; return how many there were.

    Afterwards `out` is not there, or is whole; so it is when the command is run again, and then `alone`.
    """
    points = 0
    out.parent.mkdir()
    code, _, err = call(capsys, *argv)
    assert code == 0, err
    whole = files()
    for number in ways:
        for last in count(random.randrange(min(step, 60)), step):
            shutil.rmtree(out.parent)
            out.parent.mkdir()
            fault, code = Fault(last, number), None
            with faults(monkeypatch, fault, out.parent), suppress(Crash):
                code, _, err = call(capsys, *argv)
                check(code, err)
            for handle in [*descriptors(f"{out.name}.lock"), *descriptors("run.lock")]:
                os.close(handle)
            if out.exists():  # perhaps with status 1: that it lasts could not be made sure of
                assert files() == whole
            else:
                assert code != 0
            if fault.seen <= last:
                break
            points += 1
            code, _, err = call(capsys, *argv)
            assert code == 0 and files() == whole, err
            assert not alone or [path.name for path in out.parent.iterdir()] == [out.name]
        tell(f"operations of {argv[0]}: {points}")
    assert points >= len(ways)
    return points


def check(code, err):
    """Require that a command worked and said nothing, or that it failed and one line says why."""
    notices = ("the cache", "regroup: JsonLines failed")  # of what is done without
    lines = [line for line in err.splitlines() if not line.startswith(notices)]
    assert code in (0, 1) and len(lines) == code and "should not have happened" not in err, err


def found(printed):
    """Return what a command printed, without times."""
    value = json.loads(printed)
    if isinstance(value, list):
        return [(row["class"], row["probability"]) for image in value for row in image["classes"]]
    return [(step["runs"], step.get("names")) for step in value["segments"]]


def test_the_layer_sees_what_pathlib_opens(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    with faults(monkeypatch, Fault(0, ERRORS[0]), tmp_path), pytest.raises(OSError, match="No space"):
        (tmp_path / "a").open()
    assert io.open is open
