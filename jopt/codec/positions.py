"""Which elements of a tensor are not zero: a bitmask, or gaps of fixed width or Huffman-coded."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jopt.codec import bits, gaps, symbols
from jopt.codec.cursor import Cursor, varint
from jopt.codec.shortest import Candidate

ALL, GAPS, CODED_GAPS, MASK = range(4)
_WIDEST, _WIDEST_CODED = 16, 12
_SMALL, _BLOCK = 1 << 16, 1 << 18
_POSITION, _ENTRY = 9, 28  # bytes of memory while an element of a bitmap, or a gap, is read.


class Runs(NamedTuple):
    """The zeros before each value, counted: `zeros[i]` of them come `times[i]` times."""

    zeros: np.ndarray
    times: np.ndarray

    def codes(self, width: int) -> np.ndarray:
        """How often each gap code of `width` bits occurs; the last is the filler.

        Example:
          >>> Runs(np.array([0, 2, 5]), np.array([1, 4, 1])).codes(2)
          array([1, 0, 5, 1])
        """
        filler = (1 << width) - 1
        out = np.zeros(filler + 1, np.int64)
        np.add.at(out, self.zeros % filler, self.times)
        out[filler] = np.dot(self.zeros // filler, self.times)
        return out

    def fillers(self, width: int) -> int:
        """How many fillers there are in gaps of `width` bits."""
        return int(np.dot(self.zeros // ((1 << width) - 1), self.times))


def count_runs(positions: np.ndarray) -> Runs:
    """The runs of zeros before `positions`.

    Example:
      >>> count_runs(np.array([2, 3, 9, 12]))
      Runs(zeros=array([0, 2, 5]), times=array([1, 2, 1]))
    """
    short, long = np.zeros(_SMALL, np.int64), []
    # By blocks, which stay in the cache.
    for start in range(0, positions.size, _BLOCK):
        zeros = np.diff(positions[start : start + _BLOCK], prepend=positions[start - 1] if start else -1) - 1
        # Long runs are few: a tensor has no room for many.
        if int(zeros.max()) >= _SMALL:
            long.append(zeros[zeros >= _SMALL])
            zeros = zeros[zeros < _SMALL]
        counts = np.bincount(zeros)
        short[: counts.size] += counts
    some, times = np.unique(np.concatenate([np.empty(0, np.int64), *long]), return_counts=True)
    occur = np.flatnonzero(short)
    return Runs(np.concatenate([occur, some]), np.concatenate([short[occur], times]))


def best_width(runs: Runs) -> int:
    """The width of gaps of fixed width that takes the fewest bits.

    Example:
      >>> best_width(Runs(np.array([0, 2, 5]), np.array([1, 4, 1])))
      2
    """
    kept = int(runs.times.sum())
    return min(range(1, _WIDEST + 1), key=lambda w: w * (kept + runs.fillers(w)))


def candidates(positions: np.ndarray, size: int, huffman: bool) -> dict[int, Candidate]:
    """The ways to write the positions of what is not zero, by kind."""
    runs = count_runs(positions)
    kept = varint(positions.size)
    if not positions.size:
        return {GAPS: Candidate(len(kept), lambda: kept)}
    width = best_width(runs)
    out = {GAPS: _fixed(positions, size, width, positions.size + runs.fillers(width), kept)}
    if huffman:
        # Wider gaps than the longest run needs are all the same.
        widest = min(int(runs.zeros.max()).bit_length() + 1, _WIDEST_CODED)
        coded = (_coded(positions, size, w, runs, kept) for w in range(1, widest + 1))
        out[CODED_GAPS] = min(coded, key=lambda c: c.least)
    out[MASK] = Candidate(bits.size(size, 1), lambda: bits.pack(_mask(positions, size), 1))
    return out


def _fixed(positions: np.ndarray, size: int, width: int, entries: int, kept: bytes) -> Candidate:
    head = kept + bytes([width]) + varint(entries)
    return Candidate(
        len(head) + bits.size(entries, width),
        lambda: head + bits.pack(gaps.split(positions, size, width)[0], width),
    )


def _coded(positions: np.ndarray, size: int, width: int, runs: Runs, kept: bytes) -> Candidate:
    counts = runs.codes(width)
    alphabet = int(np.flatnonzero(counts)[-1]) + 1
    head = kept + bytes([width]) + varint(int(counts.sum())) + varint(alphabet - 1)
    coded = symbols.coded(lambda: gaps.split(positions, size, width)[0], counts[:alphabet])
    assert coded is not None

    def build() -> bytes:
        stream = coded.build()
        return head + varint(len(stream)) + stream

    return Candidate(len(head) + len(varint(coded.least)) + coded.least, build)


def _mask(positions: np.ndarray, size: int) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[positions] = 1
    return mask


class Found(NamedTuple):
    """Positions that were read: `positions`, ascending; and the bytes of their ledger."""

    positions: np.ndarray
    bytes: dict[str, int]


def read(cursor: Cursor, kind: int, size: int, room: Callable[[int], None]) -> Found:
    """Reads positions of a tensor of `size` elements; `room` raises where there is none for as many bytes.

    Raises:
      CodecError: if they are not that.
    """
    start = cursor.position
    if kind == MASK:
        room(_POSITION * size)
        mask = bits.unpack(cursor.take(bits.size(size, 1)), 1, size)
        return Found(np.flatnonzero(mask), {"gaps": cursor.position - start})
    kept = cursor.varint("the number of values", largest=size)
    if not kept:
        return Found(np.zeros(0, np.int64), {"gaps": cursor.position - start})
    width = cursor.byte()
    if not 1 <= width <= (_WIDEST if kind == GAPS else _WIDEST_CODED):
        raise cursor.fail(f"the width of gaps must lie in 1 to {_WIDEST}, got {width}")
    # An entry is a value or bridges a zero at least.
    entries = cursor.varint("the number of gaps", largest=size)
    room(_ENTRY * entries)
    tables = 0
    if kind == GAPS:
        codes = symbols.read_fixed(cursor, entries, 1 << width)
    else:
        alphabet = cursor.varint("the largest gap", largest=(1 << width) - 1) + 1
        stream = Cursor(cursor.take(cursor.varint("the length of the gaps", largest=cursor.left)), cursor.name)
        lengths = symbols.read_table(stream, alphabet)
        tables = stream.position
        codes = symbols.read_coded(stream, lengths, entries, stream.left)
    positions = gaps.join(codes, width, size, kept)
    total = cursor.position - start - tables
    # Fillers and gaps share one stream; a filler's part is what it takes in whole bytes.
    filler = _filler_bits(codes, width, None if kind == GAPS else lengths) // 8
    return Found(positions, {"gaps": total - filler, "filler": filler, "tables": tables})


def _filler_bits(codes: np.ndarray, width: int, lengths: np.ndarray | None) -> int:
    filler = (1 << width) - 1
    count = int(np.count_nonzero(codes == filler))
    if lengths is None:
        return count * width
    return count * int(lengths[filler]) if filler < lengths.size and np.count_nonzero(lengths) > 1 else 0
