"""Codes of different lengths into bytes: one run of bits, the lowest bit of each byte first."""

import numpy as np

_MASK = np.uint64((1 << 56) - 1)
_LENGTH = np.uint64(56)
_ONE = np.uint64(1)


def pieces(symbols: np.ndarray, codes: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The symbols' codes, neighbours joined for as long as 64 bits are certain to hold them.

    Args:
      symbols: (n,) uint8 or uint16.
      codes: (alphabet,) uint64, first bit lowest.
      lengths: (alphabet,) uint8 bits.

    Returns:
      (m,) uint64 codes and (m,) uint64 lengths.

    Raises:
      ValueError: if a symbol has no code.
    """
    packed = codes | (lengths.astype(np.uint64) << _LENGTH)
    both = packed.take(symbols)
    length = both >> _LENGTH
    if not length.min():
        raise ValueError("a symbol occurs that has no code: its length is 0")
    both &= _MASK
    widest = int(lengths.max())
    while widest <= 32 and both.size > 1:
        if both.size % 2:
            both, length = np.append(both, np.uint64(0)), np.append(length, np.uint64(0))
        both = both[0::2] | (both[1::2] << length[0::2])
        length = length[0::2] + length[1::2]
        widest *= 2
    return both, length


class Writer:
    """Joins pieces into 64-bit words."""

    def __init__(self) -> None:
        self.words: list[np.ndarray] = []
        self.carry, self.used = np.uint64(0), 0

    def write(self, piece: np.ndarray, length: np.ndarray) -> None:
        """Appends pieces of at most 64 bits each, none but the last of them empty."""
        end = np.cumsum(length)
        total = self.used + int(end[-1])
        start = end - length + np.uint64(self.used)
        word, shift = (start >> np.uint64(6)).astype(np.int64), start & np.uint64(63)
        low = piece << shift
        first = np.flatnonzero(np.diff(word, prepend=-1))
        out = np.zeros(total // 64 + 2, np.uint64)
        out[word[first]] = np.bitwise_or.reduceat(low, first)
        # In two steps: a shift by 64 is undefined.
        over = (piece >> _ONE) >> (np.uint64(63) - shift)
        crossing = np.flatnonzero(over)
        out[word[crossing] + 1] |= over[crossing]
        out[0] |= self.carry
        self.words.append(out[: total // 64])
        self.carry, self.used = out[total // 64], total % 64

    def finish(self) -> bytes:
        """All bytes; the last is filled with zeros."""
        tail = np.array([self.carry], "<u8").view(np.uint8)[: (self.used + 7) // 8]
        return b"".join([*(words.astype("<u8", copy=False).tobytes() for words in self.words), tail.tobytes()])
