"""The distinct values of a tensor, and which of them each element is, by bit pattern and without a sort of all.

-0.0 is not 0.0 here, and two NaNs are the same if all their bits are.
"""

from typing import NamedTuple

import numpy as np

LIMIT = 1 << 16
"""Values beyond which a codebook is never tried."""

_BLOCK = 1 << 18
_TRIES = 64


def distinct(array: np.ndarray, limit: int = LIMIT) -> np.ndarray | None:
    """The values that occur, or None where there are more than `limit`.

    Args:
      array: any shape; elements of 1, 2, 4 or 8 bytes.
      limit: largest number of values, at most 65536.

    Returns:
      (k,) of the array's dtype, ascending (floats in IEEE 754's total order: -0.0 comes before 0.0), or None.

    Raises:
      ValueError: if an element has another number of bytes.

    Example:
      >>> distinct(np.array([[0.5, -1.0, 0.5], [0.0, -0.0, 0.5]], np.float32))
      array([-1. , -0. ,  0. ,  0.5], dtype=float32)
      >>> distinct(np.arange(5), limit=4) is None
      True
    """
    if not 0 <= limit <= LIMIT:
        raise ValueError(f"limit must lie in 0 to {LIMIT}, got {limit}")
    flat = patterns(array)
    if flat.itemsize < 4:
        seen = np.zeros(1 << 8 * flat.itemsize, bool)
        for start in range(0, flat.size, _BLOCK):
            seen[flat[start : start + _BLOCK]] = True
        known = np.flatnonzero(seen).astype(flat.dtype)
    else:
        start = 4096
        known = _sorted(flat[:start])
        while start < flat.size and known.size <= limit:
            table = _table(known)
            # New values are seldom met late: the table holds until a block has some.
            while start < flat.size:
                block = flat[start : start + min(start, _BLOCK)]
                start += block.size
                new = block[_missing(table, block)]
                if new.size:
                    known = _sorted(np.concatenate([known, new]))
                    break
    return _ascending(known, array.dtype) if known.size <= limit else None


def indices(array: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Which entry of the codebook each element is.

    Args:
      array: any shape.
      codebook: (k,) of the array's dtype, all different by bit pattern, at most 65536.

    Returns:
      A vector of array.size, uint8 for up to 256 entries, else uint16.

    Raises:
      ValueError: if the dtypes differ, entries are equal, or an element is not in the codebook.

    Example:
      >>> indices(np.array([0.5, -1.0, 0.5], np.float32), np.array([-1.0, 0.5], np.float32))
      array([1, 0, 1], dtype=uint8)
    """
    if array.dtype != codebook.dtype:
        raise ValueError(f"the codebook must be of the array's dtype {array.dtype}, got {codebook.dtype}")
    flat, entries = patterns(array), patterns(codebook)
    if entries.size > LIMIT or _sorted(entries).size != entries.size:
        raise ValueError(f"a codebook must have at most {LIMIT} entries, all different, got {entries.size}")
    out = np.empty(flat.size, np.uint8 if entries.size <= 256 else np.uint16)
    if not flat.size:
        return out
    if not entries.size:
        raise ValueError("the codebook is empty, the array is not")
    wide = np.dtype(f"u{max(4, flat.itemsize)}")
    table = _table(entries.astype(wide))
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].astype(wide, copy=False)
        part, at = out[start : start + _BLOCK], None
        for level in table:
            slot = level.slot(block)
            found, wrong = level.entries.take(slot, mode="clip"), level.patterns.take(slot, mode="clip") != block
            # What is wrong here is set right by a later level, or missing.
            part[slice(None) if at is None else at] = found
            miss = np.flatnonzero(wrong)
            at, block = miss if at is None else at[miss], block[miss]
            if not at.size:
                break
        if at is not None and at.size:
            raise ValueError(f"{array.reshape(-1)[start + at[0]]} is not in the codebook")
    return out


def patterns(array: np.ndarray) -> np.ndarray:
    """The elements' bits as a vector of unsigned integers.

    Example:
      >>> patterns(np.array([1.0, -0.0], np.float32))
      array([1065353216, 2147483648], dtype=uint32)
    """
    if array.itemsize not in (1, 2, 4, 8):
        raise ValueError(f"elements must have 1, 2, 4 or 8 bytes, got {array.dtype}")
    return np.ascontiguousarray(array).reshape(-1).view(f"u{array.itemsize}")


class _Level(NamedTuple):
    """A hash table with one place a slot; what finds its slot taken is in the next level.

    An empty slot holds an entry too, which is then found in its own right.
    """

    factor: np.unsignedinteger
    shift: np.unsignedinteger
    patterns: np.ndarray
    entries: np.ndarray

    def slot(self, block: np.ndarray) -> np.ndarray:
        return ((block * self.factor) >> self.shift).astype(np.int64)


def _table(entries: np.ndarray) -> list[_Level]:
    levels, left = [], np.arange(entries.size)
    number = np.uint16 if entries.size > 256 else np.uint8
    while left.size:
        bits = min(18, max(4, -(-13 * int(left.size).bit_length() // 8)))
        best, lost = None, left
        for odd in _factors(entries.itemsize)[: _TRIES if left.size <= 1024 else 1]:
            places = np.full(1 << bits, left[0])
            level = _Level(odd, entries.dtype.type(8 * entries.itemsize - bits), entries[:0], entries[:0])
            slot = level.slot(entries[left])
            places[slot] = left
            losers = left[places[slot] != left]
            if best is None or losers.size < lost.size:
                best, lost = level._replace(patterns=entries[places], entries=places.astype(number)), losers
            if not lost.size:
                break
        assert best is not None
        levels.append(best)
        left = lost
    return levels


def _factors(itemsize: int) -> np.ndarray:
    """Odd numbers whose high bits are mixed, the first from the golden ratio (Knuth 1998, section 6.4)."""
    golden = 0x9E3779B97F4A7C15 >> (64 - 8 * itemsize)
    return np.array([(golden * (2 * i + 1)) % (1 << 8 * itemsize) | 1 for i in range(_TRIES)], f"u{itemsize}")


def _missing(table: list[_Level], block: np.ndarray) -> np.ndarray:
    """Where the elements are that no level holds."""
    at: np.ndarray | None = None
    for level in table:
        wrong = level.patterns.take(level.slot(block), mode="clip") != block
        if not wrong.any():
            return np.zeros(0, np.int64)
        miss = np.flatnonzero(wrong)
        at, block = miss if at is None else at[miss], block[miss]
    return np.arange(block.size) if at is None else at


def _sorted(values: np.ndarray) -> np.ndarray:
    """Each value once. np.unique hashes instead, which is slow where most values differ."""
    values = np.sort(values)
    return values[np.diff(values, prepend=~values[:1]) != 0]


def _ascending(known: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind in "iu":
        return np.sort(known.view(dtype))
    if dtype.kind == "f" or dtype.name == "bfloat16":
        # Sign and magnitude: flip all bits of what is negative, the sign of the rest.
        sign = known.dtype.type(1 << (8 * known.itemsize - 1))
        key = np.where(known & sign, ~known, known | sign)
        known = known[np.argsort(key, kind="stable")]
    return known.view(dtype)
