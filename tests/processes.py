"""Functions in a process of their own that need not import everything again: a copy of this one."""

from __future__ import annotations

import faulthandler
import os
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, NoReturn


@dataclass(frozen=True)
class Ended:
    """How a process ended: its status, the negative number of a signal, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def in_fork(function: Callable, *arguments: object) -> Ended:
    """Call a function that may end its process, or that changes what others see."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        pid = os.fork()
        if not pid:
            _call(function, arguments, out, err)
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        for stream in (out, err):
            stream.seek(0)
        return Ended(code, out.read(), err.read())


def run_program(function: Callable, *arguments: object, **environment: str) -> Ended:
    """Call the main function of a program in an environment, with the warnings that Python has by itself."""

    def run() -> None:
        warnings.resetwarnings()
        os.environ.update(environment)
        function(*arguments)

    return in_fork(run)


def run_script(path: str, *argv: str) -> Ended:
    """Run a Python file as a program."""

    def run() -> None:
        sys.argv = [path, *argv]
        runpy.run_path(path, run_name="__main__")

    return in_fork(run)


def _call(function: Callable, arguments: tuple, out: IO, err: IO) -> NoReturn:
    code = 1
    try:
        os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        faulthandler.enable(sys.stderr)  # pytest's has a stream of its own
        function(*arguments)
        code = 0
    except SystemExit as end:  # as the interpreter does it
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
