"""Output that may get lost without the work: a pipe that nobody reads, a lost terminal, a full disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class Lasting:
    """A text stream that, once it fails, takes everything and shows nothing; nobody who writes to it fails.

    Attributes:
        failure: what went wrong, or None.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: Exception | None = None

    def write(self, text: str) -> int:
        """Write a text; what the stream's encoding does not have is shown as an escape."""
        with self._lasting():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        with self._lasting():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _lasting(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it has been closed
            self.failure = self.failure or error
            with suppress(OSError, ValueError, AttributeError):  # else its end would fail
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextmanager
def verbose_output(wanted: bool) -> Iterator[None]:
    """While this is entered, and if it is wanted, show on stderr what regroup and its libraries log."""
    if not wanted:
        yield
        return
    import logging

    root, handler = logging.getLogger(), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(relativeCreated)d ms %(name)s: %(message)s"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


@contextmanager
def lasting_output() -> Iterator[tuple[Lasting, Lasting]]:
    """While this is entered, let work go on whatever becomes of output; yield sys.stdout and sys.stderr."""
    for number in range(3):  # a closed one would become the next file that is opened, and be written to
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        out, err = (Lasting(nowhere if stream is None else stream) for stream in before)
        sys.stdout, sys.stderr = cast(Any, out), cast(Any, err)
        try:
            yield out, err
        finally:
            out.flush()
            err.flush()
            sys.stdout, sys.stderr = before
