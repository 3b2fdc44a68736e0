"""Symbols (indices of a codebook, codes of integers, gaps) in fixed width or Huffman-coded, whichever is shorter.

Before Huffman codes stands a table of their lengths. Neighbouring entries of a sorted codebook, and neighbouring
gaps, occur about as often, and their codes have about the same length: most tables hold small steps.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jopt.codec import bits, huffman
from jopt.codec.container import CodecError, Cursor

LARGEST_CODED = 4096
"""Symbols of the largest alphabet that is Huffman-coded."""

_FIXED, _STEPS, _RUNS = "00", "01", "10"


class Candidate(NamedTuple):
    """A way to encode something.

    The length is known from counts before any bytes exist, so that only the shortest candidate is built.

    Attributes:
      least: bytes it takes at least; exactly these unless the stream has lanes.
      build: returns the bytes.
    """

    least: int
    build: Callable[[], bytes]

    def after(self, head: bytes) -> "Candidate":
        """The same bytes after `head`."""
        return Candidate(len(head) + self.least, lambda: head + self.build())


def shortest(candidates: Sequence[Candidate]) -> bytes:
    """The bytes of the shortest candidate; of equally long ones the first by `least`, then in order.

    Example:
      >>> shortest([Candidate(3, lambda: b"abc"), Candidate(1, lambda: b"12345"), Candidate(4, lambda: 1 / 0)])
      b'abc'
    """
    best: bytes | None = None
    for candidate in sorted(candidates, key=lambda c: c.least):
        # The bound of all that follow is no lower.
        if best is not None and len(best) <= candidate.least:
            break
        encoded = candidate.build()
        if best is None or len(encoded) < len(best):
            best = encoded
    assert best is not None, "there must be a candidate"
    return best


def width(alphabet: int) -> int:
    """Bits that distinguish so many symbols.

    Example:
      >>> [width(n) for n in (0, 1, 2, 15, 16, 17)]
      [0, 0, 1, 4, 4, 5]
    """
    return max(alphabet - 1, 0).bit_length()


def fixed(symbols: Callable[[], np.ndarray], number: int, alphabet: int) -> Candidate:
    """`number` symbols of `width(alphabet)` bits."""
    return Candidate(bits.size(number, width(alphabet)), lambda: bits.pack(symbols(), width(alphabet)))


def coded(symbols: Callable[[], np.ndarray], counts: np.ndarray) -> Candidate | None:
    """A table of code lengths and the codes; None if the alphabet is too large."""
    if counts.size > LARGEST_CODED:
        return None
    # Lengths are made now, for the bound, and codes only if this candidate is built.
    lengths = huffman.lengths(counts)
    codes = Candidate(huffman.least_bytes(counts, lengths), lambda: huffman.encode(symbols(), lengths))
    return codes.after(pack_lengths(lengths))


def read_fixed(cursor: Cursor, number: int, alphabet: int) -> np.ndarray:
    """Reads `number` symbols of fixed width: uint8, or uint16 for more than 256 symbols.

    Raises:
      CodecError: if there are fewer, or one is outside of the alphabet.
    """
    symbols = bits.unpack(cursor.take(bits.size(number, width(alphabet))), width(alphabet), number)
    # Every word is a symbol where the alphabet is a power of two.
    if number and alphabet & (alphabet - 1) and int(symbols.max()) >= alphabet:
        raise cursor.error(f"a symbol must be below {alphabet}, got {int(symbols.max())}")
    return symbols


def read_table(cursor: Cursor, alphabet: int) -> np.ndarray:
    """Reads a table of code lengths.

    Raises:
      CodecError: if it is none, or the alphabet is too large.
    """
    if alphabet > LARGEST_CODED:
        raise cursor.error(f"an alphabet that is Huffman-coded has at most {LARGEST_CODED} symbols, got {alphabet}")
    lengths, used = unpack_lengths(cursor.buffer[cursor.position :], alphabet)
    cursor.take(used)
    return lengths


def pack_lengths(lengths: np.ndarray) -> bytes:
    """The table of code lengths, in the shortest of three forms; nothing for an alphabet of one.

    `00` and two bits n: each length in n + 1 bits. `01`: the first length in 4 bits, then the step to each next
    one: `0` for no step, else |d| ones, `0` and the sign. `10`: the runs of symbols that occur and that do not, in
    Elias's gamma code after a bit that says which comes first; then the lengths of those that occur, as in `01`.

    Args:
      lengths: (alphabet,) of 0 to 15.

    Returns:
      The bytes; the size of the alphabet is not among them.

    Example:
      >>> pack_lengths(np.array([5, 4, 3, 2, 2, 2, 4, 5], np.uint8)).hex()
      '56486d'
    """
    values = [int(n) for n in np.asarray(lengths)]
    if values and (min(values) < 0 or max(values) > huffman.LIMIT):
        raise ValueError(f"lengths must be 0 to {huffman.LIMIT}, got {min(values)} to {max(values)}")
    if len(values) < 2:
        return b""
    width = max(1, max(values).bit_length())
    fixed = _FIXED + f"{width - 1:02b}" + "".join(f"{n:0{width}b}" for n in values)
    # A symbol that does not occur has the length 0, far from its neighbours': runs keep these steps out.
    used = [n for n in values if n]
    if len(used) == len(values):
        stepped = _STEPS + _steps(values)
    else:
        runs = [f"{len(list(run)):b}" for _, run in itertools.groupby(values, bool)]
        gamma = "".join("0" * (len(run) - 1) + run for run in runs)
        stepped = _RUNS + str(int(values[0] > 0)) + gamma + _steps(used)
    bits = min(fixed, stepped, key=len)
    return np.packbits(np.frombuffer(bits.encode(), np.uint8) - ord("0")).tobytes()


def _steps(values: list[int]) -> str:
    if not values:
        return ""
    steps = (b - a for a, b in itertools.pairwise(values))
    return f"{values[0]:04b}" + "".join("1" * abs(d) + "0" + (str(int(d > 0)) if d else "") for d in steps)


def unpack_lengths(buffer: bytes | memoryview | np.ndarray, alphabet: int) -> tuple[np.ndarray, int]:
    """The lengths that `pack_lengths` packed.

    Args:
      buffer: begins with the table; the rest is not read.
      alphabet: number of symbols.

    Returns:
      (alphabet,) uint8 lengths, and the number of bytes of the table.

    Raises:
      CodecError: if the buffer ends too early or does not hold `alphabet` lengths of 0 to 15 in one of the forms.

    Example:
      >>> unpack_lengths(bytes.fromhex("56486dffff"), 8)
      (array([5, 4, 3, 2, 2, 2, 4, 5], dtype=uint8), 3)
    """
    if alphabet < 0 or alphabet > 1 << 16:
        raise CodecError(f"an alphabet must have 0 to 65536 symbols, got {alphabet}")
    if alphabet < 2:
        return np.zeros(alphabet, np.uint8), 0
    # No form takes more than 32 bits a symbol: two for its run, and 30 for a step of 15.
    data = np.frombuffer(buffer, np.uint8)[: 8 + 4 * alphabet]
    table = _TableReader((np.unpackbits(data) + np.uint8(ord("0"))).tobytes().decode())
    form = table.read("[01]{2}")
    if form == _FIXED:
        width = table.number(2) + 1
        values = [table.number(width) for _ in range(alphabet)]
    elif form == _STEPS:
        values = table.steps(alphabet)
    elif form == _RUNS:
        occurs = table.runs(alphabet)
        used = iter(table.steps(sum(occurs)))
        values = [next(used) if flag else 0 for flag in occurs]
    else:
        raise CodecError(f"a table of code lengths must begin with 00, 01 or 10, got {form}")
    table.read(f"0{{{-table.position % 8}}}")  # the bits that fill the last byte
    return np.array(values, np.uint8), table.position // 8


class _TableReader:
    """Reads a table of code lengths from its bits, as a text of 0 and 1."""

    def __init__(self, bits: str):
        self._bits, self.position = bits, 0

    def read(self, pattern: str) -> str:
        """The bits at the position that match a regular expression."""
        match = re.compile(pattern).match(self._bits, self.position)
        if match is None:
            raise CodecError(f"a table of code lengths ends too early or is damaged at bit {self.position}")
        self.position = match.end()
        return match[0]

    def number(self, width: int) -> int:
        """An integer of `width` bits."""
        return int(self.read(f"[01]{{{width}}}"), 2)

    def steps(self, count: int) -> list[int]:
        """`count` lengths, each but the first as its step from the one before."""
        if not count:
            return []
        values = [self.number(4)]
        while len(values) < count:
            step = self.read("0|1{1,15}0[01]")
            values.append(values[-1] + step[:-1].count("1") * (1 if step[-1] == "1" else -1))
            if not 0 <= values[-1] <= huffman.LIMIT:
                raise CodecError(f"a code length must be 0 to {huffman.LIMIT}, got {values[-1]}")
        return values

    def runs(self, count: int) -> list[bool]:
        """For each of `count` symbols whether it occurs."""
        occurs, flags = self.read("[01]") == "1", []
        while len(flags) < count:
            digits = len(self.read("0{0,16}1")) - 1
            run = 1 << digits | (self.number(digits) if digits else 0)
            # Checked before the run is expanded: 33 bits could claim 2^17 symbols.
            if run > count - len(flags):
                raise CodecError(f"runs of code lengths must end at {count}, got {len(flags) + run}")
            flags.extend([occurs] * run)
            occurs = not occurs
        return flags
