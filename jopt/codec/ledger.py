"""The ledger: what each byte of a packed file is spent on, and what each stage of Deep Compression saves."""

from typing import NamedTuple

from jopt.codec.elements import NAMES, itemsize

KINDS = ("values", "gaps", "filler", "codebook", "tables", "scales", "biases", "header")
"""What bytes are spent on.

`values`: numbers, codes and indices of weights. `gaps`: positions of what is not zero, as distances or a bitmap.
`filler`: entries that only bridge a distance too long for one gap. `codebook`: shared values. `tables`: lengths of
Huffman codes. `scales`: ranges, from which scales and zero points follow. `biases`: the sections of tensors that
are not weights, by their names (`jopt.layers.is_weight`). `header`: names, shapes, lengths, checksums, metadata.
"""


class Entry(NamedTuple):
    """The bytes of one tensor.

    Attributes:
      path: of the tensor; empty for what belongs to the whole file (magic number, metadata, checksum).
      shape: of the tensor.
      dtype: its name.
      encoding: how it is stored, such as 'sparse (gaps), codebook of 16, huffman'.
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
        # By the dtype's number: a ledger can be shown where ml_dtypes is not installed.
        return self.parameters * itemsize(NAMES.index(self.dtype)) if self.dtype else 0


class Ledger(NamedTuple):
    """What each byte of a packed file is spent on; its sum is the file's length.

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
        """Bytes of each kind that occurs, in the order of `KINDS`."""
        totals = {kind: sum(entry.bytes.get(kind, 0) for entry in self.entries) for kind in KINDS}
        return {kind: total for kind, total in totals.items() if total}


class StageBytes(NamedTuple):
    """The bytes of a tensor's section after each stage of Deep Compression, and the bits of a weight.

    Bits are those of the stream in the file, in whole bytes, divided by the weights that are not zero. A tensor
    that is shortest with its zeros has no index bits.

    Attributes:
      path: of the tensor.
      parameters: number of elements.
      nonzero_parameters: number of elements that are not +0.0.
      weight_bits_fixed: of an index or code of fixed width, for each of these (P+Q).
      weight_bits_huffman: the same with Huffman codes where they are shorter (P+Q+H).
      index_bits_fixed: of its position, fillers included (P+Q).
      index_bits_huffman: the same with Huffman codes where they are shorter (P+Q+H).
      bytes_pruned: positions of fixed width and the values in their dtype (P).
      bytes_fixed: with a codebook or integers, all of fixed width (P+Q).
      bytes_huffman: as in the file (P+Q+H).
    """

    path: str
    parameters: int
    nonzero_parameters: int
    weight_bits_fixed: float
    weight_bits_huffman: float
    index_bits_fixed: float
    index_bits_huffman: float
    bytes_pruned: int
    bytes_fixed: int
    bytes_huffman: int
