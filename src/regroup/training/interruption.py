"""Signals: the first one asks training to save and leave, a second one is obeyed at once."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

_HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
_NOTED = [number for number in (signal.SIGTERM, signal.SIGINT, _HANGUP) if number is not None]


class Interruption:
    """While it is entered, the first SIGTERM, SIGINT or SIGHUP is only noted, for the loop to act on.

    One that the process was told to ignore (`nohup`, a shell's background jobs) is left ignored. Outside the
    main thread, where Python allows no handlers, it notes nothing.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in _NOTED:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        for each in self._before:
            if each != _HANGUP:  # a terminal that goes away says so more than once
                signal.signal(each, signal.SIG_DFL)


def leave(number: int) -> None:
    """Leave as a process does that obeys signal `number`: exit code 143 for SIGTERM, 130 for SIGINT.

    Raises:
        KeyboardInterrupt: it is SIGINT.
        SystemExit: it is another.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
