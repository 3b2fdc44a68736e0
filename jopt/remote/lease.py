"""Whether the owner of a remote directory is alive: it writes a new word there every few seconds."""

import contextlib
import threading
import time

from jopt.remote.commits import Commit
from jopt.remote.errors import InUseError
from jopt.remote.names import INTERNAL
from jopt.remote.store import Store

PERIOD = 10.0
"""Seconds between two words of an owner."""
PATIENCE = 45.0
"""Seconds without a new word after which an owner is taken for dead. Clocks of machines are not compared."""

_WORD = f"{INTERNAL}/alive"


class Heartbeat:
    """Writes a word every `PERIOD` seconds, until it is closed."""

    def __init__(self, store: Store, owner: str):
        self._store, self._owner, self._closed = store, owner, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the words."""
        self._closed.set()
        self._thread.join(PERIOD)

    def _run(self) -> None:
        files, key = self._store.files, self._store.key(_WORD)
        count = 0
        while not self._closed.is_set():
            count += 1
            # A store that does not answer makes the owner look dead; the next commit then finds out.
            with contextlib.suppress(Exception):
                files.pipe_file(key, f"{self._owner} {count}".encode())
            self._closed.wait(PERIOD)


def await_death(store: Store, commit: Commit) -> None:
    """Returns when the owner of a commit has been silent for long.

    Raises:
      InUseError: if it is alive.
    """
    first, end = store.read(_WORD), time.monotonic() + PATIENCE
    while time.monotonic() < end:
        time.sleep(min(PERIOD / 2, PATIENCE / 4))
        if store.read(_WORD) != first:
            raise InUseError(
                store.url, f"is in use by another process, on {commit.host!r}; end that, or give another directory"
            )


def clear(store: Store) -> None:
    """Removes the word."""
    store.remove([_WORD])
