"""A tensor's section: its bytes in the shortest encoding, and back.

The first byte names the encoding: bits 0 and 1 which elements are in the section (`positions`: all, or those that
are not +0.0 by gaps, coded gaps or a bitmap), bits 2 and 3 how their values are (raw, codebook, integers), bit 4
whether the symbols of a codebook or of integers are Huffman-coded. Positions follow, then values.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jopt.codec import elements, integers, positions, symbols
from jopt.codec import huffman as huffman_code
from jopt.codec.codebook import LIMIT, distinct, indices
from jopt.codec.container import UNLIMITED, Budget, CodecError, Cursor, signed, varint
from jopt.codec.elements import bits_of, narrowest
from jopt.codec.grid import code_dtype, from_groups, spread, to_groups
from jopt.codec.integers import Integers
from jopt.codec.symbols import Candidate, shortest

RAW, CODEBOOK, INTEGERS = range(3)
CODED = 16

_LARGE = 1 << 16
_CODE_MEMORY = 8  # bytes of memory while one integer is read

Values = Callable[[np.ndarray | None], list[tuple[int, Candidate]]]
"""The ways to encode all elements (None) or those at some positions, each with its bits of the first byte."""


def encode(
    array: np.ndarray, quantized: Integers | None = None, *, huffman: bool = True, shared: bool = True
) -> bytes:
    """The section of an array.

    Args:
      array: any shape, contiguous, of a dtype in `jopt.codec.elements.NAMES`.
      quantized: its integers, if it is to be stored as integers.
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
    """The ways to encode an array's section, the shortest possible among them."""
    flat = array.reshape(-1)
    if not flat.size or flat.dtype.itemsize > 8:
        return [_section(positions.ALL, RAW << 2, None, Candidate(0, lambda: elements.pack(flat, huffman)))]
    nonzero = bits_of(flat) != 0
    where = np.flatnonzero(nonzero) if _sparse_may_pay(flat, int(np.count_nonzero(nonzero))) else None
    if quantized is not None:
        values = _integer_values(quantized, huffman)
    elif shared:
        values = _shared_values(flat, where, huffman)
    else:
        values = _raw_values(flat, flat.dtype.name, huffman)
    dense = [_section(positions.ALL, form, None, value) for form, value in values(None)]
    if where is None:
        return dense
    # A position and a value each appear in several sections, and are built once.
    ways = {kind: _once(way) for kind, way in positions.candidates(where, flat.size, huffman).items()}
    sparse = [(form, _once(value)) for form, value in values(where)]
    return dense + [_section(kind, form, way, value) for kind, way in ways.items() for form, value in sparse]


def _sparse_may_pay(flat: np.ndarray, nonzero: int) -> bool:
    """Whether the zeros left out can save more than the positions cost: at least a bit for each other element.

    (If all gaps are equal they cost nothing; but then few zeros are lost, in a large tensor.)
    """
    saved_bits = 8 * flat.dtype.itemsize * (flat.size - nonzero)
    return nonzero < flat.size and (nonzero <= _LARGE or saved_bits >= nonzero)


def _section(kind: int, form: int, where: Candidate | None, value: Candidate) -> Candidate:
    first = bytes([kind | form])
    if where is None:
        return value.after(first)
    return Candidate(1 + where.least + value.least, lambda: first + where.build() + value.build())


def _once(candidate: Candidate) -> Candidate:
    return Candidate(candidate.least, functools.cache(candidate.build))


def _raw_values(flat: np.ndarray, name: str, huffman: bool) -> Values:
    return lambda at: [(RAW << 2, elements.encoded(flat if at is None else flat[at], name, huffman))]


def _shared_values(flat: np.ndarray, where: np.ndarray | None, huffman: bool) -> Values:
    """Raw values or a codebook; `where` they are not +0.0 (None: sparse encodings are not tried)."""
    present = flat if where is None else flat[where]
    raw_values = _raw_values(flat, narrowest(present), huffman)
    # The codebook of more than half as many entries as there are elements is not tried. Where most elements are
    # not zero, zero is one of the entries.
    with_zero = where is not None and 2 * where.size >= flat.size
    limit = min(max(flat.size // 2, 1) - with_zero, LIMIT - (where is not None))
    entries = distinct(present, limit)
    if entries is None or not entries.size:
        return raw_values
    chosen = indices(present, entries)
    counts = huffman_code.count(chosen, entries.size)

    def shared(
        entries: np.ndarray, counts: np.ndarray, get: Callable[[], np.ndarray]
    ) -> list[tuple[int, Candidate]]:
        return _symbols(CODEBOOK, varint(entries.size) + elements.pack(entries, huffman), get, counts, huffman)

    def values(at: np.ndarray | None) -> list[tuple[int, Candidate]]:
        if where is None or at is not None:
            return raw_values(at) + shared(entries, counts, lambda: chosen)
        # All elements of a tensor with zeros: the codebook of the others, and zero in its place among them.
        zero = np.zeros(1, flat.dtype)
        all_entries = distinct(np.append(entries, zero))
        assert all_entries is not None
        zero_index = int(np.flatnonzero(bits_of(all_entries) == 0)[0])
        all_counts = np.insert(counts, zero_index, flat.size - where.size)

        def all_chosen() -> np.ndarray:
            dtype = np.uint8 if all_entries.size <= 256 else np.uint16
            symbols = np.full(flat.size, zero_index, dtype)
            symbols[where] = chosen.astype(dtype) + (chosen >= zero_index)
            return symbols

        return raw_values(None) + shared(all_entries, all_counts, all_chosen)

    return values


def _integer_values(quantized: Integers, huffman: bool) -> Values:
    codes, head = quantized.codes.reshape(-1), integers.pack_spec(quantized, huffman)
    unsigned = np.dtype(f"u{codes.dtype.itemsize}")

    def values(at: np.ndarray | None) -> list[tuple[int, Candidate]]:
        part = codes if at is None else codes[at]
        if not part.size:
            return [(INTEGERS << 2, Candidate(len(head), lambda: head))]
        if at is not None and quantized.spec.symmetric:
            # No code is 0 where zeros are left out: the positive ones move down by one.
            part = part - (part > 0)
        first = int(part.min())
        # Modulo 2^8 or 2^16: the difference of two codes may not fit their dtype.
        offsets = part.view(unsigned) - np.array(first).astype(codes.dtype).view(unsigned)
        counts = huffman_code.count(offsets, int(part.max()) - first + 1)
        start = head + signed(first) + varint(counts.size)
        return _symbols(INTEGERS, start, lambda: offsets, counts, huffman)

    return values


def _symbols(
    form: int, head: bytes, get: Callable[[], np.ndarray], counts: np.ndarray, huffman: bool
) -> list[tuple[int, Candidate]]:
    ways = [(form << 2, symbols.fixed(get, int(counts.sum()), counts.size).after(head))]
    if huffman and (coded := symbols.coded(get, counts)):
        ways.append((form << 2 | CODED, coded.after(head)))
    return ways


class Decoded(NamedTuple):
    """A tensor that was read.

    Attributes:
      array: the tensor.
      integers: its integers, if it is stored as integers.
      encoding: how it is stored, in words.
      bytes: kind of `jopt.codec.KINDS` to bytes of the section.
    """

    array: np.ndarray
    integers: Integers | None
    encoding: str
    bytes: dict[str, int]


def decode(cursor: Cursor, dtype: np.dtype, shape: tuple[int, ...], budget: Budget = UNLIMITED) -> Decoded:
    """Reads a section.

    Args:
      cursor: over the section.
      dtype: of the tensor.
      shape: of the tensor.
      budget: for what decoding allocates besides the tensor, which is accounted for.

    Returns:
      A `Decoded`.

    Raises:
      CodecError: if the section is not a tensor of that dtype and shape, to its last byte.
    """
    size = math.prod(shape)
    encoding = cursor.byte()
    kind, form, coded = encoding & 3, encoding >> 2 & 3, bool(encoding & CODED)
    if encoding >= 32 or form > INTEGERS or (coded and form == RAW):
        raise cursor.error(f"encoding {encoding} is unknown")
    if dtype.itemsize > 8 and encoding != positions.ALL:
        raise cursor.error(f"elements of {dtype} can only be raw, got encoding {encoding}")
    if not size and encoding != positions.ALL:
        raise cursor.error(f"an empty tensor must be raw, got encoding {encoding}")
    cursor.charge("header")
    quantized = None
    try:
        where = None if kind == positions.ALL else positions.read(cursor, kind, size, budget)
        number = size if where is None else where.size
        if form == INTEGERS:
            budget.check(_CODE_MEMORY * size)
            quantized = _read_integers(cursor, shape, where, coded, budget)
            array, values = integers.values(quantized, dtype), f"{quantized.spec.bits}-bit integers"
            if quantized.spec.symmetric and quantized.codes.min() < integers.code_bounds(quantized.spec)[0]:
                quantized = None  # old codes, of which no Spec of today has the lowest
        elif form == CODEBOOK:
            entries, chosen = _read_codebook(cursor, dtype, number, coded)
            array, values = _placed(entries[chosen], where, shape), f"codebook of {entries.size}"
        else:
            start = cursor.position
            array = _placed(elements.unpack(cursor, dtype, number), where, shape)
            values = elements.describe(cursor.buffer[start])
            cursor.charge("values")
    except CodecError as error:
        if error.where:
            raise
        # Raised by a function that knows its bits only, such as a decoder of codes.
        raise cursor.error(str(error)) from error
    cursor.end()
    sparsity = ("dense", "sparse (gaps)", "sparse (coded gaps)", "sparse (bitmap)")[kind]
    return Decoded(array, quantized, f"{sparsity}, {values}{', huffman' if coded else ''}", cursor.spent)


def _placed(part: np.ndarray, where: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor whose elements are all of `part`, or those at `where` and else 0."""
    if where is None:
        # A copy of what lies in the file's memory: every array that is returned can be written to.
        part = part if part.flags.owndata and part.flags.writeable else part.copy()
        return part.reshape(shape)
    array = np.zeros(shape, part.dtype)
    array.reshape(-1)[where] = part
    return array


def _read_codebook(cursor: Cursor, dtype: np.dtype, number: int, coded: bool) -> tuple[np.ndarray, np.ndarray]:
    count = cursor.varint("the entries of the codebook", largest=LIMIT)
    if not count:
        raise cursor.error("a codebook must have an entry")
    entries = elements.unpack(cursor, dtype, count)
    cursor.charge("codebook")
    return entries, _read_symbols(cursor, number, count, coded)


def _read_symbols(cursor: Cursor, number: int, alphabet: int, coded: bool) -> np.ndarray:
    """The symbols of the values; codes go on to the section's end."""
    if coded:
        lengths = symbols.read_table(cursor, alphabet)
        cursor.charge("tables")
        chosen = huffman_code.decode(cursor.take(cursor.remaining), lengths, number)
    else:
        chosen = symbols.read_fixed(cursor, number, alphabet)
    cursor.charge("values")
    return chosen


def _read_integers(
    cursor: Cursor, shape: tuple[int, ...], where: np.ndarray | None, coded: bool, budget: Budget
) -> Integers:
    spec, low, high, old = integers.unpack_spec(cursor, shape, budget)
    quantized = integers.build(np.zeros(shape, code_dtype(spec)), low, high, spec)
    number = math.prod(shape) if where is None else where.size
    if not spec.symmetric and where is not None:
        quantized = quantized._replace(codes=_zero_points(quantized))
    if not number:
        cursor.charge("scales")
        return quantized
    first = cursor.signed("the lowest code")
    alphabet = cursor.varint("the number of codes", largest=LIMIT)
    lowest, highest = integers.code_bounds(spec)
    lowest -= old
    # Among the codes of a sparse tensor there is no 0, and the positive ones moved down.
    moved = where is not None and spec.symmetric
    if alphabet < 1 or first < lowest or first + alphabet - 1 > highest - moved:
        raise cursor.error(f"codes must be {lowest} to {highest}, got {first} and the next {alphabet - 1}")
    cursor.charge("scales")
    codes = _read_symbols(cursor, number, alphabet, coded).astype(code_dtype(spec))
    codes += codes.dtype.type(first)
    if moved:
        codes += (codes >= 0).astype(codes.dtype)
    if where is None:
        return quantized._replace(codes=codes.reshape(shape))
    quantized.codes.reshape(-1)[where] = codes
    return quantized


def _zero_points(quantized: Integers) -> np.ndarray:
    """The codes of a tensor of zeros."""
    spec, codes = quantized.spec, quantized.codes
    points = spread(quantized.zero_point.astype(codes.dtype), spec)
    return from_groups(np.broadcast_to(points, to_groups(codes, spec).shape), codes.shape, spec).copy()
