"""Damaged objects below URLs before every command that reads them.

A row is as in `sweep_commands`. What lies in a store is an object whole or not at all, so what is damaged are
contents, and objects are empty, gone, exchanged or too many; there are no pipes and links. The store is a
folder of this machine (`shared://`), as those of `s3://` are for their libraries:

    command                 | reads
    ------------------------|------------------------------------------------------------------------------
    train, resumed          | a run, its manifests, and the lease of somebody who is no more
    train, compare,         | runs, files of weights; images, of which a copy and its index are kept here
    evaluate                |
    compare, again          | a report with its runs, times and lease
    run, compile, profile,  | a run, a converted network
    convert, export, draw,  |
    bench                   |
"""

import json
import os
import shutil
import socket

import pytest

from regroup.files import remote
from tests import stores
from tests.faults import sweep_commands, sweep_made
from tests.faults.sweep_commands import EVALUATE, OF_RUN, Command, compare, compared, printed, train, weights
from tests.faults.sweep_readers import TINY

__all__ = ["stores"]  # which knows what shared:// is

_RUN, _FAR = "shared://{}/run", ("run/*.*", "run/*/*")
_IMAGES, _DATA = ("data/*/*/*.png",), ("--data", "shared://{}/data", "--model", "tiny", "--image", "8")
_SMALL = ("small/*",)
_GOING = ("train", "--resume", _RUN, "--epochs", "2", "--display", "quiet", "--device", "cpu", "--no-wait")
_EXPORT = ("--no-check", "--quiet", "--to", "pt2", "--out", "{}/new/a.pt2")

COMMANDS = tuple(
    Command(f"{name}, below a URL", *more, store=True)
    for name, *more in (
        ("train --resume", _GOING, _FAR, weights("run")),
        ("train --weights", train(*TINY, "--weights", _RUN), OF_RUN, weights("new")),
        ("train --weights best", train(*TINY, "--weights", f"{_RUN}/best"), ("run/best/*",), weights("new")),
        (
            "train --weights FILE",
            sweep_commands.file("safetensors", "shared://{}/files/a."),
            ("files/a.safetensors",),
        ),
        ("train --teacher", train(*TINY, "--teacher", _RUN), OF_RUN, weights("new")),
        ("train images", train(*_DATA), _IMAGES),
        ("train from a copy", train(*_DATA), (), weights("new"), True),
        ("compare", compare("tiny", "shared://{}/report"), sweep_commands.REPORT, compared),
        (
            "compare --weights",
            (*compare("tiny", "shared://{}/new"), "--weights", _RUN),
            OF_RUN,
            compared,
        ),
        ("evaluate", ("evaluate", _RUN, *EVALUATE), OF_RUN, printed),
        (
            "evaluate images",
            ("evaluate", "{}/pets", *EVALUATE, "--data", "shared://{}/data", "--split", "all"),
            _IMAGES,
        ),
        ("run", ("run", _RUN, "--image", "{}/a.png", "--json"), OF_RUN, printed),
        (
            "run a converted one",
            ("run", "shared://{}/small", "--image", "{}/a.png", "--json"),
            _SMALL,
            printed,
        ),
        ("compile", ("compile", _RUN, "--json"), OF_RUN),
        ("profile", ("profile", _RUN, "--no-time", "--json"), OF_RUN, printed),
        (
            "convert",
            sweep_made.convert("shared://{}/dense", "{}/new/a"),
            ("dense/*",),
            sweep_made.converted("new/a"),
        ),
        ("export", ("export", _RUN, *_EXPORT), OF_RUN),
        ("draw", ("draw", _RUN, "--block", "3", "--out", "{}/new/a.svg"), OF_RUN),
        ("bench", ("bench", _RUN, "--seconds", "0.0001", "--quiet"), OF_RUN),
    )
)


def made(sweep, place):
    """Make what these read, with leases of processes that are no more."""
    sweep_made.made(sweep, place)
    for unused in ("going", "taught", "again", "object"):
        shutil.rmtree(place / unused)
    for lock in place.rglob("*.lock"):  # of this machine's disk: in a store there is none
        lock.unlink()
    gone = os.fork() or os._exit(0)
    os.waitpid(gone, 0)
    lease = {"pid": gone, "host": socket.gethostname(), "since": 1.0, "token": "0" * 16, "count": 3}
    for name in ("run/run.lock", "report/compare.lock"):
        (place / name).write_text(json.dumps(lease))


def places(sweep):
    """What reads below URLs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_PAUSES", [0.0, 0.0])
        sweep_commands.swept(sweep, COMMANDS, made)
