"""An object store that fails as a test wants, and what a training leaves in one."""

import inspect
import threading
import time

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

OPERATIONS = ("find", "info", "cat_file", "get_file", "put_file", "pipe_file", "rm_file", "cp_file")


class Crash(BaseException):
    """The process is gone; nothing of it runs any more."""


class FaultyFileSystem(MemoryFileSystem):
    """A store in memory whose operation number `last`, of the thread that asks for it, meets `fault`."""

    protocol = ("faulty",)
    root_marker = "/"
    store, pseudo_dirs = {}, [""]
    last, fault, seen, slow, thread = None, None, 0, 0.0, None

    @classmethod
    def begin(cls, last=None, fault=None, slow=0.0):
        """Fail from here on: at operation `last`, by what `fault(number of operations since)` raises."""
        cls.last, cls.fault, cls.seen, cls.slow, cls.thread = last, fault, 0, slow, threading.get_ident()

    @classmethod
    def empty(cls):
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.begin()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).replace("faulty://", "memory://", 1))

    def _before(self, name):
        cls = FaultyFileSystem
        time.sleep(cls.slow)
        if cls.thread != threading.get_ident():
            return  # renewals come when they come
        number, cls.seen = cls.seen, cls.seen + 1
        if cls.last is not None and number >= cls.last and cls.fault is not None:
            cls.fault(number - cls.last, name)


def _counted(name):
    real = getattr(MemoryFileSystem, name)

    def call(self, *arguments, **options):
        self._before(name)
        return real(self, *arguments, **options)

    call.__signature__ = inspect.signature(real)
    return call


for _name in OPERATIONS:
    setattr(FaultyFileSystem, _name, _counted(_name))

fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)


class SharedFileSystem(LocalFileSystem):
    """A store of several processes: a folder of this machine, as `shared://` and its path."""

    protocol = ("shared",)

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("shared://").strip("/")

    def put_file(self, lpath, rpath, **options):
        self.makedirs(self._parent(rpath), exist_ok=True)
        super().put_file(lpath, rpath)

    def pipe_file(self, path, value, mode="overwrite", **options):
        self.makedirs(self._parent(path), exist_ok=True)
        super().pipe_file(path, value, mode)

    def cp_file(self, path1, path2, **options):
        self.makedirs(self._parent(path2), exist_ok=True)
        super().cp_file(path1, path2)


fsspec.register_implementation("shared", SharedFileSystem, clobber=True)


def crash(since, name):
    raise Crash


def denied(since, name):
    raise PermissionError(name)


def broken(since, name):
    raise TimeoutError("no answer")


def broken_once(since, name):
    if not since:
        raise ConnectionError("reset")
