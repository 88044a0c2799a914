"""What becomes of an error: one line that says what to do, and an exit status."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import traceback

from regroup.errors import ParameterError, RegroupError, first_line, printable

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses of all commands: the work is done; it is not, and a line says why; an option, argument or
name that cannot be; Ctrl-C. What SIGTERM ends has 143, as always."""


def said(command: str, error: BaseException, arguments: list[str], *, debug: bool) -> int:
    """Say on stderr what went wrong, in one line unless the error has more to say; return the exit status.

    Args:
        command: its name; "" if there is none.
        error: what ended it.
        arguments: of the command line, for the report of what nobody expected.
        debug: show the traceback as well.
    """
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    prefix = f"regroup {command}: " if command else "regroup: "
    print(f"{prefix}{_reason(error, arguments, debug)}", file=sys.stderr)
    return WRONG_USE if isinstance(error, ParameterError) else FAILED


def _reason(error: BaseException, arguments: list[str], debug: bool) -> str:
    if isinstance(error, RegroupError):
        return "\n".join(map(printable, str(error).split("\n")))
    if isinstance(error, OSError) and error.errno is not None:  # of the system: no fault of the program
        reason = printable(error.strerror or str(error))
        return f"{printable(os.fsdecode(error.filename))}: {reason}" if _names(error.filename) else reason
    if is_of_memory(error):
        return f"there is not enough memory ({first_line(error) or type(error).__name__})"
    kind = f"{type(error).__name__}: {first_line(error)}"
    if debug:
        return f"this should not have happened ({kind}); please report it with the traceback above"
    where = _written(error, arguments)
    place = f"please report it with {where}, which holds the traceback" if where else "--debug shows more"
    return f"this should not have happened ({kind}); {place}"


def _names(filename: object) -> bool:
    return isinstance(filename, (str, bytes, os.PathLike))


def is_of_memory(error: BaseException) -> bool:
    """Tell whether there was not enough memory; PyTorch says that of the CPU's in words only."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = ("can't allocate memory", "Storage size calculation overflowed")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _written(error: BaseException, arguments: list[str]) -> str | None:
    """Write a report of an error that nobody expected into a file; return its path, None if it cannot be."""
    import regroup

    torch = sys.modules.get("torch")
    lines = [
        f"regroup {regroup.__version__}, PyTorch {getattr(torch, '__version__', 'not loaded')}, "
        f"Python {platform.python_version()}, {platform.platform()}",
        f"regroup {shlex.join(arguments)}",
        "",
        *traceback.format_exception(error),
    ]
    try:
        handle, path = tempfile.mkstemp(prefix="regroup-", suffix=".txt")
        with os.fdopen(handle, "w", errors="backslashreplace") as file:
            file.write("\n".join(lines))
    except OSError:
        return None
    return path
