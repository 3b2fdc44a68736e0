"""The distinct values of a tensor, and which of them each element is, by bit pattern.

-0.0 differs from 0.0 here, and two NaNs are the same if all their bits are. `np.unique` would hash or sort every
element: for eleven million elements of 16 values it takes 0.8 s, this 0.04 s.
"""

from collections.abc import Callable

import numpy as np

from jopt.codec.elements import bits_of

LIMIT = 1 << 16
"""The largest number of values of a codebook."""

_BLOCK, _SAMPLE = 1 << 18, 1 << 12
_TABLE_BITS = 18  # of the largest hash table: it fits a cache, with four slots for each of 65536 values


def distinct(array: np.ndarray, limit: int = LIMIT) -> np.ndarray | None:
    """The values that occur, or None if there are more than `limit`.

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
        raise ValueError(f"limit must be 0 to {LIMIT}, got {limit}")
    flat = _patterns(array)
    if flat.itemsize < 4:
        occurs = np.zeros(1 << 8 * flat.itemsize, bool)
        for start in range(0, flat.size, _BLOCK):
            occurs[flat[start : start + _BLOCK]] = True
        values = np.flatnonzero(occurs).astype(flat.dtype)
    else:
        start = _SAMPLE
        values = _sorted_once(flat[:start])
        find = _finder(values)
        # Blocks double at first: an array of noise exceeds the limit after few elements.
        while start < flat.size and values.size <= limit:
            block = flat[start : start + min(start, _BLOCK)]
            start += block.size
            new = block[find(block)[1]]
            # Values that occur at all mostly occur early, so the table is seldom made again.
            if new.size:
                values = _sorted_once(np.concatenate([values, new]))
                find = _finder(values)
    return _ascending(values, array.dtype) if values.size <= limit else None


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
        raise ValueError(f"the codebook must have the array's dtype {array.dtype}, got {codebook.dtype}")
    flat, entries = _patterns(array), _patterns(codebook)
    if entries.size > LIMIT or _sorted_once(entries).size != entries.size:
        raise ValueError(f"a codebook must have at most {LIMIT} entries, all different, got {entries.size}")
    if flat.size and not entries.size:
        raise ValueError("the codebook is empty, the array is not")
    chosen = np.empty(flat.size, np.uint8 if entries.size <= 256 else np.uint16)
    find = _finder(entries)
    for start in range(0, flat.size, _BLOCK):
        chosen[start : start + _BLOCK], missing = find(flat[start : start + _BLOCK])
        if missing.size:
            raise ValueError(f"{array.reshape(-1)[start + missing[0]]} is not in the codebook")
    return chosen


def _patterns(array: np.ndarray) -> np.ndarray:
    if array.itemsize not in (1, 2, 4, 8):
        raise ValueError(f"elements must have 1, 2, 4 or 8 bytes, got {array.dtype}")
    return bits_of(array)


def _finder(entries: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function of a block that returns which entry each element is, and where elements are that are none.

    A hash table with one entry a slot, without chains: an element whose slot holds another entry is looked for in
    the sorted entries. That is slow, and concerns the few entries that lost their slot to another.
    """
    bits, number = 8 * entries.itemsize, np.uint8 if entries.size <= 256 else np.uint16
    table_bits = min(bits, _TABLE_BITS, 2 * entries.size.bit_length() + 3)
    # Multiplicative hashing: an odd factor from the golden ratio mixes into the high bits (Knuth 1998, 6.4).
    factor = entries.dtype.type(0x9E3779B97F4A7C15 >> (64 - bits) | 1)
    shift = entries.dtype.type(bits - table_bits)

    def slot(block: np.ndarray) -> np.ndarray:
        return ((block * factor) >> shift).astype(np.int64)

    order = np.argsort(entries)
    ascending = entries[order]
    table = np.zeros(1 << table_bits, number)
    table[slot(entries)] = np.arange(entries.size)

    def find(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chosen = table.take(slot(block))
        missing = np.flatnonzero(entries.take(chosen) != block)
        if missing.size:
            nearest = np.minimum(np.searchsorted(ascending, block[missing]), entries.size - 1)
            chosen[missing] = order[nearest]
            missing = missing[ascending[nearest] != block[missing]]
        return chosen, missing

    return find


def _sorted_once(values: np.ndarray) -> np.ndarray:
    """Each value once. np.unique hashes instead, which is slow where most values differ."""
    values = np.sort(values)
    return values[np.diff(values, prepend=~values[:1]) != 0]


def _ascending(patterns: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind in "iu":
        return np.sort(patterns.view(dtype))
    if dtype.kind == "f" or dtype.name == "bfloat16":
        # Sign and magnitude: flip all bits of what is negative, the sign of the rest.
        sign = patterns.dtype.type(1 << (8 * patterns.itemsize - 1))
        key = np.where(patterns & sign, ~patterns, patterns | sign)
        patterns = patterns[np.argsort(key, kind="stable")]
    return patterns.view(dtype)
