"""The cache of object code: what is not exactly what was written is made again, never run."""

from __future__ import annotations

import os
import random
import signal
import socket
import stat
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, suppress
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regroup.files.cache import Cache
from tests.faults.system import ERRORS, Crash, Fault, faults


class _Maker:
    def __init__(self, content: bytes = b"code" * 100) -> None:
        self.content, self.calls = content, 0

    def __call__(self) -> bytes:
        self.calls += 1
        return self.content


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def _entry(cache):
    (path,) = cache.folder.iterdir()
    return path


def test_an_entry_is_made_once(cache):
    make = _Maker()
    assert [cache.get("key", make) for _ in range(3)] == [make.content] * 3
    assert make.calls == 1
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


def test_every_flipped_bit_and_every_truncation_is_noticed(cache):
    make = _Maker(b"code")
    cache.get("key", make)
    path = _entry(cache)
    whole = path.read_bytes()
    damaged = [whole[:n] for n in range(len(whole))]
    damaged += [
        whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1 :]
        for i in range(len(whole))
        for bit in range(8)
    ]
    for n, content in enumerate(damaged):
        path.write_bytes(content)
        assert cache.get("key", make) == b"code"
        assert make.calls == n + 2
        assert path.read_bytes() == whole


def test_an_entry_of_another_key_is_not_taken(cache):
    cache.get("one", _Maker(b"one"))
    first = _entry(cache)
    cache.get("two", _Maker(b"two"))
    (second,) = set(cache.folder.iterdir()) - {first}
    second.write_bytes(first.read_bytes())
    make = _Maker(b"two")
    assert cache.get("two", make) == b"two" and make.calls == 1


def test_what_others_could_write_is_not_taken(cache):
    make = _Maker()
    cache.get("key", make)
    path = _entry(cache)
    for target, mode in ((path, 0o666), (cache.folder, 0o777)):
        before = stat.S_IMODE(target.stat().st_mode)
        target.chmod(mode)
        calls = make.calls
        assert cache.get("key", make) == make.content and make.calls == calls + 1
        target.chmod(before)


def test_a_link_is_not_followed(cache, tmp_path):
    make = _Maker()
    cache.get("key", make)
    path, elsewhere = _entry(cache), tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert cache.get("key", make) == make.content and make.calls == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_not_taken(cache):
    make = _Maker()
    cache.get("key", make)
    os.chown(_entry(cache), 12345, 12345)
    assert cache.get("key", make) == make.content and make.calls == 2


def test_no_folder_and_an_unusable_folder_mean_no_cache(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for folder in (None, blocked / "cache"):
        make = _Maker()
        assert [Cache(folder).get("key", make) for _ in range(2)] == [make.content] * 2
        assert make.calls == 2


def test_every_operation_that_fails_costs_at_most_the_entry(tmp_path, monkeypatch):
    """Crashed, full, forbidden, read-only, broken: what comes back is right, now and afterwards."""
    points = 0
    for number in (None, *ERRORS):
        for warm in (False, True):
            for last in count():
                place = tmp_path / f"{number}-{warm}-{last}"
                if warm:
                    Cache(place).get("key", _Maker(b"old" * 1000))
                fault, content = Fault(last, number), b"old" * 1000 if warm else b"new" * 1000
                with faults(monkeypatch, fault, tmp_path), suppress(Crash):
                    assert Cache(place).get("key", _Maker(content)) == content
                assert Cache(place).get("key", _Maker(content)) == content
                again = _Maker(content)
                assert Cache(place).get("key", again) == content and not again.calls
                if fault.seen <= last:
                    break
                points += 1
    assert points > 60


def test_what_killed_writers_have_left_goes_after_an_hour(cache, monkeypatch):
    for n in count():
        with faults(monkeypatch, Fault(n), cache.folder.parent), suppress(Crash):
            cache.get("key", _Maker())
        if left := next(cache.folder.glob(".*"), None):
            break
    foreign = [cache.folder / "mine.txt", cache.folder / ".hidden"]
    for path in foreign:
        path.write_text("not ours")
    for age, stays in ((3000, True), (4000, False)):
        for path in (left, *foreign):
            os.utime(path, (time.time() - age,) * 2)
        Cache(cache.folder.parent).store(f"{age}", b"content")
        assert left.exists() == stays
    assert all(path.exists() for path in foreign)


def test_the_cache_stays_within_its_size_and_what_was_not_used_for_longest_goes(tmp_path):
    cache = Cache(tmp_path, most=100_000)
    make = _Maker(bytes(1000))
    for n in range(300):
        cache.get(f"{n}", make)
        for path in cache.folder.iterdir():  # all of it happened days ago, in this order
            status = path.stat()
            if time.time() - status.st_mtime < 1000:
                os.utime(path, (time.time() - 10 * 86400 + n,) * 2)
        cache.get("0", make)  # used all the time
        assert sum(path.stat().st_size for path in cache.folder.iterdir()) < 110_000
    assert make.calls == 300
    assert cache.load("299") is not None and cache.load("1") is None


def test_an_entry_that_is_too_large_is_neither_written_nor_read_and_that_is_said(tmp_path, caplog):
    small, large = Cache(tmp_path, most_of_one=100), Cache(tmp_path)
    assert [small.get("key", _Maker(bytes(101))) for _ in range(2)] == [bytes(101)] * 2
    assert not small.folder.exists() and "101 bytes is too large" in caplog.messages[0]
    large.store("key", bytes(101))
    assert small.load("key") is None and large.load("key") == bytes(101)
    path = _entry(large)
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a hole: takes no space, until someone reads it
    assert large.load("key") is None


@pytest.mark.parametrize(
    "kind", ["pipe", "directory", "socket", "device", "link to a device", "dangling link"]
)
def test_what_is_no_file_is_not_read_and_nobody_waits(kind, cache, tmp_path):
    cache.get("key", _Maker())
    path = _entry(cache)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener, chdir(path.parent):  # their names may not be long
            listener.bind(path.name)
    elif kind == "device":
        if os.geteuid() != 0:
            pytest.skip("only root can make devices")
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
        except OSError:
            pytest.skip("no devices can be made here")
    else:
        path.symlink_to("/dev/zero" if kind == "link to a device" else tmp_path / "gone")
    make = _Maker()
    assert [cache.get("key", make) for _ in range(2)] == [make.content] * 2
    assert make.calls == (2 if kind == "directory" else 1)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_under_any_umask_and_in_a_shared_place_each_user_has_a_folder_of_his_own(umask, tmp_path):
    before = os.umask(umask)
    try:
        place = tmp_path / "shared"
        place.mkdir()
        place.chmod(0o777)
        for cache in (Cache(place), Cache(tmp_path / "new" / "deep")):
            make = _Maker()
            assert [cache.get("key", make) for _ in range(2)] == [make.content] * 2 and make.calls == 1
            assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
            assert stat.S_IMODE(_entry(cache).stat().st_mode) == 0o600
    finally:
        os.umask(before)


def _unusable(place, why):
    if why == "others could write":
        Cache(place).store("key", b"")
        Cache(place).folder.chmod(0o777)
    elif why == "a file":
        place.write_text("in the way")
    elif why == "a link":
        Cache(place.with_name("elsewhere")).store("key", b"")
        place.mkdir()
        Cache(place).folder.symlink_to(Cache(place.with_name("elsewhere")).folder)
    elif why == "a loop":
        place.symlink_to(place)
    elif why == "too long":
        place = place / ("x" * 300)
    return place


@pytest.mark.parametrize("why", ["others could write", "a file", "a link", "a loop", "too long"])
def test_a_folder_that_cannot_be_used_is_said_once_with_what_to_do(why, tmp_path, caplog):
    cache, make = Cache(_unusable(tmp_path / "place", why)), _Maker()
    assert [cache.get(key, make) for key in "abca"] == [make.content] * 4
    (record,) = caplog.records
    assert str(cache.folder) in record.getMessage() and "set REGROUP_CACHE" in record.getMessage()


def test_the_user_chooses_the_place(tmp_path, monkeypatch):
    monkeypatch.setenv("REGROUP_CACHE", str(tmp_path / "chosen"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Cache.default().folder.parent == tmp_path / "chosen"
    assert Cache.default() is Cache.default()
    monkeypatch.delenv("REGROUP_CACHE")
    assert Cache.default().folder.parent == tmp_path / "xdg" / "regroup"
    monkeypatch.setenv("REGROUP_CACHE", "")
    assert Cache.default().folder is None
    monkeypatch.setenv("REGROUP_CACHE", "~nobody-of-this-name/x")
    assert Cache.default().folder is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(), max_size=3), st.binary(max_size=3)), max_size=6))
def test_a_cache_is_a_dictionary(items):
    with tempfile.TemporaryDirectory() as folder:
        cache, truth = Cache(Path(folder)), {}
        for key, content in items:
            assert cache.get(key, lambda content=content: content) == truth.setdefault(key, content)


def test_many_at_once_in_a_cache_that_is_always_full_get_what_they_asked_for(tmp_path):
    """Entries go while others read them, and two write the same; nobody holds a lock."""
    caches = [Cache(tmp_path, most=20_000) for _ in range(4)]

    def work(seed):
        chance = random.Random(seed)
        for _ in range(150):
            key = str(chance.randrange(40))
            assert caches[seed].get(key, lambda: key.encode() * 500) == key.encode() * 500  # noqa: B023

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sum(path.stat().st_size for path in caches[0].folder.iterdir()) < 30_000


def test_a_child_forked_in_the_middle_of_anything_uses_the_cache(tmp_path):
    cache, stop = Cache(tmp_path, most=20_000), threading.Event()

    def work():
        while not stop.is_set():
            for n in range(40):
                cache.get(str(n), lambda: bytes(1000))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                signal.alarm(30)
                os._exit(cache.get("child", lambda: b"made") != b"made")
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        thread.join()
