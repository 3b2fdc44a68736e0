"""Streams of codes of different lengths, in lanes that NumPy decodes side by side.

The lowest bit of each byte comes first. A stream of fewer than `SHORT` symbols is its codes, one after another. A
longer one is split into lanes: symbol i belongs to lane i mod lanes, so that one code of every lane makes a row of
the output. The lanes follow one another without gaps, after a table of how many bits each has: the least number
(uint32), the width of the excess over it (uint8), and the excesses, packed.

A code's length is known only after it is decoded, so a plain loop would take one Python step a symbol. Lanes take
one NumPy step for a whole row. In a short stream a table for so many lanes would cost more than it saves; there,
`_chain` finds where codes begin by pointer doubling.
"""

import itertools
import math

import numpy as np

from jopt.codec import bits as bit_packing
from jopt.codec.container import CodecError

SHORT = 1 << 17
"""Symbols from which a stream has lanes."""
TABLE_HEAD_BYTES = 5
"""Bytes of the lane table before the excesses."""

_LARGEST_ROWS = 1 << 12
_BLOCK = 1 << 18  # symbols encoded at a time, for the cache
_OCTETS = 1 << 11  # bytes of a short stream decoded at a time: the jump tables stay in the cache
_LEVELS = 5  # doublings: a walk through a short stream takes 2^5 codes a step
_CODE_MASK, _LENGTH_SHIFT = np.uint64((1 << 56) - 1), np.uint64(56)


def lanes(count: int) -> int:
    """Lanes of a stream of `count` symbols: 1, or sqrt(count) / 4, and enough for at most 4096 rows.

    The table grows with the root: it is 0.2% of the shortest stream that has one, and less of longer ones.

    Example:
      >>> lanes(10_000), lanes(100_000), lanes(25_000_000)
      (1, 1, 6103)
    """
    return 1 if count < SHORT else max(math.isqrt(count) // 4, count // _LARGEST_ROWS)


def encode(symbols: np.ndarray, codes: np.ndarray, lengths: np.ndarray) -> bytes:
    """The lane table and all codes.

    Args:
      symbols: (n,) uint8 or uint16, n > 0, each with a code.
      codes: (alphabet,) uint64, first bit lowest.
      lengths: (alphabet,) uint8 bits, at most 15.

    Returns:
      The bytes.

    Raises:
      ValueError: if a symbol has no code.
    """
    count = lanes(symbols.size)
    writer = _BitWriter()
    if count == 1:
        writer.write(*_join_codes(symbols, codes, lengths))
        return writer.finish()
    rows, longer_lanes = divmod(symbols.size, count)
    full_rows, last_row = symbols[: rows * count].reshape(rows, count), symbols[rows * count :]
    lane_bits = np.empty(count, np.int64)
    step = max(1, _BLOCK // rows)
    # The first `longer_lanes` lanes have one symbol more, so a block must not cross that border.
    starts = sorted({*range(0, longer_lanes, step), *range(longer_lanes, count, step)})
    for start, end in itertools.pairwise([*starts, count]):
        block = full_rows[:, start:end].T
        if start < longer_lanes:
            block = np.concatenate([block, last_row[start:end, None]], axis=1)
        block = np.ascontiguousarray(block)
        lane_bits[start:end] = lengths.take(block).sum(axis=1, dtype=np.int64)
        writer.write(*_join_codes(block.reshape(-1), codes, lengths))
    least = int(lane_bits.min())
    excess = (lane_bits - least).astype(np.uint32)
    width = int(excess.max()).bit_length()
    table = np.array([least], "<u4").tobytes() + bytes([width]) + bit_packing.pack(excess, width)
    return table + writer.finish()


def _join_codes(symbols: np.ndarray, codes: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m,) uint64 codes and (m,) uint64 lengths: neighbouring codes are joined while 64 bits surely hold them."""
    # Code and length in one word: one look-up a symbol instead of two.
    both = (codes | (lengths.astype(np.uint64) << _LENGTH_SHIFT)).take(symbols)
    length = both >> _LENGTH_SHIFT
    if not length.min():
        raise ValueError("a symbol occurs that has no code: its length is 0")
    both &= _CODE_MASK
    longest = int(lengths.max())
    while longest <= 32 and both.size > 1:
        if both.size % 2:
            both, length = np.append(both, np.uint64(0)), np.append(length, np.uint64(0))
        both = both[0::2] | (both[1::2] << length[0::2])
        length = length[0::2] + length[1::2]
        longest *= 2
    return both, length


class _BitWriter:
    """Joins codes of up to 64 bits into bytes."""

    def __init__(self) -> None:
        self._words: list[np.ndarray] = []
        self._carry, self._carry_bits = np.uint64(0), 0

    def write(self, codes: np.ndarray, lengths: np.ndarray) -> None:
        """Appends codes; only the last may be empty."""
        ends = np.cumsum(lengths)
        total = self._carry_bits + int(ends[-1])
        starts = ends - lengths + np.uint64(self._carry_bits)
        word, shift = (starts >> np.uint64(6)).astype(np.int64), starts & np.uint64(63)
        first_of_word = np.flatnonzero(np.diff(word, prepend=-1))
        words = np.zeros(total // 64 + 2, np.uint64)
        words[word[first_of_word]] = np.bitwise_or.reduceat(codes << shift, first_of_word)
        # What crosses into the next word; shifted in two steps, as a shift by 64 is undefined.
        overflow = (codes >> np.uint64(1)) >> (np.uint64(63) - shift)
        crossing = np.flatnonzero(overflow)
        words[word[crossing] + 1] |= overflow[crossing]
        words[0] |= self._carry
        self._words.append(words[: total // 64])
        self._carry, self._carry_bits = words[total // 64], total % 64

    def finish(self) -> bytes:
        """All bytes; the last is filled with zeros."""
        tail = np.array([self._carry], "<u8").view(np.uint8)[: (self._carry_bits + 7) // 8]
        return b"".join([*(words.astype("<u8", copy=False).tobytes() for words in self._words), tail.tobytes()])


def decode(data: np.ndarray, symbols: np.ndarray, lengths: np.ndarray, count: int) -> np.ndarray:
    """The symbols that `encode` encoded.

    Args:
      data: (bytes,) uint8, the stream.
      symbols: (2^longest,) the symbol whose code begins a word of that many bits.
      lengths: (2^longest,) uint8, bits of that code.
      count: number of symbols, at least 1.

    Returns:
      (count,) of the dtype of `symbols`.

    Raises:
      CodecError: if the stream is not exactly `count` codes.
    """
    lane_count = lanes(count)
    if lane_count == 1:
        return _chain(data, symbols, lengths, count)
    if data.size < TABLE_HEAD_BYTES or data[4] > 32:
        raise CodecError("a stream of codes ends before its table of lanes, or the table is damaged")
    width = int(data[4])
    table_end = TABLE_HEAD_BYTES + bit_packing.size(lane_count, width)
    if data.size < table_end:
        raise CodecError("a stream of codes ends within its table of lanes")
    excess = bit_packing.unpack(data[TABLE_HEAD_BYTES:table_end], width, lane_count)
    ends = np.cumsum(excess.astype(np.int64) + int(data[:4].view("<u4")[0]))
    data = data[table_end:]
    # Checked before anything is decoded: no lane then starts outside of the data.
    _check_end(data, int(ends[-1]))
    return _lockstep(data, symbols, lengths, count, ends)


def _check_end(data: np.ndarray, end: int) -> None:
    """Raises unless the codes end in the last byte, and the bits after them are 0."""
    if data.size != (end + 7) // 8:
        raise CodecError(f"the codes take {end} bits, got {data.size} bytes")
    if end % 8 and data[-1] >> (end % 8):
        raise CodecError("the bits after the last code must be 0")


def _lockstep(
    data: np.ndarray, symbols: np.ndarray, lengths: np.ndarray, count: int, ends: np.ndarray
) -> np.ndarray:
    """Decodes one code of every lane a step; `ends` is the bit after each lane's last code."""
    lane_count = ends.size
    # words[i] has the 64 bits from bit 32 i on: one look-up gives the next 33 bits or more from any position.
    halves = np.zeros(data.size // 4 + 2, "<u4")
    halves.view(np.uint8)[: data.size] = data
    words = halves[:-1].astype(np.uint64)
    words |= halves[1:].astype(np.uint64) << np.uint64(32)
    longest = lengths.size.bit_length() - 1
    codes_per_lookup, code_mask = 33 // longest, np.int64(lengths.size - 1)
    code_lengths = lengths.astype(np.uint64)
    start = position = np.concatenate([[0], ends[:-1]])
    decoded = np.empty(count, symbols.dtype)
    # All buffers are made once: the loop runs up to 4096 times over a few thousand lanes, and allocations would
    # take as long as the arithmetic. `unsigned` views the memory of `position`.
    index, window = np.empty(lane_count, np.int64), np.empty(lane_count, np.uint64)
    code, length = np.empty(lane_count, np.int64), np.empty(lane_count, np.uint64)
    shift, unsigned = np.empty(lane_count, np.uint64), position.view(np.uint64)
    rows = -(-count // lane_count)
    for row in range(rows):
        if row % codes_per_lookup == 0:
            np.right_shift(position, 5, out=index)
            # "clip": positions in a damaged lane may lie beyond the data; the comparison below reports them.
            words.take(index, out=window, mode="clip")
            np.bitwise_and(unsigned, np.uint64(31), out=shift)
            np.right_shift(window, shift, out=window)
        if row == rows - 1 and (longer := count % lane_count):
            # Only the first lanes have a symbol in the last row.
            unsigned, window, code, length = unsigned[:longer], window[:longer], code[:longer], length[:longer]
        np.bitwise_and(window.view(np.int64), code_mask, out=code)
        symbols.take(code, out=decoded[row * lane_count : (row + 1) * lane_count], mode="clip")
        code_lengths.take(code, out=length, mode="clip")
        np.right_shift(window, length, out=window)
        np.add(unsigned, length, out=unsigned)
    # `start` has moved in place with `position`, to the bit after each lane's last code.
    if not np.array_equal(start, ends):
        raise CodecError("a lane of codes does not end where the next one begins")
    return decoded


def _chain(data: np.ndarray, symbols: np.ndarray, lengths: np.ndarray, count: int) -> np.ndarray:
    """Decodes codes that follow one another, block by block, by pointer doubling.

    At every bit of a block the code that would begin there is looked up, whether one does or not: that says where
    the next code would begin. Composing this jump with itself gives the jump over 2, 4, ... 32 codes; a short walk
    in steps of 32 codes finds some true beginnings, and the smaller jumps fill in those between.
    """
    longest_stream = count * (lengths.size.bit_length() - 1)
    if data.size > (longest_stream + 7) // 8:
        raise CodecError(f"{count} codes take at most {longest_stream} bits, got {data.size} bytes")
    octets = min(_OCTETS, data.size)
    padded = np.concatenate([data, np.zeros(octets + 2, np.uint8)]).astype(np.uint32)
    # 24 bits from each byte on: 15 bits of a code that begins at up to bit 7.
    window = padded[:-2] | padded[1:-1] << 8 | padded[2:] << 16
    block, code_mask, code_lengths = 8 * octets, np.int64(lengths.size - 1), lengths.astype(np.int64)
    code, bit_offsets = np.empty((octets, 8), np.int64), np.arange(8, dtype=np.uint32)
    # jumps[k][i] is where the code begins that comes 2^k codes after the one at bit i of the block. A position
    # beyond the block leads to itself, so that a jump stops at the first code of the next block.
    jumps = np.empty((_LEVELS + 1, block + 15), np.int64)
    stay = np.arange(block + 15)
    decoded, done, position = np.empty(count, symbols.dtype), 0, 0
    for first in range(0, data.size, octets):
        np.right_shift(window[first : first + octets, None], bit_offsets, out=code, casting="unsafe")
        np.bitwise_and(code, code_mask, out=code)
        code_at_bit = code.reshape(-1)
        jumps[0] = stay
        jumps[0, :block] += code_lengths.take(code_at_bit, mode="clip")
        for near, far in itertools.pairwise(jumps):
            near.take(near, out=far, mode="clip")
        starts, longest_jump = [], jumps[-1]
        while position < block:
            starts.append(position)
            position = int(longest_jump[position])
        begins = np.array(starts)
        for jump in jumps[-2::-1]:
            begins = np.stack([begins, jump.take(begins, mode="clip")], axis=1).reshape(-1)
        begins = begins[: min(int(np.searchsorted(begins, block)), count - done)]
        decoded[done : done + begins.size] = symbols.take(code_at_bit.take(begins))
        done += begins.size
        if done == count:
            _check_end(data, 8 * first + int(jumps[0, begins[-1]]))
            return decoded
        position -= block
    raise CodecError(f"a stream of {count} codes ends too early")
