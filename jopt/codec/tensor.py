"""A tensor's section: its bytes in the encoding that is shortest.

The first byte says which: bits 0 and 1 which elements are held (`positions`: all, or what is not +0.0 by gaps,
coded gaps or a bitmask), bits 2 and 3 what they are held as (raw, codebook, integers), bit 4 whether the symbols of
a codebook or of integers are Huffman-coded. Positions follow, then the values.
"""

import functools
from collections.abc import Callable

import numpy as np

from jopt.codec import huffman as huffman_code
from jopt.codec import narrow, positions, scales, symbols
from jopt.codec.cursor import signed, varint
from jopt.codec.distinct import LIMIT, distinct, indices
from jopt.codec.dtypes import bits_of
from jopt.codec.integers import Integers
from jopt.codec.shortest import Candidate, shortest

RAW, CODEBOOK, INTEGERS = range(3)
CODED = 16
_LARGE = 1 << 16


def encode(
    array: np.ndarray, quantized: Integers | None = None, *, huffman: bool = True, shared: bool = True
) -> bytes:
    """The section of an array.

    Args:
      array: [any shape], contiguous, of a dtype in `jopt.codec.dtypes.NAMES`.
      quantized: its integers, in which it is then held; or None.
      huffman: whether Huffman codes may be used.
      shared: whether a codebook or a narrower dtype may be used.

    Returns:
      The bytes.

    Example:
      >>> encode(np.float32([[0.0, 0.5], [0.5, 0.5]])).hex()      # bitmap 1110, a codebook of one float16
      '070e010a0038'
    """
    return shortest(candidates(array, quantized, huffman, shared))


def candidates(array: np.ndarray, quantized: Integers | None, huffman: bool, shared: bool) -> list[Candidate]:
    """The ways to write an array's section, of which at least one is the shortest."""
    flat = array.reshape(-1)
    if not flat.size or flat.dtype.itemsize > 8:
        return [Candidate(0, lambda: bytes([positions.ALL | RAW << 2]) + narrow.pack(flat, huffman))]
    patterns = bits_of(flat)
    kept = int(np.count_nonzero(patterns))
    # What a zero left out saves at most against the one bit that a gap takes at least. (All gaps can be equal and
    # take none; then few zeros are lost, in a large tensor.)
    where = None
    if kept < flat.size and not (kept > _LARGE and 8 * flat.dtype.itemsize * (flat.size - kept) < kept):
        where = np.flatnonzero(patterns)
    if quantized is not None:
        values = _integers(quantized, huffman)
    else:
        values = _values(flat, where, huffman) if shared else _raw(flat, huffman)
    out = [_section(positions.ALL, held, None, value) for held, value in values(None)]
    if where is None:
        return out
    places = {kind: _once(place) for kind, place in positions.candidates(where, flat.size, huffman).items()}
    sparse = [(held, _once(value)) for held, value in values(where)]
    return out + [_section(kind, held, place, value) for kind, place in places.items() for held, value in sparse]


_Values = Callable[[np.ndarray | None], list[tuple[int, Candidate]]]


def _section(kind: int, held: int, place: Candidate | None, value: Candidate) -> Candidate:
    first = bytes([kind | held])
    if place is None:
        return Candidate(1 + value.least, lambda: first + value.build())
    return Candidate(1 + place.least + value.least, lambda: first + place.build() + value.build())


def _once(candidate: Candidate) -> Candidate:
    """Several sections share a part; it is built once."""
    return Candidate(candidate.least, functools.cache(candidate.build))


def _raw(flat: np.ndarray, huffman: bool) -> _Values:
    return lambda at: [_plain(flat, at, flat.dtype.name, huffman)]


def _plain(flat: np.ndarray, at: np.ndarray | None, name: str, huffman: bool) -> tuple[int, Candidate]:
    part = flat if at is None else flat[at]
    return RAW << 2, Candidate(narrow.least(part, name, huffman), lambda: narrow.packed_as(part, name, huffman))


def _values(flat: np.ndarray, where: np.ndarray | None, huffman: bool) -> _Values:
    """Values as they are, or as a codebook; `where` they are not +0.0 (None: not asked)."""
    # What most elements are is looked at once: all, or what is left of a sparse tensor.
    few = where is not None and 2 * where.size < flat.size
    seen = flat[where] if few else flat
    name = narrow.narrowest(seen)
    entries = distinct(seen, min(LIMIT, max(flat.size // 2, 1)))
    if entries is None or not entries.size:
        return lambda at: [_plain(flat, at, name, huffman)]
    chosen = indices(seen, entries)
    counts = huffman_code.count(chosen, entries.size)

    def shared(
        entries: np.ndarray, counts: np.ndarray, get: Callable[[], np.ndarray]
    ) -> list[tuple[int, Candidate]]:
        head = varint(entries.size) + narrow.pack(entries, huffman)
        return _symbols(CODEBOOK, head, get, counts, huffman)

    def values(at: np.ndarray | None) -> list[tuple[int, Candidate]]:
        plain = _plain(flat, at, name, huffman)
        if few == (at is not None):
            return [plain, *shared(entries, counts, lambda: chosen)]
        if few:
            whole = distinct(np.append(entries, np.zeros(1, flat.dtype)))
            assert whole is not None
            with_zero = np.insert(counts, _zero(whole), flat.size - seen.size)
            return [plain, *shared(whole, with_zero, lambda: indices(flat, whole))]
        zero = _zero(entries)

        def without() -> np.ndarray:
            part = chosen[at]
            return part - (part > zero)

        return [plain, *shared(np.delete(entries, zero), np.delete(counts, zero), without)]

    return values


def _zero(entries: np.ndarray) -> int:
    """Which entry +0.0 is."""
    return int(np.flatnonzero(bits_of(entries) == 0)[0])


def _integers(quantized: Integers, huffman: bool) -> _Values:
    codes, head = quantized.codes.reshape(-1), scales.pack(quantized, huffman)
    unsigned = np.dtype(f"u{codes.dtype.itemsize}")

    def values(at: np.ndarray | None) -> list[tuple[int, Candidate]]:
        part = codes if at is None else codes[at]
        if not part.size:
            return [(INTEGERS << 2, Candidate(len(head), lambda: head))]
        if at is not None and quantized.spec.symmetric:
            # The code 0 stands for what is left out.
            part = part - (part > 0)
        first = int(part.min())
        # Modulo 2^8 or 2^16, as the difference of two codes may not fit their dtype.
        offsets = part.view(unsigned) - np.array(first).astype(codes.dtype).view(unsigned)
        counts = huffman_code.count(offsets, int(part.max()) - first + 1)
        start = head + signed(first) + varint(counts.size)
        return _symbols(INTEGERS, start, lambda: offsets, counts, huffman)

    return values


def _symbols(
    held: int, head: bytes, get: Callable[[], np.ndarray], counts: np.ndarray, huffman: bool
) -> list[tuple[int, Candidate]]:
    ways = [(held << 2, symbols.fixed(get, int(counts.sum()), counts.size))]
    if huffman and (coded := symbols.coded(get, counts)):
        ways.append((held << 2 | CODED, coded))
    return [(form, _after(head, way)) for form, way in ways]


def _after(head: bytes, candidate: Candidate) -> Candidate:
    return Candidate(len(head) + candidate.least, lambda: head + candidate.build())
