"""Canonical Huffman codes of at most 15 bits: their lengths, their cost, and symbols to bytes and back.

Codes follow from their lengths alone: sorted by (length, symbol), each is the one before plus one (Schwartz and
Kallick, 1964). A file therefore holds the lengths of codes only (`jopt.codec.symbols`).
"""

import functools

import numpy as np

from jopt.codec import lanes
from jopt.codec.container import CodecError

LIMIT = 15
"""Bits of the longest code: a length fits 4 bits, and a table of all words that begin with a code fits a cache."""

_BLOCK = 1 << 18


def lengths(counts: np.ndarray, limit: int = LIMIT) -> np.ndarray:
    """Code lengths that take the fewest bits of all prefix codes within the limit, by package-merge.

    A symbol that does not occur gets 0. A lone symbol gets 1, or 0 if the alphabet has no other: the table then
    says which symbol it is, and the stream takes no bits.

    Args:
      counts: (alphabet,) integers, how often each symbol occurs.
      limit: bits of the longest code, at most 15.

    Returns:
      (alphabet,) uint8 code lengths in bits; equal counts give equal lengths.

    Raises:
      ValueError: if a count is negative, or more than `2**limit` symbols occur.

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
        raise ValueError(f"limit must be 1 to {LIMIT}, got {limit}")
    code_lengths = np.zeros(counts.size, np.uint8)
    used = np.flatnonzero(counts)
    if used.size > 1 << limit:
        raise ValueError(f"codes of {limit} bits are enough for {1 << limit} symbols, got {used.size}")
    if used.size < 2:
        code_lengths[used] = counts.size > 1
        return code_lengths
    # Stable sorts make ties, and so the bytes of a file, the same on every machine.
    order = used[np.argsort(counts[used], kind="stable")]
    leaves = counts[order]
    # Each round lists, by weight, all leaves, and the pairs of neighbours in the round before.
    items, is_leaf = leaves, [np.ones(leaves.size, bool)]
    for _ in range(limit - 1):
        pairs = items[: items.size // 2 * 2].reshape(-1, 2).sum(axis=1)
        both = np.concatenate([leaves, pairs])
        rank = np.argsort(both, kind="stable")
        items = both[rank]
        is_leaf.append(rank < leaves.size)
    # The first 2 n - 2 items of the last round are the cheapest code. A leaf among them adds a bit to its symbol's
    # code, a pair stands for two items of the round before.
    take, depth = 2 * leaves.size - 2, np.zeros(leaves.size, np.uint8)
    for flags in reversed(is_leaf):
        taken_leaves = int(np.count_nonzero(flags[:take]))
        depth[:taken_leaves] += 1
        take = 2 * (take - taken_leaves)
    code_lengths[order] = depth
    return code_lengths


def count(symbols: np.ndarray, alphabet: int) -> np.ndarray:
    """How often each symbol occurs, in the memory of a block.

    Args:
      symbols: any shape of uint8 or uint16, below `alphabet`.
      alphabet: number of symbols.

    Returns:
      (alphabet,) int64.

    Example:
      >>> count(np.array([0, 2, 2], np.uint8), 4)
      array([1, 0, 2, 0])
    """
    symbols, counts = symbols.reshape(-1), np.zeros(alphabet, np.int64)
    # `bincount` makes an int64 of every symbol that it is given.
    for start in range(0, symbols.size, _BLOCK):
        counts += np.bincount(symbols[start : start + _BLOCK], minlength=alphabet)
    return counts


def cost(counts: np.ndarray, lengths: np.ndarray) -> int:
    """Bits of the codes: sum of count x length, or 0 for a lone symbol; without the table of lanes.

    Example:
      >>> cost(np.array([10, 1, 0, 5, 2]), np.array([1, 3, 0, 2, 3]))
      29
    """
    if np.count_nonzero(lengths) < 2:
        return 0
    return int(np.dot(np.asarray(counts, np.int64), np.asarray(lengths, np.int64)))


def least_bytes(counts: np.ndarray, lengths: np.ndarray) -> int:
    """Bytes that `encode` returns at least; exactly these if the stream has no lanes.

    The excesses in the table of lanes depend on the order of the symbols, which counts do not tell.
    """
    stream = (cost(counts, lengths) + 7) // 8
    has_lanes = stream > 0 and lanes.lanes(int(counts.sum())) > 1
    return stream + lanes.TABLE_HEAD_BYTES * has_lanes


def encode(symbols: np.ndarray, lengths: np.ndarray) -> bytes:
    """The symbols' codes.

    Args:
      symbols: any shape of uint8 or uint16, each with a length above 0 (except for a lone symbol).
      lengths: (alphabet,) uint8, from `lengths`.

    Returns:
      The bytes of `jopt.codec.lanes.encode`; none for a lone symbol or no symbols.

    Raises:
      ValueError: if a symbol is outside the alphabet or has no code, or the lengths are not a complete prefix code.

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
        raise ValueError(f"symbols must be below {lengths.size}, the alphabet, got {int(symbols.max())}")
    lone = _lone_symbol(lengths)
    if lone is None:
        check(lengths)
        return lanes.encode(symbols, _canonical_codes(lengths), lengths)
    if int(symbols.min()) != lone or int(symbols.max()) != lone:
        raise ValueError(f"the only symbol with a code is {lone}, got others")
    return b""


def decode(buffer: bytes | memoryview | np.ndarray, lengths: np.ndarray, count: int) -> np.ndarray:
    """The symbols that `encode` encoded.

    Args:
      buffer: the stream, exactly.
      lengths: (alphabet,) uint8.
      count: number of symbols.

    Returns:
      A vector of `count`, uint8 for an alphabet of up to 256 symbols, else uint16.

    Raises:
      CodecError: if the lengths are not a complete prefix code, or the stream is not exactly `count` codes.

    Example:
      >>> decode(bytes.fromhex("3a"), np.array([1, 3, 0, 2, 3], np.uint8), 3)
      array([0, 3, 4], dtype=uint8)
    """
    data, lengths = np.frombuffer(buffer, np.uint8), np.asarray(lengths, np.uint8)
    dtype = np.uint8 if lengths.size <= 256 else np.uint16
    if count < 0:
        raise CodecError(f"the number of symbols must be at least 0, got {count}")
    lone = _lone_symbol(lengths)
    if not count or lone is not None:
        if data.size:
            raise CodecError(f"no symbols, or a lone one, take no bytes, got {data.size}")
        return np.full(count, lone or 0, dtype)
    check(lengths)
    # A code has a bit at least: a damaged count must not allocate more than the stream justifies.
    if count > 8 * data.size:
        raise CodecError(f"{count} symbols take at least {count} bits, got {8 * data.size}")
    longest = int(lengths.max())
    # The symbol whose code begins each word of `longest` bits, for words in the order of the stream's bits.
    table = np.repeat(*_by_length(lengths, longest)).astype(dtype).take(_all_reversed(longest))
    return lanes.decode(data, table, lengths.take(table), count)


def check(lengths: np.ndarray) -> None:
    """Raises a `CodecError` unless the lengths are a complete prefix code: sum of 2^-length = 1 (Kraft, 1949)."""
    widths = lengths[lengths > 0].astype(np.int64)
    if widths.size < 2 or widths.max() > LIMIT or int((1 << (LIMIT - widths)).sum()) != 1 << LIMIT:
        raise CodecError(f"code lengths must be a complete prefix code of at most {LIMIT} bits")


def _lone_symbol(lengths: np.ndarray) -> int | None:
    """The only symbol of a code that needs no bits."""
    used = np.flatnonzero(lengths)
    if lengths.size == 1 and not used.size:
        return 0
    return int(used[0]) if used.size == 1 and lengths[used[0]] == 1 else None


def _by_length(lengths: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Symbols in the order of their codes, and how many words of `longest` bits begin with each code."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    return order, 1 << (longest - lengths[order].astype(np.int64))


def _canonical_codes(lengths: np.ndarray) -> np.ndarray:
    """(alphabet,) uint64 codes, the first bit lowest."""
    longest = int(lengths.max())
    order, words = _by_length(lengths, longest)
    codes = np.zeros(lengths.size, np.uint64)
    codes[order] = _reversed(np.cumsum(words) - words, longest)
    return codes


@functools.cache
def _all_reversed(width: int) -> np.ndarray:
    """`_reversed` of all words of `width` bits; cached, as a file can have thousands of short streams."""
    words = _reversed(np.arange(1 << width), width)
    words.setflags(write=False)
    return words


def _reversed(words: np.ndarray, width: int) -> np.ndarray:
    """The words with their `width` bits in the opposite order."""
    reversed_words = np.zeros_like(words)
    for i in range(width):
        reversed_words |= ((words >> i) & 1) << (width - 1 - i)
    return reversed_words
