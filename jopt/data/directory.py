"""The directory that holds prepared data and decoded arrays."""

import os
from pathlib import Path

from jopt.config import require
from jopt.paths import cache, expanded


def directory(data_dir: str | None = None, field: str = "data.data_dir") -> Path:
    """The directory that holds prepared data; it may not exist yet.

    Args:
      data_dir: the user's choice; None: `$JOPT_DATA_DIR`, else `$TFDS_DATA_DIR`, else `~/.cache/jopt/data`.
      field: its name, for the error.

    Raises:
      ConfigError: if it lies in a home directory, and there is none.

    Example:
      >>> directory("/tmp/sets").as_posix()
      '/tmp/sets'
    """
    chosen = data_dir or os.environ.get("JOPT_DATA_DIR") or os.environ.get("TFDS_DATA_DIR")
    default = None if chosen else cache("data")
    accepted = "a directory (or set JOPT_DATA_DIR): there is no home directory for the default, ~/.cache/jopt/data"
    require(chosen is not None or default is not None, field, data_dir, accepted)
    return expanded(chosen or default or "", field)


def check_directory(data_dir: str | None, field: str) -> None:
    """Raises unless the directory can be read, or made and written. Writes nothing.

    Raises:
      ConfigError: naming what is in the way.
    """
    folder = directory(data_dir, field)
    # A set that is already there can be read from a disk that cannot be written.
    if folder.is_dir() and os.access(folder, os.R_OK) and any(folder.iterdir()):
        return
    # It may be made later with its parents: the nearest directory that exists decides whether that is possible.
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    usable = nearest.is_dir() and os.access(nearest, os.W_OK)
    require(usable, field, str(folder), f"a directory that can be made and written ({nearest} is in the way)")


def arrays_folder(root: Path, name: str) -> Path:
    """Where `load` keeps the decoded arrays of a set that it reads from the data directory `root`."""
    # As a file name: 'cifar10/plain:3.0.2' would be a directory, and on some systems not a name at all.
    return root / "arrays" / name.replace("/", "+").replace(":", "-")
