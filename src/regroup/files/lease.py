"""One writer at a time below a URL: an object that says who writes, and is renewed while he lives.

>>> with Lease(Store("memory://regroup-example/leased"), "run.lock"):
...     "nobody else writes there"
'nobody else writes there'

Stores have no locks that die with their holder. So the object is put only where there is none, in one step
where the store can (S3, Google Cloud Storage); its holder renews it every `RENEWED` seconds; and who finds it
unchanged for `LEASE` seconds by his own clock takes it over. A holder that was taken for dead finds that out
before it makes anything appear (`check`), and ends.

What is not promised: two who take over from the same dead holder within the same moment may both go on until
the next `check` of one of them; and so may two who begin in the same moment, where a store cannot create in
one step.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from regroup.errors import CheckpointError, LockedError
from regroup.files.lock import Held, in_words, signature
from regroup.files.remote import Store

LEASE, RENEWED = 60.0, 15.0
"""Seconds after which a holder that is silent counts as dead, and between two signs of life."""

_POLL = 1.0
_MOST = 4096


class Lease(Held):
    """A lease that is held while it is entered, or from an `attempt` that succeeds to its `release`.

    Args:
        store: what is leased.
        name: of the object.
        wait: whether to wait for whoever holds it.
        say: called with one line when it has to wait, or when the store cannot keep two apart that begin at
            once.

    Raises:
        LockedError: it is held, and `wait` is false; it says by whom.
        OSError: the store does not do it.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        wait: bool = True,
        say: Callable[[str], object] | None = None,
    ) -> None:
        self.store, self.name, self._wait, self._say = store, name, wait, say
        self._own = signature() | {"token": secrets.token_hex(8)}
        self._seen: tuple[bytes, float] | None = None
        self._waiting, self._ended = False, threading.Event()
        self._renewing: threading.Thread | None = None

    def attempt(self) -> bool:
        """Try to take the lease; return whether it is had now. Where it is not, a moment has passed.

        Raises:
            LockedError: somebody has it who is not to be waited for.
            OSError: the store does not do it.
        """
        found = self._read()
        if found is not None and (_is_of_dead(found) or self._has_expired(found)):
            self.store.remove(self.name)
            found = None
        if found is None:
            if self._put():
                self._begin()
                return True
            found = self._read() or b""
        if not self._wait:
            raise LockedError(self.store.url, f"is in use by {_holder(found)}")
        if self._say is not None and not self._waiting:
            told = f"waiting for {_holder(found)}, which uses {self.store.url}"
            self._say(f"{told}; if it is dead, for {LEASE:g} s")
        self._waiting = True
        time.sleep(_POLL)
        return False

    def check(self) -> None:
        """Require that the lease is still this process's.

        Raises:
            CheckpointError: another has taken it, or somebody has removed it.
            OSError: the store does not say.
        """
        found = self._read()
        if found is None or _said(found).get("token") != self._own["token"]:
            who = "somebody has removed it" if found is None else f"{_holder(found)} has taken it over"
            raise CheckpointError(self.store.url, f"is no longer this process's to write: {who}")

    def release(self) -> None:
        """Give the lease back, if this process has it."""
        if self._renewing is None:
            return
        self._ended.set()
        self._renewing.join()
        self._renewing = None
        with suppress(CheckpointError, OSError):
            self.check()
            self.store.remove(self.name)

    def _put(self) -> bool:
        """Put the object where there is none; return whether it is ours: errors of stores do not say."""
        if self._say is not None and not self.store.creates:
            self._say(f"{self.store.url}: this store cannot keep two apart that begin at once")
        trouble: OSError | None = None
        try:
            self.store.put_new(self.name, self._text(0))
        except OSError as error:
            trouble = error
        found = self._read()
        if found is None and trouble is not None:
            raise trouble
        return found is not None and _said(found).get("token") == self._own["token"]

    def _begin(self) -> None:
        self._ended.clear()
        self._renewing = threading.Thread(target=self._renew, name="regroup-lease", daemon=True)
        self._renewing.start()

    def _renew(self) -> None:
        count = 0
        while not self._ended.wait(RENEWED):
            count += 1
            with suppress(OSError):  # it may pass; `check` says if another has taken it meanwhile
                try:
                    self.check()
                except CheckpointError:
                    return
                self.store.put(self.name, self._text(count))

    def _text(self, count: int) -> bytes:
        return json.dumps({**self._own, "count": count}).encode()

    def _read(self) -> bytes | None:
        try:
            return self.store.read(self.name, most=_MOST)
        except FileNotFoundError:
            return None

    def _has_expired(self, found: bytes) -> bool:
        now = time.monotonic()
        if self._seen is None or self._seen[0] != found:
            self._seen = found, now
        return now - self._seen[1] >= LEASE


def _said(found: bytes) -> dict[str, Any]:
    try:
        said = json.loads(found)
        return said if isinstance(said, dict) else {}
    except (ValueError, RecursionError):
        return {}


def _holder(found: bytes) -> str:
    return in_words(_said(found))


def _is_of_dead(found: bytes) -> bool:
    """Tell whether the holder was a process of this machine that is no more."""
    said = _said(found)
    pid = said.get("pid")
    if os.name != "posix" or said.get("host") != socket.gethostname() or type(pid) is not int or pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
