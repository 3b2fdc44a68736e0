"""Decoded arrays on disk: plain .npy files with a checksum, written whole or not at all."""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from absl import logging

from jopt.data.examples import Raw, Split
from jopt.data.lazy import Lazy
from jopt.files import open_lock

_FORMAT = 1
_FIELDS = ("inputs", "labels")
"""How the files of a split are called."""


class DataError(RuntimeError):
    """A data set cannot be had: not prepared, not downloadable, damaged, or its directory cannot be written.

    Attributes:
      field: what is wrong: the config's field or the file's path; "" where the message alone says it.
      value: what it holds.
      accepted: what would be accepted.
    """

    def __init__(self, message: str, *, field: str = "", value: object = None, accepted: str = ""):
        super().__init__(message)
        self.field, self.value, self.accepted = field, value, accepted


def digest(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 (hexadecimal) over the dtype, shape and bytes of each array, in order.

    Example:
      >>> digest([np.zeros(2, np.uint8)])[:8], digest([np.zeros((2, 1), np.uint8)])[:8]
      ('11170b97', 'b44c1652')
    """
    sha = hashlib.sha256()
    for array in arrays:
        if isinstance(array, Lazy):
            sha.update(f"{array.dtype.str}{array.shape}{array.fingerprint}".encode())
            continue
        array = np.ascontiguousarray(array)
        # In one byte order, so that a digest is the same on every machine.
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        sha.update(f"{little.dtype.str}{little.shape}".encode())
        sha.update(little.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


@contextlib.contextmanager
def lock(root: Path, name: str) -> Iterator[None]:
    """Holds the lock of `name` under `root`, which the system releases should the process die.

    Raises:
      DataError: if `root` cannot be made or written, or the lock's file is a link.
    """
    path = root / f".{name}.lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _refuse_link(path)
        handle = os.fdopen(open_lock(path), "rb")
    except OSError as error:
        raise DataError(
            f"data.data_dir: cannot write {root} ({error}); name a directory that can be written"
        ) from error
    # The system releases the lock when the file is closed, also if the process is killed.
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def cached(root: Path, name: str, build: Callable[[], Raw]) -> Raw:
    """The arrays of `name` from `root/arrays/name`, or from `build()`, which is then kept there.

    A cache that fails its checksum is reported in the log and built again. Processes that come at once wait for
    the first. What comes back is memory-mapped, read-only.

    Args:
      root: the data directory.
      name: a file name.
      build: makes the source; called with the lock held.

    A directory that is there but cannot be written, as a shared disk often is, is read all the same.

    Raises:
      DataError: if there is no sound cache, and `root` cannot be made or holds a link where arrays are kept.
    """
    folder = root / "arrays" / name
    source = _read(folder)
    if source is not None:
        return source
    if root.is_dir() and not os.access(root, os.W_OK):
        logging.warning("%s cannot be written: decoded arrays are not kept, and decoded again each time.", root)
        return build()
    with lock(root, name):
        source = _read(folder)  # another process may have written it meanwhile
        if source is None:
            # Before the set is built, which can take minutes.
            for path in (folder.parent, folder, *_leftovers(folder)):
                _refuse_link(path)
            if folder.exists():
                logging.warning("The cached arrays in %s are damaged; building them again.", folder)
            _write(folder, build())
            source = _read(folder)
    if source is None:
        raise DataError(f"what was written to {folder} does not read back; is the disk sound?")
    return source


def _read(folder: Path) -> Raw | None:
    """The cached source, or None where it is absent or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if meta["format"] != _FORMAT:
            return None
        splits = {name: Split(*(_map(folder, name, field) for field in _FIELDS)) for name in meta["splits"]}
        if digest(a for split in splits.values() for a in split[:2]) != meta["sha256"]:
            return None
        return Raw(splits, meta["num_classes"], meta["scale"])
    # Whatever damage does to a .npy header or to JSON: none of it may keep the set from being built again.
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _map(folder: Path, split: str, field: str) -> np.ndarray:
    return np.load(folder / f"{split}_{field}.npy", mmap_mode="r", allow_pickle=False)


def _write(folder: Path, source: Raw) -> None:
    """Writes a new directory, then renames it: a reader sees all of it or nothing."""
    folder.parent.mkdir(exist_ok=True)
    for leftover in _leftovers(folder):
        shutil.rmtree(leftover, ignore_errors=True)
    # Not `tempfile.mkdtemp`: the umask decides who may read the set.
    fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    fresh.mkdir()
    meta = {
        "format": _FORMAT,
        "splits": list(source.splits),
        "num_classes": source.num_classes,
        "scale": source.scale,
        "sha256": digest(a for split in source.splits.values() for a in split[:2]),
    }
    for name, split in source.splits.items():
        for field, array in zip(_FIELDS, split, strict=False):
            np.save(fresh / f"{name}_{field}.npy", array, allow_pickle=False)
    (fresh / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    _sync(fresh)
    # A directory that is not empty cannot be replaced by a rename, so the damaged one makes room first.
    if folder.exists():
        folder.rename(fresh.with_name(fresh.name + ".damaged"))
    fresh.rename(folder)
    shutil.rmtree(fresh.with_name(fresh.name + ".damaged"), ignore_errors=True)


def _leftovers(folder: Path) -> list[Path]:
    """What a process that was killed left; the lock is ours."""
    return sorted(folder.parent.glob(f".{folder.name}.*"))


def _refuse_link(path: Path) -> None:
    # The directory may come from somebody else: through a link, files outside of it would be changed.
    if path.is_symlink():
        raise DataError(
            f"data.data_dir: {path} is a link, and nothing is written through it: put the file or directory itself "
            "in its place, or name another directory",
            field=str(path),
            accepted="a file or directory of the data directory itself",
        )


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
