"""Files that are written completely or not at all."""

import json
import os
import tempfile
from pathlib import Path


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes `content` to `path` atomically: a reader, or a crash, sees the old file or the new one.

    Raises:
      OSError: if the directory cannot be written.
    """
    path = Path(path)
    # In the same directory, because a rename is atomic only within a file system.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            # On the disk before the rename is: after a power failure the name could stand for an empty file.
            os.fsync(file.fileno())
        # `mkstemp` makes files that only their owner can read.
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Writes indented JSON atomically. Non-finite numbers are an error: they are not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
