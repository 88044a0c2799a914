"""Every file operation of a command that reads fails in turn: it works, or says why in one line."""

import io
import json
import os
import random
from itertools import count

import pytest
from torchvision.transforms.v2.functional import to_pil_image

from regroup.cli import main
from regroup.training.data import load_data

from .system import ERRORS, Fault, faults

STEP = 1 if "REGROUP_FAULTS" in os.environ else 40


def call(capsys, *argv):
    with pytest.raises(SystemExit) as exit:
        main(list(map(str, argv)))
    return (exit.value.code, *capsys.readouterr())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a run and an image."""
    place = tmp_path_factory.mktemp("place")
    options = ("--epochs", 1, "--display", "quiet", "--device", "cpu", "--output", place / "run")
    with pytest.raises(SystemExit):
        main(list(map(str, ("train", *options))))
    to_pil_image(load_data("digits").test[0][0]).save(place / "a.png")
    return place


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", ["run", "profile"])
def test_operations_that_fail_cost_a_line_at_most(command, place, capsys, monkeypatch):
    monkeypatch.setenv("REGROUP_CACHE", str(place / "cache"))
    more = ["--image", place / "a.png", "--json"] if command == "run" else ["--no-time", "--json"]
    code, right, _ = call(capsys, command, place / "run", *more)
    assert code == 0 and json.loads(right)
    points = 0
    for number in ERRORS:
        for last in count(random.randrange(min(STEP, 8)), STEP):
            fault = Fault(last, number)
            with faults(monkeypatch, fault, place):
                code, out, err = call(capsys, command, place / "run", *more)
            lines = [line for line in err.splitlines() if not line.startswith("the cache")]
            assert code in (0, 1) and len(lines) == code and "should not have happened" not in err, err
            assert code == 1 or out == right
            if fault.seen <= last:
                break
            points += 1
    assert points >= len(ERRORS)
    assert call(capsys, command, place / "run", *more)[:2] == (0, right)


def test_the_layer_sees_what_pathlib_opens(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    with faults(monkeypatch, Fault(0, ERRORS[0]), tmp_path), pytest.raises(OSError, match="No space"):
        (tmp_path / "a").open()
    assert io.open is open
