"""Reads the packed model file."""

import math
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jopt.codec import dtypes
from jopt.codec import metadata as about
from jopt.codec.container import CHECKSUM_BYTES, Budget, Sections
from jopt.codec.decoded import Decoded
from jopt.codec.decoded import decode as decode_tensor
from jopt.codec.error import CodecError
from jopt.codec.integers import Integers
from jopt.codec.ledger import KINDS, Entry, Ledger
from jopt.codec.tree import Reader
from jopt.layers import is_weight

MAX_BYTES = 2**32
"""What the tensors of a file may take in memory unless the caller allows more: 4 GiB."""
TIED = 255
"""In the place of a leaf's dtype: it is a tensor that was there before."""

_LEAF = 1024  # bytes of memory that a leaf's objects take, about.
_LARGEST_RANK = 64  # NumPy's.
_STATE = "model_state/"


class File(NamedTuple):
    """What a packed file holds.

    Attributes:
      params: nested dicts, lists and tuples of NumPy arrays, as they were saved.
      model_state: the same, or None.
      metadata: JSON values, or None.
      ledger: where the file's bytes went; paths of the model's state begin with 'model_state/'.
      integers: path of a parameter to its integers, of those that are held as such.
    """

    params: Any
    model_state: Any
    metadata: Any
    ledger: Ledger
    integers: dict[str, Integers]


def load(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Any:
    """The parameters in a packed model file.

    Args:
      path: of the file.
      max_bytes: as for `read`.

    Returns:
      Nested dicts, lists and tuples of NumPy arrays, every bit as it was saved.

    Raises:
      OSError, CodecError: as `read`.
    """
    return read(path, max_bytes=max_bytes).params


def read(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> File:
    """All that a packed model file holds.

    Args:
      path: of the file.
      max_bytes: what the file may have, what its tensors may take in memory, and what decoding one may take
        besides.

    Returns:
      The `File`.

    Raises:
      OSError: if it cannot be read.
      CodecError: if it is no packed model file, is damaged in any way, or takes more than `max_bytes`.
    """
    path = Path(path)
    with path.open("rb") as file:
        about_it = os.fstat(file.fileno())
        if not stat.S_ISREG(about_it.st_mode):
            raise CodecError(f"{path} must be a regular file: what is none may have no end")
        if about_it.st_size > max_bytes:
            raise CodecError(f"{path}: the file has {about_it.st_size} bytes, more than max_bytes = {max_bytes}")
        data = file.read()
    return decode(data, name=str(path), max_bytes=max_bytes)


def decode(data: bytes, *, name: str = "file", max_bytes: int = MAX_BYTES) -> File:
    """What the bytes of a packed model file hold.

    Args:
      data: the bytes.
      name: of the file, for errors.
      max_bytes: as for `read`.

    Returns:
      The `File`.

    Raises:
      CodecError: as `read`.

    Example:
      >>> from jopt.codec import encode
      >>> file = decode(encode({"bias": np.float32([1, 2])}, metadata={"classes": 2}).data)
      >>> file.params, file.metadata
      ({'bias': array([1., 2.], dtype=float32)}, {'classes': 2})
    """
    sections = Sections(data, name)
    header = sections.header
    reading = _Reading(sections, Budget(max_bytes, name))
    try:
        metadata = about.unpack(header)
        tree = Reader(header, reading.leaf, reading.budget.spend)
        params = tree.read()
        integers = dict(reading.integers)
        reading.prefix = _STATE
        model_state = tree.read()
    except MemoryError as error:
        raise CodecError(f"{name}: the tensors do not fit in memory") from error
    header.end()
    sections.end()
    rest = len(data) - sum(entry.total for entry in reading.entries)
    whole = Entry("", (), "", "", 0, 0, {"header": rest})
    return File(params, model_state, metadata, Ledger((whole, *reading.entries)), integers)


class _Reading:
    """Reads leaf after leaf, and keeps their ledger."""

    def __init__(self, sections: Sections, budget: Budget):
        self.sections, self.budget, self.prefix = sections, budget, ""
        self.entries: list[Entry] = []
        self.integers: dict[str, Integers] = {}
        self._decoded: list[Decoded] = []

    def leaf(self, path: str, key_bytes: int) -> np.ndarray:
        cursor = self.sections.header
        start = cursor.position
        path = self.prefix + path
        self.budget.spend(_LEAF)
        if (number := cursor.byte()) == TIED:
            tied = cursor.varint("the number of a tied tensor")
            if tied >= len(self.entries):
                raise cursor.fail(f"{path} must be tied to a tensor before it, got number {tied}")
            entry, found = self.entries[tied], self._decoded[tied]
            self.budget.spend(found.array.nbytes)
            found = found._replace(array=found.array.copy())
            spent = {"header": cursor.position - start + key_bytes}
            entry = entry._replace(path=path, encoding=f"tied to {entry.path}", bytes=spent)
        else:
            entry, found = self._own(path, number, start - key_bytes)
        self.entries.append(entry)
        self._decoded.append(found)
        if found.integers is not None:
            self.integers[path] = found.integers
        return found.array

    def _own(self, path: str, number: int, start: int) -> tuple[Entry, Decoded]:
        cursor = self.sections.header
        dtype = dtypes.dtype(number, f"{cursor.name}: {path}")
        rank = cursor.byte()
        if rank > _LARGEST_RANK:
            raise cursor.fail(f"{path} must have at most {_LARGEST_RANK} axes, got {rank}")
        shape = tuple(cursor.varint("an axis") for _ in range(rank))
        if math.prod(n for n in shape if n) * dtype.itemsize >= 2**63:
            raise cursor.fail(f"{path} has the shape {shape}, which no array can have")
        size = math.prod(shape)
        self.budget.spend(size * dtype.itemsize)
        length = cursor.varint("the length of a section")
        found = decode_tensor(self.sections.next(length, path), dtype, shape, self.budget.check)
        if found.integers is not None:
            self.budget.spend(found.integers.codes.nbytes)
        spent = dict(found.bytes)
        if not is_weight(path, shape):
            spent = {"biases": sum(spent.values())}
        spent["header"] = spent.get("header", 0) + cursor.position - start + CHECKSUM_BYTES
        nonzero = int(np.count_nonzero(found.array))
        spent = {kind: spent[kind] for kind in KINDS if spent.get(kind)}
        return Entry(path, shape, dtype.name, found.encoding, size, nonzero, spent), found
