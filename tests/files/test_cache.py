"""The cache of object code: what is not exactly what was written is made again, never run."""

from __future__ import annotations

import os
import stat

import pytest

from regroup.files.cache import Cache


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
