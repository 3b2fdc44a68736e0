"""A stream of codes as lanes: NumPy decodes one code of every lane at a time.

Symbol i belongs to lane i mod lanes, so that a row of decoded symbols lies in a row of the output. A table before
the codes holds how many bits each lane has: their least number (uint32), the width of what is above it (uint8), and
these excesses, packed. A stream too short for lanes has no table: there the code that would begin at each bit of a
block is looked up, where the 32nd code after it would begin follows by doubling five times, and a walk in steps of
32 finds those that really begin.
"""

import itertools
import math

import numpy as np

from jopt.codec import bits as bit_packing
from jopt.codec import stream
from jopt.codec.error import CodecError

SHORT = 1 << 17
_ROWS = 1 << 12
_BLOCK = 1 << 18
_OCTETS, _LEVELS = 1 << 11, 5


def lanes(count: int) -> int:
    """Lanes of a stream of `count` symbols: 1, or sqrt(count) / 4, but at most 4096 rows of them.

    The table grows as the root, so that it is 0.2% of the shortest stream that has one and soon less.

    Example:
      >>> lanes(10_000), lanes(100_000), lanes(25_000_000)
      (1, 1, 6103)
    """
    return 1 if count < SHORT else max(math.isqrt(count) // 4, count // _ROWS)


def encode(symbols: np.ndarray, codes: np.ndarray, lengths: np.ndarray) -> bytes:
    """The table of the lanes and all codes.

    Args:
      symbols: (n,) uint8 or uint16, n > 0, each with a code.
      codes: (alphabet,) uint64, first bit lowest.
      lengths: (alphabet,) uint8 bits, at most 15.

    Returns:
      The bytes.
    """
    width = lanes(symbols.size)
    writer = stream.Writer()
    if width == 1:
        writer.write(*stream.pieces(symbols, codes, lengths))
        return writer.finish()
    rows, rest = divmod(symbols.size, width)
    head = symbols[: rows * width].reshape(rows, width)
    last = symbols[rows * width :]
    sizes = np.empty(width, np.int64)
    step = max(1, _BLOCK // rows)
    for left in range(0, width, step):
        # A lane below `rest` has one symbol more.
        for a, b in ((left, min(left + step, rest)), (max(left, rest), min(left + step, width))):
            if a >= b:
                continue
            block = head[:, a:b].T
            if a < rest:
                block = np.concatenate([block, last[a:b, None]], axis=1)
            block = np.ascontiguousarray(block)
            sizes[a:b] = lengths.take(block).sum(axis=1, dtype=np.int64)
            writer.write(*stream.pieces(block.reshape(-1), codes, lengths))
    least = int(sizes.min())
    excess = (sizes - least).astype(np.uint32)
    bits = int(excess.max()).bit_length()
    head_bytes = np.array([least], "<u4").tobytes() + bytes([bits]) + bit_packing.pack(excess, bits)
    return head_bytes + writer.finish()


def decode(data: np.ndarray, symbols: np.ndarray, lengths: np.ndarray, count: int) -> np.ndarray:
    """The symbols `encode` was given.

    Args:
      data: (bytes,) uint8, the stream.
      symbols: (2^widest,) the symbol whose code begins a word of that many bits.
      lengths: (2^widest,) uint8, bits of that code.
      count: number of symbols, at least 1.

    Returns:
      (count,) of the type of `symbols`.

    Raises:
      CodecError: if the stream is not exactly `count` codes.
    """
    width = lanes(count)
    if width == 1:
        return _chain(data, symbols, lengths, count)
    if data.size < 5 or data[4] > 32:
        raise CodecError("a stream of codes ends before its table of lanes, or the table is damaged")
    table = bit_packing.size(width, int(data[4]))
    if data.size < 5 + table:
        raise CodecError("a stream of codes ends before its table of lanes does")
    excess = bit_packing.unpack(data[5 : 5 + table], int(data[4]), width)
    end = np.cumsum(excess.astype(np.int64) + int(data[:4].view("<u4")[0]))
    data = data[5 + table :]
    _check_end(data, int(end[-1]))
    return _lockstep(data, symbols, lengths, count, end)


def _check_end(data: np.ndarray, end: int) -> None:
    """Raises unless the codes end in the last byte, and what follows them there is 0."""
    if data.size != (end + 7) // 8:
        raise CodecError(f"the codes take {end} bits, got {data.size} bytes")
    if end % 8 and data[-1] >> (end % 8):
        raise CodecError("the bits after the last code must be 0")


def _lockstep(
    data: np.ndarray, symbols: np.ndarray, lengths: np.ndarray, count: int, end: np.ndarray
) -> np.ndarray:
    """One code of each lane after the other; `end` holds the bit after each lane's last."""
    width = end.size
    # words[i] are the 64 bits from bit 32 i on, so that one look-up gives 33 bits from any bit on.
    halves = np.zeros(data.size // 4 + 2, "<u4")
    halves.view(np.uint8)[: data.size] = data
    words = halves[:-1].astype(np.uint64)
    words |= halves[1:].astype(np.uint64) << np.uint64(32)
    widest = lengths.size.bit_length() - 1
    chunk, mask = 33 // widest, np.int64(lengths.size - 1)
    steps = lengths.astype(np.uint64)
    final = at = np.concatenate([[0], end[:-1]])
    out = np.empty(count, symbols.dtype)
    index, window = np.empty(width, np.int64), np.empty(width, np.uint64)
    code, length = np.empty(width, np.int64), np.empty(width, np.uint64)
    shift, moved = np.empty(width, np.uint64), at.view(np.uint64)
    rows = -(-count // width)
    for row in range(rows):
        if row % chunk == 0:
            np.right_shift(at, 5, out=index)
            words.take(index, out=window, mode="clip")
            np.bitwise_and(moved, np.uint64(31), out=shift)
            np.right_shift(window, shift, out=window)
        if row == rows - 1 and count % width:
            rest = count % width
            at, moved, window, code, length = at[:rest], moved[:rest], window[:rest], code[:rest], length[:rest]
        np.bitwise_and(window.view(np.int64), mask, out=code)
        symbols.take(code, out=out[row * width : (row + 1) * width], mode="clip")
        steps.take(code, out=length, mode="clip")
        np.right_shift(window, length, out=window)
        np.add(moved, length, out=moved)
    if not np.array_equal(final, end):
        raise CodecError("a lane of codes does not end where the next one begins")
    return out


def _chain(data: np.ndarray, symbols: np.ndarray, lengths: np.ndarray, count: int) -> np.ndarray:
    """The codes that begin at the first bit and at the end of one another."""
    longest = count * (lengths.size.bit_length() - 1)
    if data.size > (longest + 7) // 8:
        raise CodecError(f"{count} codes take at most {longest} bits, got {data.size} bytes")
    octets = min(_OCTETS, data.size)
    padded = np.concatenate([data, np.zeros(octets + 2, np.uint8)]).astype(np.uint32)
    window = padded[:-2] | padded[1:-1] << 8 | padded[2:] << 16
    block, mask, steps = 8 * octets, np.int64(lengths.size - 1), lengths.astype(np.int64)
    code, offsets = np.empty((octets, 8), np.int64), np.arange(8, dtype=np.uint32)
    # jumps[k][i] is where the code begins that comes 2^k codes after the one at bit i of the block; where that is
    # beyond the block, the first place beyond it, which leads to itself.
    jumps = np.empty((_LEVELS + 1, block + 15), np.int64)
    here = np.arange(block + 15)
    out, done, at = np.empty(count, symbols.dtype), 0, 0
    for first in range(0, data.size, octets):
        np.right_shift(window[first : first + octets, None], offsets, out=code, casting="unsafe")
        np.bitwise_and(code, mask, out=code)
        flat = code.reshape(-1)
        jumps[0] = here
        jumps[0, :block] += steps.take(flat, mode="clip")
        for near, far in itertools.pairwise(jumps):
            near.take(near, out=far, mode="clip")
        starts, far = [], jumps[-1]
        while at < block:
            starts.append(at)
            at = int(far[at])
        begin = np.array(starts)
        for jump in jumps[-2::-1]:
            begin = np.stack([begin, jump.take(begin, mode="clip")], axis=1).reshape(-1)
        begin = begin[: min(int(np.searchsorted(begin, block)), count - done)]
        out[done : done + begin.size] = symbols.take(flat.take(begin))
        done += begin.size
        if done == count:
            _check_end(data, 8 * first + int(jumps[0, begin[-1]]))
            return out
        at -= block
    raise CodecError(f"a stream of {count} codes ends too early")
