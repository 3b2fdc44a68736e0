"""The ledger: where each byte of a packed file goes."""

from collections.abc import Iterable
from typing import NamedTuple

from jopt.codec.dtypes import NAMES, itemsize

KINDS = ("values", "gaps", "filler", "codebook", "tables", "scales", "biases", "header")
"""What bytes are spent on.

`values`: numbers, codes and indices of weights. `gaps`: positions of what is not zero, as distances or a bitmask.
`filler`: entries that only bridge a distance too long for one gap. `codebook`: shared values. `tables`: lengths of
Huffman codes. `scales`: ranges, from which scales and zero points follow. `biases`: everything of tensors that are
no weights, by their names (`jopt.layers.names`), but for their part of the header. `header`: names, shapes,
lengths, checksums, metadata.
"""


class Entry(NamedTuple):
    """The bytes of one tensor.

    Attributes:
      path: of the tensor; empty for what belongs to the whole file (magic number, metadata, checksum).
      shape: of the tensor.
      dtype: its name.
      encoding: how it is held, such as 'sparse, codebook, huffman'.
      parameters: number of elements.
      nonzero_parameters: number of elements that are not zero.
      bytes: kind to bytes, those of `KINDS` that are not 0.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    parameters: int
    nonzero_parameters: int
    bytes: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.bytes.values())

    @property
    def dense_bytes(self) -> int:
        """Bytes of the tensor's elements in memory."""
        return self.parameters * itemsize(NAMES.index(self.dtype)) if self.dtype else 0


class Ledger(NamedTuple):
    """Where each byte of a packed file goes; its sum is the file's length.

    Attributes:
      entries: a row for each tensor, in the file's order, after one for the file itself.

    Example:
      >>> file = Entry("", (), "", "", 0, 0, {"header": 20})
      >>> kernel = Entry("kernel", (4, 2), "float32", "dense", 8, 8, {"header": 10, "values": 32})
      >>> ledger = Ledger((file, kernel))
      >>> ledger.total, ledger.by_kind(), ledger.ratio
      (62, {'values': 32, 'header': 30}, 0.516...)
    """

    entries: tuple[Entry, ...]

    @property
    def total(self) -> int:
        """Bytes of the file."""
        return sum(entry.total for entry in self.entries)

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors' elements in memory."""
        return sum(entry.dense_bytes for entry in self.entries)

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than the tensors in memory."""
        return self.dense_bytes / self.total

    def by_kind(self) -> dict[str, int]:
        """Bytes of each kind that there is, in the order of `KINDS`."""
        sums = {kind: _sum(entry.bytes.get(kind, 0) for entry in self.entries) for kind in KINDS}
        return {kind: n for kind, n in sums.items() if n}


def _sum(numbers: Iterable[int]) -> int:
    return sum(numbers)
