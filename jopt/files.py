"""Files that are written completely or not at all, and are still there after a power failure."""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

CHECKSUMS = "checksums"
"""The field of a sealed JSON object that holds the SHA-256 of its other fields, and of files that belong to it."""

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-z_]{8}\.tmp")
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes `content` to `path` atomically: a reader, a crash or a power failure sees the old file or the new one.

    Raises:
      OSError: if the directory cannot be written.
    """
    path = Path(path)
    # In the same directory, because a rename is atomic only within a file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    # Opened as `open` would, so that the umask decides who may read the file; but never through a link.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with naming(path), os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            # On the disk before the rename is: after a power failure the name could stand for an empty file.
            sync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The new name is an entry of the directory, and is on the disk only when the directory is.
    sync_directory(path.parent)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Gives an OSError inside the path that it lacks: the system reports a full disk by descriptor alone."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def open_lock(path: str | os.PathLike[str]) -> int:
    """A descriptor of a file to lock, made if need be: not truncated, and never through a link.

    Raises:
      OSError: if it cannot be opened, or is a link.
    """
    # Of a directory that may come from somebody else.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Writes indented JSON atomically. Non-finite numbers are an error: they are not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def seal(value: Mapping[str, Any], **files: str) -> dict[str, Any]:
    """`value` with a field of checksums, from which a later edit of it is detected.

    Args:
      value: what JSON can hold.
      **files: the SHA-256 of files that belong to it, by name.

    Example:
      >>> sealed = seal({"accuracy": 0.9})
      >>> unseal(sealed)
      {'accuracy': 0.9}
      >>> unseal(sealed | {"accuracy": 1.0})
      Traceback (most recent call last):
      ...
      ValueError: it was changed after it was written: its checksum is not that of its fields
    """
    return {**value, CHECKSUMS: {**files, "self": _checksum({**value, CHECKSUMS: files})}}


def unseal(value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of what may be a sealed object, without its checksums.

    Raises:
      ValueError: if a field is not what was sealed.
    """
    fields = dict(value)
    checksums = fields.pop(CHECKSUMS, None)
    # Files of earlier versions have no checksums.
    if checksums is not None:
        files = dict(checksums) if isinstance(checksums, dict) else {}
        if files.pop("self", None) != _checksum({**fields, CHECKSUMS: files}):
            raise ValueError("it was changed after it was written: its checksum is not that of its fields")
    return fields


def _checksum(fields: Mapping[str, Any]) -> str:
    # Through JSON once, so that a tuple or a NumPy number has the text that it has when it is read back.
    plain = json.loads(json.dumps(fields))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sync(descriptor: int) -> None:
    """Has what was written to an open file or directory on the disk before it returns."""
    import fcntl

    # On macOS fsync leaves the data in the drive's cache; F_FULLFSYNC empties that too, where the disk can do it.
    if (full := getattr(fcntl, "F_FULLFSYNC", None)) is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Has the names in a directory on the disk before it returns."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a directory; they keep its entries in their own way.
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: str | os.PathLike[str]) -> None:
    """Has all files and directories of a tree on the disk; the name of the tree itself is in its parent."""
    for directory, _, names in os.walk(path, topdown=False):
        for name in names:
            descriptor = os.open(Path(directory, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                sync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(directory)


def make_directory(path: str | os.PathLike[str]) -> None:
    """Makes a directory and its parents where they do not exist, each on the disk when this returns."""
    path = Path(path)
    if not path.parent.is_dir():
        make_directory(path.parent)
    # Another process may make it at the same time.
    path.mkdir(exist_ok=True)
    # Also where it exists: a kill may have come before the sync. A parent that cannot be read was not made here.
    with contextlib.suppress(PermissionError):
        sync_directory(path.parent)


def move(source: Path, target: Path) -> None:
    """Renames a file or a directory, on the disk when this returns."""
    source.rename(target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def sweep(directory: str | os.PathLike[str], names: Collection[str] | None = None) -> None:
    """Removes temporary files that a kill left in a directory, which no other process may be writing to.

    The names that stay are on the disk when this returns: a kill may have come between a rename and its sync.

    Args:
      directory: where they are.
      names: of the files that were being written; None: of all, in a directory of jopt's own.
    """
    for path in Path(directory).iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if match and (names is None or match[1] in names):
            path.unlink(missing_ok=True)
    sync_directory(directory)
