"""Reads the packed model file."""

import math
import os
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jopt.codec import elements, tensor
from jopt.codec.container import CHECKSUM_BYTES, Budget, CodecError, Sections
from jopt.codec.header import Json, Tree, TreeReader, unpack_metadata
from jopt.codec.integers import Integers
from jopt.codec.ledger import KINDS, Entry, Ledger
from jopt.layers import is_weight

MAX_BYTES = 2**32
"""What the tensors of a file may take in memory unless the caller allows more: 4 GiB."""
TIED = 255
"""In place of a leaf's dtype: the tensor equals one before it."""

_LEAF_MEMORY = 1024  # bytes of memory that a leaf's objects take, about
_LARGEST_RANK = 64  # NumPy's
_STATE = "model_state/"


class File(NamedTuple):
    """The content of a packed file.

    Attributes:
      params: nested dicts, lists and tuples of NumPy arrays, as they were saved.
      model_state: the same, or None.
      metadata: JSON values, or None.
      ledger: what the file's bytes are spent on; paths of the model's state begin with 'model_state/'.
      integers: path to the integers of the parameters that are stored as integers.
    """

    params: Tree
    model_state: Tree
    metadata: Json
    ledger: Ledger
    integers: dict[str, Integers]


def load(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Tree:
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
    """Everything in a packed model file.

    Args:
      path: of the file.
      max_bytes: bytes that the file may have, that its tensors may take in memory, and that decoding one of them
        may take in addition.

    Returns:
      The `File`.

    Raises:
      OSError: if the file cannot be read.
      CodecError: if it is not a packed model file, is damaged in any way, or takes more than `max_bytes`.
    """
    path = Path(path)
    with path.open("rb") as file:
        # Of the open file: the path could name another one by the time it is read.
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CodecError("must be a regular file: a device or a pipe may have no end", str(path))
        if status.st_size > max_bytes:
            raise CodecError(f"{status.st_size} bytes are more than max_bytes = {max_bytes}", str(path))
        data = file.read()
    return decode(data, name=str(path), max_bytes=max_bytes)


def decode(data: bytes, *, name: str = "file", max_bytes: int = MAX_BYTES) -> File:
    """The content of the bytes of a packed model file.

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
    reader = _LeafReader(sections, Budget(max_bytes, name))
    try:
        metadata = unpack_metadata(header)
        tree = TreeReader(header, reader.leaf, reader.budget.spend)
        params = tree.read()
        # Before the model's state is read, whose tensors are not parameters.
        integers = dict(reader.integers)
        reader.prefix = _STATE
        model_state = tree.read()
    except MemoryError as error:
        raise CodecError("the tensors do not fit in memory", name) from error
    header.end()
    sections.end()
    other_bytes = len(data) - sum(entry.total for entry in reader.entries)
    file_entry = Entry("", (), "", "", 0, 0, {"header": other_bytes})
    return File(params, model_state, metadata, Ledger((file_entry, *reader.entries)), integers)


class _LeafReader:
    """Reads one leaf after another, and their ledger.

    The ledger is counted while bytes are read: it says what is in the file, not what the writer intended.
    """

    def __init__(self, sections: Sections, budget: Budget):
        self.sections, self.budget, self.prefix = sections, budget, ""
        self.entries: list[Entry] = []
        self.integers: dict[str, Integers] = {}
        self._decoded: list[tensor.Decoded] = []  # every tensor so far: later leaves can be tied to any of them

    def leaf(self, path: str, key_bytes: int) -> np.ndarray:
        """Reads a leaf's record from the header, and its section."""
        cursor = self.sections.header
        start = cursor.position - key_bytes
        path = self.prefix + path
        self.budget.spend(_LEAF_MEMORY)
        number = cursor.byte()
        entry, decoded = self._tied(path) if number == TIED else self._section(path, number)
        header_bytes = entry.bytes.get("header", 0) + cursor.position - start
        spent = {**entry.bytes, "header": header_bytes}
        self.entries.append(entry._replace(bytes={kind: spent[kind] for kind in KINDS if spent.get(kind)}))
        self._decoded.append(decoded)
        if decoded.integers is not None:
            self.integers[path] = decoded.integers
        return decoded.array

    def _tied(self, path: str) -> tuple[Entry, tensor.Decoded]:
        cursor = self.sections.header
        number = cursor.varint("the number of a tied tensor")
        if number >= len(self.entries):
            raise cursor.error(f"{path} must be tied to a tensor before it, got number {number}")
        entry, decoded = self.entries[number], self._decoded[number]
        # Each comes back as an array of its own, so a tie of three bytes takes the memory of a tensor.
        self.budget.spend(decoded.array.nbytes)
        decoded = decoded._replace(array=decoded.array.copy())
        return entry._replace(path=path, encoding=f"tied to {entry.path}", bytes={}), decoded

    def _section(self, path: str, number: int) -> tuple[Entry, tensor.Decoded]:
        cursor = self.sections.header
        dtype = elements.dtype(number, f"{cursor.name}: {path}")
        rank = cursor.byte()
        if rank > _LARGEST_RANK:
            raise cursor.error(f"{path} must have at most {_LARGEST_RANK} axes, got {rank}")
        shape = tuple(cursor.varint("an axis") for _ in range(rank))
        # Without axes of length 0: NumPy multiplies the others, and refuses the shape of an empty array too.
        if math.prod(n for n in shape if n) * dtype.itemsize >= 2**63:
            raise cursor.error(f"{path} has the shape {shape}, which no array can have")
        size = math.prod(shape)
        # Spent before the section is looked at: its few bytes can stand for any number of equal elements.
        self.budget.spend(size * dtype.itemsize)
        length = cursor.varint("the length of a section")
        decoded = tensor.decode(self.sections.next(length, path), dtype, shape, self.budget)
        if decoded.integers is not None:
            self.budget.spend(decoded.integers.codes.nbytes)
        spent = decoded.bytes if is_weight(path, shape) else {"biases": sum(decoded.bytes.values())}
        spent = {**spent, "header": spent.get("header", 0) + CHECKSUM_BYTES}
        nonzero = int(np.count_nonzero(decoded.array))
        return Entry(path, shape, dtype.name, decoded.encoding, size, nonzero, spent), decoded
