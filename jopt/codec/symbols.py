"""Streams of symbols, indices or codes, in fixed width or Huffman-coded."""

from collections.abc import Callable

import numpy as np

from jopt.codec import bits, huffman
from jopt.codec.cursor import Cursor
from jopt.codec.lanes import lanes
from jopt.codec.shortest import Candidate

LARGEST_CODED = 4096
"""Symbols of the largest alphabet that is Huffman-coded."""
_LANES_HEAD = 5


def width(alphabet: int) -> int:
    """Bits that tell so many symbols apart.

    Example:
      >>> [width(n) for n in (0, 1, 2, 15, 16, 17)]
      [0, 0, 1, 4, 4, 5]
    """
    return max(alphabet - 1, 0).bit_length()


def fixed(symbols: Callable[[], np.ndarray], number: int, alphabet: int) -> Candidate:
    """`number` symbols of `width(alphabet)` bits."""
    return Candidate(bits.size(number, width(alphabet)), lambda: bits.pack(symbols(), width(alphabet)))


def coded(symbols: Callable[[], np.ndarray], counts: np.ndarray) -> Candidate | None:
    """A table of code lengths, and the codes; None where the alphabet is too large."""
    if counts.size > LARGEST_CODED:
        return None
    lengths = huffman.lengths(counts)
    table = huffman.pack_lengths(lengths)
    size = (huffman.cost(counts, lengths) + 7) // 8
    # The rest of the lanes' table depends on the order of the symbols.
    size += _LANES_HEAD if size and lanes(int(counts.sum())) > 1 else 0
    return Candidate(len(table) + size, lambda: table + huffman.encode(symbols(), lengths))


def read_fixed(cursor: Cursor, number: int, alphabet: int) -> np.ndarray:
    """Reads `number` symbols of fixed width: uint8, or uint16 for more than 256 symbols.

    Raises:
      CodecError: if there are not as many, or one lies outside of the alphabet.
    """
    symbols = bits.unpack(cursor.take(bits.size(number, width(alphabet))), width(alphabet), number)
    if number and alphabet & (alphabet - 1) and int(symbols.max()) >= alphabet:
        raise cursor.fail(f"a symbol must lie below {alphabet}, got {int(symbols.max())}")
    return symbols


def read_table(cursor: Cursor, alphabet: int) -> np.ndarray:
    """Reads a table of code lengths."""
    if alphabet > LARGEST_CODED:
        raise cursor.fail(f"an alphabet that is Huffman-coded has at most {LARGEST_CODED} symbols, got {alphabet}")
    lengths, used = huffman.unpack_lengths(cursor.buffer[cursor.position :], alphabet)
    cursor.take(used)
    return lengths


def read_coded(cursor: Cursor, lengths: np.ndarray, number: int, size: int) -> np.ndarray:
    """Reads `number` Huffman-coded symbols from the next `size` bytes.

    Raises:
      CodecError: if they are not that.
    """
    return huffman.decode(cursor.take(size), lengths, number)
