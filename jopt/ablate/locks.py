"""One process at a time in the directory of a chunk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jopt.files import make_directory, open_lock

PATIENCE = 600.0
"""Seconds to wait for a process that a launch before this one left: it ends at its next boundary."""
_PAUSE = 0.1


class ChunkInUse(RuntimeError):
    """Another process works in the directory of a chunk, and does not end."""


@contextlib.contextmanager
def holding(directory: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Holds the directory of a chunk for this process, and makes it if need be; a kill releases it.

    Raises:
      ChunkInUse: if another process holds it for longer than `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while (file := _take(directory)) is None:
        if time.monotonic() >= deadline:
            raise ChunkInUse(f"{directory} is in use by another process, which has not ended for {patience:.0f} s")
        time.sleep(_PAUSE)
    with file:
        try:
            yield
        finally:
            # A process that waits for it sees that the name is gone, and takes a new one.
            (directory / ".lock").unlink(missing_ok=True)


def _take(directory: Path) -> IO[bytes] | None:
    """The open lock of a directory; None if another process holds it."""
    make_directory(directory)
    try:
        file = os.fdopen(open_lock(directory / ".lock"), "rb")
    # A launch that no longer plans this chunk may remove the directory between the two calls.
    except FileNotFoundError:
        return None
    # The lock is of a file and not of a path, which may name another directory by now.
    if _locked(file.fileno()) and _is_at(directory / ".lock", file.fileno()):
        return file
    file.close()
    return None


def is_free(directory: Path) -> bool:
    """Whether no process works in the directory of a chunk."""
    try:
        with os.fdopen(open_lock(directory / ".lock"), "rb") as file:
            return _locked(file.fileno())
    except OSError:
        return True


def is_locked_elsewhere(lock: Path) -> bool:
    """Whether another process, on whatever machine, holds a lock that exists."""
    with lock.open("rb+") as file:
        return not _locked(file.fileno())


def _locked(descriptor: int) -> bool:
    try:
        # Of an open file: the kernel, or the file server, releases it however the process ends.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # NFS, where such a lock is one of a range of bytes, may deny it in other words.
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False
