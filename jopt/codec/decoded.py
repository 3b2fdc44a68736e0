"""A tensor from its section, and where the section's bytes went."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jopt.codec import integers, narrow, positions, scales, symbols
from jopt.codec.cursor import Cursor
from jopt.codec.distinct import LIMIT
from jopt.codec.error import CodecError
from jopt.codec.grid import Spec, code_dtype, from_groups, spread, to_groups
from jopt.codec.integers import Integers
from jopt.codec.tensor import CODEBOOK, CODED, INTEGERS, RAW

_CODE = 8  # bytes of memory while an integer is read.


class Decoded(NamedTuple):
    """A tensor that was read.

    Attributes:
      array: the tensor.
      integers: its integers, if it is held as such.
      encoding: how it is held, in words.
      bytes: kind of `jopt.codec.KINDS` to bytes of the section.
    """

    array: np.ndarray
    integers: Integers | None
    encoding: str
    bytes: dict[str, int]


def decode(
    cursor: Cursor, dtype: np.dtype, shape: tuple[int, ...], room: Callable[[int], None] = lambda count: None
) -> Decoded:
    """Reads a section.

    Args:
      cursor: over all of it.
      dtype: of the tensor.
      shape: of the tensor.
      room: raises where there is no room in memory for as many bytes; there is for the tensor.

    Returns:
      A `Decoded`.

    Raises:
      CodecError: if the section is no tensor of that dtype and shape, to its last byte.
    """
    size = math.prod(shape)
    form = cursor.byte()
    kind, held, coded = form & 3, form >> 2 & 3, bool(form & CODED)
    if form >= 32 or held > INTEGERS or (coded and held == RAW):
        raise cursor.fail(f"encoding {form} is unknown")
    if dtype.itemsize > 8 and form != positions.ALL:
        raise cursor.fail(f"elements of {dtype} can only be held raw, got encoding {form}")
    if not size and form != positions.ALL:
        raise cursor.fail(f"an empty tensor must be held raw, got encoding {form}")
    spent = {"header": 1}
    where, number = None, size
    try:
        if kind != positions.ALL:
            found = positions.read(cursor, kind, size, room)
            where, number = found.positions, found.positions.size
            _add(spent, found.bytes)
        if held == INTEGERS:
            room(_CODE * size)
            quantized, what = _integers(cursor, shape, size, where, coded, spent, room)
            array = integers.values(quantized, dtype)
            if quantized.spec.symmetric and quantized.codes.min() < _code_bounds(quantized.spec)[0]:
                quantized = None  # old codes that no Spec of today describes
        else:
            part, what = (_shared if held == CODEBOOK else _raw)(cursor, dtype, number, coded, spent)
            quantized, array = None, _placed(part, where, size).reshape(shape)
    except CodecError as error:
        if str(error).startswith(cursor.name):
            raise
        raise cursor.fail(str(error)) from error
    cursor.end()
    how = ("dense", "sparse (gaps)", "sparse (coded gaps)", "sparse (bitmap)")[kind]
    return Decoded(array, quantized, f"{how}, {what}{', huffman' if coded else ''}", spent)


def _add(spent: dict[str, int], more: dict[str, int]) -> None:
    for kind, count in more.items():
        spent[kind] = spent.get(kind, 0) + count


def _placed(part: np.ndarray, where: np.ndarray | None, size: int) -> np.ndarray:
    if where is None:
        # Not the file's memory: an array of one's own can be written to.
        return part if part.flags.owndata and part.flags.writeable else part.copy()
    out = np.zeros(size, part.dtype)
    out[where] = part
    return out


def _raw(
    cursor: Cursor, dtype: np.dtype, number: int, coded: bool, spent: dict[str, int]
) -> tuple[np.ndarray, str]:
    start = cursor.position
    part = narrow.unpack(cursor, dtype, number)
    _add(spent, {"values": cursor.position - start})
    return part, narrow.name(cursor.buffer[start])


def _shared(
    cursor: Cursor, dtype: np.dtype, number: int, coded: bool, spent: dict[str, int]
) -> tuple[np.ndarray, str]:
    start = cursor.position
    count = cursor.varint("the entries of the codebook", largest=LIMIT)
    if not count:
        raise cursor.fail("a codebook must have an entry")
    entries = narrow.unpack(cursor, dtype, count)
    _add(spent, {"codebook": cursor.position - start})
    return entries[_symbols(cursor, number, count, coded, spent)], f"codebook of {count}"


def _symbols(cursor: Cursor, number: int, alphabet: int, coded: bool, spent: dict[str, int]) -> np.ndarray:
    start = cursor.position
    if not coded:
        found = symbols.read_fixed(cursor, number, alphabet)
    else:
        lengths = symbols.read_table(cursor, alphabet)
        _add(spent, {"tables": cursor.position - start})
        start = cursor.position
        found = symbols.read_coded(cursor, lengths, number, cursor.left)
    _add(spent, {"values": cursor.position - start})
    return found


def _integers(
    cursor: Cursor,
    shape: tuple[int, ...],
    size: int,
    where: np.ndarray | None,
    coded: bool,
    spent: dict[str, int],
    room: Callable[[int], None],
) -> tuple[Integers, str]:
    start = cursor.position
    spec, low, high, old = scales.unpack(cursor, shape, room)
    quantized = integers.build(np.empty(0, code_dtype(spec)), low, high, spec)
    what = f"{spec.bits}-bit integers"
    number = size if where is None else where.size
    if not number:
        _add(spent, {"scales": cursor.position - start})
        return quantized._replace(codes=_zeros(quantized, shape)), what
    first = cursor.signed("the lowest code")
    alphabet = cursor.varint("the number of codes", largest=LIMIT)
    lowest, highest = _code_bounds(spec)
    lowest -= old
    # Among the codes of a sparse tensor there is no 0.
    hop = where is not None and spec.symmetric
    if alphabet < 1 or first < lowest or first + alphabet - 1 > highest - hop:
        raise cursor.fail(f"codes must lie in [{lowest}, {highest}], got {first} and the next {alphabet - 1}")
    _add(spent, {"scales": cursor.position - start})
    found = _symbols(cursor, number, alphabet, coded, spent)
    codes = found.astype(code_dtype(spec))
    codes += codes.dtype.type(first)
    if hop:
        codes += (codes >= 0).astype(codes.dtype)
    if where is None:
        return quantized._replace(codes=codes.reshape(shape)), what
    whole = _zeros(quantized, shape)
    whole.reshape(-1)[where] = codes
    return quantized._replace(codes=whole), what


def _code_bounds(spec: Spec) -> tuple[int, int]:
    if not spec.symmetric:
        return 0, 2**spec.bits - 1
    top = max(2 ** (spec.bits - 1), 2) - 1
    return -top - (not spec.narrow and spec.bits > 1), top


def _zeros(quantized: Integers, shape: tuple[int, ...]) -> np.ndarray:
    """The codes of a tensor of zeros."""
    spec = quantized.spec
    codes = np.zeros(shape, code_dtype(spec))
    if spec.symmetric:
        return codes
    points = spread(quantized.zero_point.astype(codes.dtype), spec)
    return from_groups(np.broadcast_to(points, to_groups(codes, spec).shape), shape, spec).copy()
