"""Floats with their exponents Huffman-coded: those of weights differ little, the bits after them are noise.

A byte (0: signs differ, 1: all are positive, 2: negative), the least exponent and how many follow it (bytes), the
table of code lengths, the length of the stream, the stream, then mantissas, each below its sign where signs differ.
"""

from typing import NamedTuple

import numpy as np

from jopt.codec import bits, huffman
from jopt.codec.cursor import Cursor, varint
from jopt.codec.lanes import lanes

MANTISSA = {"float32": 23, "float16": 10, "bfloat16": 7}
"""Bits of the mantissas of the dtypes this is for."""
_SIGNED, _POSITIVE, _NEGATIVE = range(3)
_BLOCK = 1 << 18


class _Plan(NamedTuple):
    signs: int
    first: int
    counts: np.ndarray
    lengths: np.ndarray
    table: bytes


def least(patterns: np.ndarray, name: str) -> int:
    """Bytes that `pack` takes at least; exactly those where there are too few elements for lanes.

    Args:
      patterns: [n] the floats' bits, uint32 or uint16; at least one.
      name: of their dtype, one of `MANTISSA`.

    Example:
      >>> floats = np.float32([0.1, 0.15, 0.12, 0.2, 0.11, 0.13, 0.1, 0.19])  # 8 exponents in 8 bits, not 64
      >>> least(floats.view(np.uint32), "float32"), floats.nbytes
      (29, 32)
    """
    plan = _plan(patterns, name)
    stream = (huffman.cost(plan.counts, plan.lengths) + 7) // 8
    stream += 5 if stream and lanes(patterns.size) > 1 else 0
    rest = bits.size(patterns.size, MANTISSA[name] + (plan.signs == _SIGNED))
    return 3 + len(plan.table) + len(varint(stream)) + stream + rest


def pack(patterns: np.ndarray, name: str) -> bytes:
    """The bytes; see above.

    Args:
      patterns: [n] the floats' bits, uint32 or uint16; at least one.
      name: of their dtype, one of `MANTISSA`.

    Example:
      >>> pack(np.float32([1.0, 1.5]).view(np.uint32), "float32").hex()
      '017f0000000000000020'
    """
    plan, width = _plan(patterns, name), MANTISSA[name]
    symbols, rest = np.empty(patterns.size, np.uint8), np.empty(patterns.size, patterns.dtype)
    one = patterns.dtype.type
    for start in range(0, patterns.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        symbols[part] = _exponents(patterns[part], width) - np.uint8(plan.first)
        rest[part] = patterns[part] & one((1 << width) - 1)
        if plan.signs == _SIGNED:
            rest[part] |= (patterns[part] >> one(8 * patterns.itemsize - 1)) << one(width)
    stream = huffman.encode(symbols, plan.lengths)
    head = bytes([plan.signs, plan.first, plan.counts.size - 1]) + plan.table + varint(len(stream))
    return head + stream + bits.pack(rest, width + (plan.signs == _SIGNED))


def unpack(cursor: Cursor, name: str, count: int) -> np.ndarray:
    """Reads what `pack` wrote.

    Args:
      cursor: at its first byte; behind its last afterwards.
      name: of the floats' dtype, one of `MANTISSA`.
      count: of the floats, at least 1.

    Returns:
      The floats' bits, [count] uint32 or uint16.

    Raises:
      CodecError: if it is not that.

    Example:
      >>> patterns = unpack(Cursor(bytes.fromhex("017f0000000000000020"), "weights"), "float32", 2)
      >>> patterns.view(np.float32)
      array([1. , 1.5], dtype=float32)
    """
    width, dtype = MANTISSA[name], np.uint32 if name == "float32" else np.uint16
    signs, first, more = cursor.byte(), cursor.byte(), cursor.byte()
    top = (1 << 8 * dtype().itemsize - 1 - width) - 1
    if signs > _NEGATIVE or first + more > top:
        raise cursor.fail(f"signs must be 0 to 2 and exponents 0 to {top}, got {signs}, {first} and {more} more")
    lengths, used = huffman.unpack_lengths(cursor.buffer[cursor.position :], more + 1)
    cursor.take(used)
    size = cursor.varint("bytes of the exponents", largest=cursor.left)
    stream = cursor.take(size)
    bare = width + (signs == _SIGNED)
    rest = cursor.take(bits.size(count, bare))
    symbols = huffman.decode(stream, lengths, count)
    out = bits.unpack(rest, bare, count).astype(dtype, copy=False)
    high, mask = dtype(8 * dtype().itemsize - 1), dtype((1 << width) - 1)
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK)
        sign = (out[part] >> dtype(width)) << high if signs == _SIGNED else dtype(signs == _NEGATIVE) << high
        out[part] &= mask
        out[part] |= sign
        out[part] |= (symbols[part].astype(dtype) + dtype(first)) << dtype(width)
    return out


def _plan(patterns: np.ndarray, name: str) -> _Plan:
    width = MANTISSA[name]
    counts, negative = np.zeros(256, np.int64), 0
    for start in range(0, patterns.size, _BLOCK):
        block = patterns[start : start + _BLOCK]
        counts += np.bincount(_exponents(block, width), minlength=256)
        negative += int(np.count_nonzero(block >> block.dtype.type(8 * block.itemsize - 1)))
    occur = np.flatnonzero(counts)
    counts = counts[occur[0] : occur[-1] + 1]
    lengths = huffman.lengths(counts)
    signs = _POSITIVE if not negative else _NEGATIVE if negative == patterns.size else _SIGNED
    return _Plan(signs, int(occur[0]), counts, lengths, huffman.pack_lengths(lengths))


def _exponents(patterns: np.ndarray, width: int) -> np.ndarray:
    """uint8, the sign shifted out."""
    shifted = (patterns << patterns.dtype.type(1)) >> patterns.dtype.type(width + 1)
    return shifted.astype(np.uint8)
