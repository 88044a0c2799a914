"""One process at a time: whoever dies leaves no lock, children have none, and who waits says for whom."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from regroup.errors import LockedError
from regroup.files.lock import Lock

HOLD = """
import sys, time
from pathlib import Path
from regroup.files.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def free(path):
    try:
        with Lock(path, wait=False):
            return True
    except LockedError:
        return False


def test_threads_and_objects_of_one_process_exclude_each_other(tmp_path):
    path, inside, most = tmp_path / "lock", [], []

    def work():
        for _ in range(20):
            with Lock(path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and len(most) == 60
    with Lock(path):
        assert not free(path)
    assert free(path)


def test_a_killed_process_leaves_no_lock_and_is_named_while_it_lives(tmp_path):
    path, said = tmp_path / "lock", []
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=f"is in use by process {process.pid} since 20"):
            Lock(path, wait=False).__enter__()
        threading.Timer(0.3, lambda: process.send_signal(signal.SIGKILL)).start()
        with Lock(path, say=said.append):
            assert process.wait(timeout=10) == -signal.SIGKILL
    assert len(said) == 1 and said[0].startswith(f"waiting for process {process.pid} since")


def test_a_child_neither_has_the_lock_nor_keeps_it(tmp_path):
    path = tmp_path / "lock"
    ready, go = os.pipe(), os.pipe()
    with Lock(path):
        child = os.fork()
        if not child:
            os.write(ready[1], b"1" if not free(path) else b"0")
            os.read(go[0], 1)
            os._exit(0)
        assert os.read(ready[0], 1) == b"1"
        assert not free(path)
    assert free(path)
    os.write(go[1], b"x")
    os.waitpid(child, 0)
    for end in (*ready, *go):
        os.close(end)


def test_opening_and_copying_the_file_does_not_lose_the_lock(tmp_path):
    path = tmp_path / "lock"
    with Lock(path):
        assert str(os.getpid()) in path.read_text()
        assert not free(path)
    assert path.read_text() == ""


def test_a_file_that_was_removed_is_no_longer_the_lock(tmp_path):
    path = tmp_path / "lock"
    with Lock(path):
        path.unlink()
        with Lock(path, wait=False):
            assert not free(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff" * 9000])
def test_what_stands_in_the_file_can_be_anything(content, tmp_path):
    path = tmp_path / "lock"
    with Lock(path) as lock:
        path.write_bytes(content)
        assert lock.holder() == "another process"
        with pytest.raises(LockedError, match="another process"):
            Lock(path, wait=False).__enter__()


@pytest.mark.parametrize("kind", ["directory", "link", "missing"])
def test_what_is_no_file_is_an_error_of_the_system(kind, tmp_path):
    path = tmp_path / "lock"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path = tmp_path / "nowhere" / "lock"
    with pytest.raises(OSError):
        Lock(path).__enter__()
    assert not (tmp_path / "elsewhere").exists()


def test_where_there_are_no_locks_it_says_so_and_goes_on(tmp_path, monkeypatch):
    def none(handle, how):
        raise OSError(37, "No locks available")

    said = []
    monkeypatch.setattr("fcntl.flock", none)
    with Lock(tmp_path / "lock", say=said.append):
        pass
    assert len(said) == 1 and "has no locks (No locks available)" in said[0]


def test_many_processes_take_turns(tmp_path):
    """Each adds one to a number in a file, which is lost if two do it at once."""
    path, number = tmp_path / "lock", tmp_path / "number"
    number.write_text("0")
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            try:
                for _ in range(5):
                    with Lock(path):
                        value = int(number.read_text())
                        time.sleep(0.001)
                        number.write_text(str(value + 1))
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert number.read_text() == "20"


def test_who_has_just_taken_the_lock_is_named_as_well(tmp_path):
    """Between taking and signing there is a moment, in which the file is empty."""
    path = tmp_path / "lock"
    with Lock(path) as first:
        path.write_text("")
        later = threading.Timer(0.15, first._sign, [first._handle])
        later.start()
        with (
            pytest.raises(LockedError, match=f"is in use by process {os.getpid()} since"),
            Lock(path, wait=False),
        ):
            pass
        later.join()
