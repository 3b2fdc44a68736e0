"""Canonical Huffman codes of at most 15 bits: their lengths, their cost, and symbols to bytes and back.

Codes follow from their lengths alone: sorted by (length, symbol), each is the one before plus one (Schwartz and
Kallick, 1964). The stream holds a code's first bit in the lowest free bit of a byte.
"""

import functools

import numpy as np

from jopt.codec import lanes
from jopt.codec.error import CodecError
from jopt.codec.prefix_table import pack_lengths as pack_lengths
from jopt.codec.prefix_table import unpack_lengths as unpack_lengths

LIMIT = 15
"""Bits of the longest code."""

_BLOCK = 1 << 18


def lengths(counts: np.ndarray, limit: int = LIMIT) -> np.ndarray:
    """Code lengths that take the fewest bits of all prefix codes within the limit, by package-merge.

    A symbol that does not occur gets 0. A lone symbol gets 1, or 0 where the alphabet holds nothing else: the table
    then says which one it is, and the stream needs no bits.

    Args:
      counts: (alphabet,) integers, how often each symbol occurs.
      limit: bits of the longest code, at most 15.

    Returns:
      (alphabet,) uint8 code lengths in bits, the same for the same counts.

    Raises:
      ValueError: if a count is negative, or more symbols occur than `2**limit`.

    References:
      Larmore and Hirschberg 1990, A fast algorithm for optimal length-limited Huffman codes.

    Example:
      >>> lengths(np.array([10, 1, 0, 5, 2]))
      array([1, 3, 0, 2, 3], dtype=uint8)
      >>> lengths(np.array([10, 1, 0, 5, 2]), limit=2)
      array([2, 2, 0, 2, 2], dtype=uint8)
    """
    counts = np.asarray(counts).astype(np.int64)
    if counts.ndim != 1 or (counts < 0).any():
        raise ValueError(f"counts must be a vector of integers >= 0, got {counts}")
    if not 1 <= limit <= LIMIT:
        raise ValueError(f"limit must lie in 1 to {LIMIT}, got {limit}")
    out = np.zeros(counts.size, np.uint8)
    used = np.flatnonzero(counts)
    if used.size > 1 << limit:
        raise ValueError(f"codes of {limit} bits are enough for {1 << limit} symbols, got {used.size}")
    if used.size < 2:
        out[used] = counts.size > 1
        return out
    order = used[np.argsort(counts[used], kind="stable")]
    leaves = counts[order]
    # items[k] is the sorted list at depth limit - k; is_leaf says which of its items are leaves.
    items, is_leaf = leaves, [np.ones(leaves.size, bool)]
    for _ in range(limit - 1):
        pairs = items[: items.size // 2 * 2].reshape(-1, 2).sum(axis=1)
        both = np.concatenate([leaves, pairs])
        rank = np.argsort(both, kind="stable")
        items = both[rank]
        is_leaf.append(rank < leaves.size)
    take, depth = 2 * leaves.size - 2, np.zeros(leaves.size, np.uint8)
    for flags in reversed(is_leaf):
        taken = int(np.count_nonzero(flags[:take]))
        depth[:taken] += 1
        take = 2 * (take - taken)
    out[order] = depth
    return out


def count(symbols: np.ndarray, alphabet: int) -> np.ndarray:
    """How often each symbol occurs, in a block's memory.

    Args:
      symbols: any shape of uint8 or uint16, below `alphabet`.
      alphabet: number of symbols.

    Returns:
      (alphabet,) int64.

    Example:
      >>> count(np.array([0, 2, 2], np.uint8), 4)
      array([1, 0, 2, 0])
    """
    symbols, out = symbols.reshape(-1), np.zeros(alphabet, np.int64)
    for start in range(0, symbols.size, _BLOCK):
        out += np.bincount(symbols[start : start + _BLOCK], minlength=alphabet)
    return out


def cost(counts: np.ndarray, lengths: np.ndarray) -> int:
    """Bits of the codes: sum of count x length, and 0 for a lone symbol. The stream's lane table is not counted.

    Example:
      >>> cost(np.array([10, 1, 0, 5, 2]), np.array([1, 3, 0, 2, 3]))
      29
    """
    if np.count_nonzero(lengths) < 2:
        return 0
    return int(np.dot(np.asarray(counts, np.int64), np.asarray(lengths, np.int64)))


def encode(symbols: np.ndarray, lengths: np.ndarray) -> bytes:
    """The symbols' codes, one after the other; long streams in lanes that are decoded side by side.

    Args:
      symbols: any shape of uint8 or uint16, each with a length above 0 (but for a lone symbol).
      lengths: (alphabet,) uint8, as `lengths` gives them.

    Returns:
      The bytes; none for a lone symbol or no symbols.

    Raises:
      ValueError: if a symbol lies outside the alphabet or has no code, or the lengths are no complete prefix code.

    Example:
      >>> code = np.array([1, 3, 0, 2, 3], np.uint8)
      >>> encode(np.array([0, 3, 4], np.uint8), code).hex()  # 0, 10, 111: first bit lowest
      '3a'
    """
    symbols = np.ascontiguousarray(symbols).reshape(-1)
    if symbols.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"symbols must be uint8 or uint16, got {symbols.dtype}")
    lengths = np.asarray(lengths, np.uint8)
    if not symbols.size:
        return b""
    if int(symbols.max()) >= lengths.size:
        raise ValueError(f"symbols must lie below {lengths.size}, the alphabet, got {int(symbols.max())}")
    lone = _lone(lengths)
    if lone is None:
        check(lengths)
    else:
        if int(symbols.min()) != lone or int(symbols.max()) != lone:
            raise ValueError(f"the code knows the symbol {lone} alone, got others")
        return b""
    return lanes.encode(symbols, _codes(lengths), lengths)


def decode(buffer: bytes | memoryview | np.ndarray, lengths: np.ndarray, count: int) -> np.ndarray:
    """The symbols `encode` was given.

    Args:
      buffer: the stream, no more and no less.
      lengths: (alphabet,) uint8.
      count: number of symbols.

    Returns:
      A vector of `count`, uint8 for an alphabet of up to 256 symbols, else uint16.

    Raises:
      CodecError: if the lengths are no complete prefix code, or the stream is not exactly `count` codes.

    Example:
      >>> decode(bytes.fromhex("3a"), np.array([1, 3, 0, 2, 3], np.uint8), 3)
      array([0, 3, 4], dtype=uint8)
    """
    data, lengths = np.frombuffer(buffer, np.uint8), np.asarray(lengths, np.uint8)
    dtype = np.uint8 if lengths.size <= 256 else np.uint16
    if count < 0:
        raise CodecError(f"the number of symbols must be 0 or more, got {count}")
    lone = _lone(lengths)
    if not count or lone is not None:
        if data.size:
            raise CodecError(f"no symbols, or a lone one, take no bytes, got {data.size}")
        return np.full(count, lone or 0, dtype)
    check(lengths)
    if count > 8 * data.size:
        raise CodecError(f"{count} symbols take {count} bits or more, got {8 * data.size}")
    widest = int(lengths.max())
    table = np.repeat(*_by_length(lengths, widest)).astype(dtype).take(_all_reversed(widest))
    return lanes.decode(data, table, lengths.take(table), count)


def check(lengths: np.ndarray) -> None:
    """Raises CodecError unless the lengths are a complete prefix code: sum of 2^-length = 1 (Kraft, 1949)."""
    widths = lengths[lengths > 0].astype(np.int64)
    if widths.size < 2 or widths.max() > LIMIT or int((1 << (LIMIT - widths)).sum()) != 1 << LIMIT:
        raise CodecError(f"code lengths must be a complete prefix code of at most {LIMIT} bits")


def _lone(lengths: np.ndarray) -> int | None:
    """The one symbol of a code that needs no bits."""
    used = np.flatnonzero(lengths)
    if lengths.size == 1 and not used.size:
        return 0
    return int(used[0]) if used.size == 1 and lengths[used[0]] == 1 else None


def _by_length(lengths: np.ndarray, widest: int) -> tuple[np.ndarray, np.ndarray]:
    """Symbols in the order of their codes, and how many words of `widest` bits begin with each."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    return order, 1 << (widest - lengths[order].astype(np.int64))


def _codes(lengths: np.ndarray) -> np.ndarray:
    """(alphabet,) uint64 codes, the first bit lowest."""
    widest = int(lengths.max())
    order, span = _by_length(lengths, widest)
    codes = np.zeros(lengths.size, np.uint64)
    codes[order] = _reversed(np.cumsum(span) - span, widest)
    return codes


@functools.cache
def _all_reversed(width: int) -> np.ndarray:
    """`_reversed` of all words of `width` bits: kept, for a file may have thousands of short streams."""
    out = _reversed(np.arange(1 << width), width)
    out.setflags(write=False)
    return out


def _reversed(words: np.ndarray, width: int) -> np.ndarray:
    """The words with their `width` bits in the opposite order."""
    out = np.zeros_like(words)
    for i in range(width):
        out |= ((words >> i) & 1) << (width - 1 - i)
    return out
