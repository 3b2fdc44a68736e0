"""Which elements of a tensor are not zero: a bitmap, or the zeros before each, in fixed width or Huffman-coded.

Han, Mao and Dally 2016 (Deep Compression), section 2, put an extra zero among the values where a distance does not
fit into a gap, so that a filler costs a gap and a value. Here the largest gap code is the filler: it stands for
`2**width - 1` zeros and no value, and costs a gap alone.
"""

from typing import NamedTuple

import numpy as np

from jopt.codec import bits, symbols
from jopt.codec import huffman as huffman_code
from jopt.codec.container import Budget, CodecError, Cursor, varint
from jopt.codec.symbols import Candidate

ALL, GAPS, CODED_GAPS, MASK = range(4)

_WIDEST, _WIDEST_CODED = 16, 12
_SHORT_RUN, _BLOCK = 1 << 16, 1 << 18
# Bytes of memory while one element of a bitmap, or one gap, is read.
_BITMAP_MEMORY, _GAP_MEMORY = 9, 28


class Runs(NamedTuple):
    """The runs of zeros before each value, counted: `times[i]` of them have `zeros[i]` zeros.

    The length of every encoding follows from these counts, without its gaps.
    """

    zeros: np.ndarray
    times: np.ndarray

    def codes(self, width: int) -> np.ndarray:
        """How often each gap code of `width` bits occurs; the last is the filler.

        Example:
          >>> Runs(np.array([0, 2, 5]), np.array([10, 20, 30])).codes(2)  # 5 is a filler of 3, and 2
          array([10,  0, 50, 30])
        """
        filler = _filler(width)
        counts = np.zeros(filler + 1, np.int64)
        np.add.at(counts, self.zeros % filler, self.times)
        counts[filler] = self.fillers(width)
        return counts

    def fillers(self, width: int) -> int:
        """How many fillers there are in gaps of `width` bits."""
        return int(np.dot(self.zeros // _filler(width), self.times))


def count_runs(positions: np.ndarray) -> Runs:
    """The runs of zeros before `positions`, which ascend.

    Example:
      >>> count_runs(np.array([2, 3, 9, 12]))
      Runs(zeros=array([0, 2, 5]), times=array([1, 2, 1]))
    """
    counts, long_runs = np.zeros(_SHORT_RUN, np.int64), []
    for start in range(0, positions.size, _BLOCK):
        before = positions[start - 1] if start else -1
        zeros = np.diff(positions[start : start + _BLOCK], prepend=before) - 1
        # Long runs would need a large table; a tensor has room for few of them.
        if int(zeros.max()) >= _SHORT_RUN:
            long_runs.append(zeros[zeros >= _SHORT_RUN])
            zeros = zeros[zeros < _SHORT_RUN]
        block_counts = np.bincount(zeros)
        counts[: block_counts.size] += block_counts
    long_zeros, long_times = np.unique(np.concatenate([np.empty(0, np.int64), *long_runs]), return_counts=True)
    occur = np.flatnonzero(counts)
    return Runs(np.concatenate([occur, long_zeros]), np.concatenate([counts[occur], long_times]))


def best_width(runs: Runs) -> int:
    """The fixed width of gaps that takes the fewest bits.

    Example:
      >>> best_width(Runs(np.array([0, 2, 5]), np.array([1, 4, 1])))
      2
    """
    number = int(runs.times.sum())
    return min(range(1, _WIDEST + 1), key=lambda w: w * (number + runs.fillers(w)))


def to_gaps(positions: np.ndarray, size: int, width: int) -> np.ndarray:
    """The gap codes of positions.

    A run of z zeros before a value is z // F times the filler F = 2^width - 1 and then z mod F. The zeros after the
    last value have no code: they follow from the size.

    Args:
      positions: (n,) integers, ascending, below `size`.
      size: elements of the tensor.
      width: bits of a gap, 1 to 16.

    Returns:
      (m,) codes, uint8 up to 8 bits, else uint16.

    Raises:
      ValueError: if the positions do not ascend within the tensor, or the width is out of range.

    Example:
      >>> to_gaps(np.array([2, 3, 9]), 12, 2)
      array([2, 0, 3, 2], dtype=uint8)
    """
    filler, positions = _filler(width), np.asarray(positions)
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        raise ValueError(f"positions must be a vector of integers, got {positions.dtype}, {positions.shape}")
    zeros = np.diff(positions.astype(np.int64, copy=False), prepend=-1)
    zeros -= 1
    if zeros.size and (zeros.min() < 0 or positions[-1] >= size):
        raise ValueError(f"positions must ascend from 0 and stay below {size}")
    dtype = np.uint8 if width <= 8 else np.uint16
    if not zeros.size or zeros.max() < filler:
        return zeros.astype(dtype)
    fillers = zeros // filler
    ends = np.cumsum(fillers + 1) - 1
    codes = np.full(int(ends[-1]) + 1, filler, dtype)
    codes[ends] = zeros - fillers * filler
    return codes


def from_gaps(codes: np.ndarray, width: int, size: int, count: int | None = None) -> np.ndarray:
    """The positions of gap codes.

    Args:
      codes: (m,) as `to_gaps` returns them.
      width: bits of a gap, 1 to 16.
      size: elements of the tensor.
      count: number of positions, if it is known.

    Returns:
      (n,) int64 positions, ascending.

    Raises:
      CodecError: if a code is above the filler, the last code is a filler, a position is outside of the tensor, or
        the number of positions is not `count`.

    Example:
      >>> from_gaps(np.array([2, 0, 3, 2], np.uint8), 2, 12)
      array([2, 3, 9])
    """
    filler, codes = _filler(width), np.asarray(codes)
    if codes.size and int(codes.max()) > filler:
        raise CodecError(f"a gap of {width} bits must be below {filler + 1}, got {int(codes.max())}")
    is_value = codes != filler
    # The zeros up to each gap; a position is as far on again as there are values before it.
    positions = np.cumsum(codes, dtype=np.int64)
    if codes.size and not is_value[-1]:
        raise CodecError("the last gap must not be a filler")
    if not is_value.all():
        positions = positions[is_value]
    positions += np.arange(positions.size)
    if count is not None and positions.size != count:
        raise CodecError(f"{count} values need as many gaps, got {positions.size}")
    if positions.size and positions[-1] >= size:
        raise CodecError(f"a position must be below {size}, got {positions[-1]}")
    return positions


def _filler(width: int) -> int:
    if not 1 <= width <= _WIDEST:
        raise ValueError(f"the width of a gap must be 1 to {_WIDEST}, got {width}")
    return (1 << width) - 1


def candidates(positions: np.ndarray, size: int, huffman: bool) -> dict[int, Candidate]:
    """The ways to encode the positions of what is not zero, by kind."""
    runs = count_runs(positions)
    number = varint(positions.size)
    if not positions.size:
        return {GAPS: Candidate(len(number), lambda: number)}
    width = best_width(runs)
    ways = {GAPS: _fixed(positions, size, width, positions.size + runs.fillers(width)).after(number)}
    if huffman:
        # In gaps wider than the longest run nothing changes.
        widest = min(int(runs.zeros.max()).bit_length() + 1, _WIDEST_CODED)
        coded = (_coded(positions, size, w, runs).after(number) for w in range(1, widest + 1))
        # By their bounds: twelve streams would be built otherwise.
        ways[CODED_GAPS] = min(coded, key=lambda c: c.least)
    ways[MASK] = Candidate(bits.size(size, 1), lambda: bits.pack(_bitmap(positions, size), 1))
    return ways


def _fixed(positions: np.ndarray, size: int, width: int, entries: int) -> Candidate:
    gaps = symbols.fixed(lambda: to_gaps(positions, size, width), entries, 1 << width)
    return gaps.after(bytes([width]) + varint(entries))


def _coded(positions: np.ndarray, size: int, width: int, runs: Runs) -> Candidate:
    counts = runs.codes(width)
    alphabet = int(np.flatnonzero(counts)[-1]) + 1
    coded = symbols.coded(lambda: to_gaps(positions, size, width), counts[:alphabet])
    assert coded is not None, "gaps of at most 12 bits have at most 4096 codes"

    def build() -> bytes:
        stream = coded.build()
        return varint(len(stream)) + stream

    head = bytes([width]) + varint(int(counts.sum())) + varint(alphabet - 1)
    return Candidate(len(varint(coded.least)) + coded.least, build).after(head)


def _bitmap(positions: np.ndarray, size: int) -> np.ndarray:
    bitmap = np.zeros(size, np.uint8)
    bitmap[positions] = 1
    return bitmap


def read(cursor: Cursor, kind: int, size: int, budget: Budget) -> np.ndarray:
    """Reads the positions of a tensor of `size` elements, ascending, and charges their bytes.

    Raises:
      CodecError: if the bytes are not positions, or there is no memory for them.
    """
    if kind == MASK:
        budget.check(_BITMAP_MEMORY * size)
        bitmap = bits.unpack(cursor.take(bits.size(size, 1)), 1, size)
        cursor.charge("gaps")
        return np.flatnonzero(bitmap)
    number = cursor.varint("the number of values", largest=size)
    if not number:
        cursor.charge("gaps")
        return np.zeros(0, np.int64)
    width, widest = cursor.byte(), _WIDEST if kind == GAPS else _WIDEST_CODED
    if not 1 <= width <= widest:
        raise cursor.error(f"the width of gaps must be 1 to {widest}, got {width}")
    # A gap is a value, or skips at least one zero. A lone code takes no bits, so that the bytes set no limit.
    entries = cursor.varint("the number of gaps", largest=size)
    budget.check(_GAP_MEMORY * entries)
    filler, filler_bits, table_bytes = (1 << width) - 1, width, 0
    if kind == GAPS:
        codes = symbols.read_fixed(cursor, entries, 1 << width)
    else:
        alphabet = cursor.varint("the largest gap", largest=filler) + 1
        length = cursor.varint("the length of the gaps", largest=cursor.remaining)
        # A cursor of its own: a damaged table must not reach into the values.
        stream = Cursor(cursor.take(length), cursor.name)
        lengths = symbols.read_table(stream, alphabet)
        table_bytes = stream.position
        codes = huffman_code.decode(stream.take(stream.remaining), lengths, entries)
        filler_bits = int(lengths[filler]) if filler < alphabet and np.count_nonzero(lengths) > 1 else 0
    positions = from_gaps(codes, width, size, number)
    cursor.charge("gaps")
    # Fillers and gaps share one stream: a filler's part is rounded down to bytes.
    filler_bytes = int(np.count_nonzero(codes == filler)) * filler_bits // 8
    cursor.spent["gaps"] -= filler_bytes + table_bytes
    cursor.spent |= {"filler": filler_bytes, "tables": table_bytes}
    return positions
