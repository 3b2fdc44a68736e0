"""The narrowest dtype that holds an array's values, bit for bit; with its exponents Huffman-coded where shorter."""

import numpy as np

from jopt.codec import exponents
from jopt.codec.cursor import Cursor
from jopt.codec.dtypes import NAMES, bits_of, from_bytes, itemsize, to_bytes

_NARROWER = {
    "float64": ("int8", "float16", "bfloat16", "float32"),
    "float32": ("int8", "float16", "bfloat16"),
    "float16": ("int8",),
    "bfloat16": ("int8",),
    "int64": ("int8", "uint8", "int16", "uint16", "int32", "uint32"),
    "int32": ("int8", "uint8", "int16", "uint16"),
    "int16": ("int8", "uint8"),
    "uint64": ("uint8", "uint16", "uint32"),
    "uint32": ("uint8", "uint16"),
    "uint16": ("uint8",),
}
"""Dtypes that may stand for another, the narrowest first."""

_SAMPLE, _BLOCK = 1 << 10, 1 << 18
_CODED = 64


def narrowest(array: np.ndarray) -> str:
    """The name of the narrowest dtype that gives back every bit of a flat array.

    Example:
      >>> [narrowest(np.float32(v)) for v in ([1, -3], [0.5], [1e30], [-0.0], [0.1])]
      ['int8', 'float16', 'float32', 'float16', 'float32']
    """
    names = _NARROWER.get(array.dtype.name, ())
    return next((name for name in names if _fits(array, name)), array.dtype.name)


def _fits(array: np.ndarray, name: str) -> bool:
    # Most arrays that do not fit show it soon.
    starts = (0, *range(_SAMPLE, array.size, _BLOCK))
    ends = (*starts[1:], array.size)
    for start, end in zip(starts, ends, strict=True):
        part = array[start:end]
        if not np.array_equal(bits_of(_widen(_cast(part, name), name, array.dtype)), bits_of(part)):
            return False
    return True


def _cast(array: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        if name == "bfloat16" and array.dtype != name:
            # Its bits are the upper half of a float32's.
            return (array.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        return array.astype(name, copy=False)


def _widen(array: np.ndarray, name: str, dtype: np.dtype) -> np.ndarray:
    with np.errstate(all="ignore"):
        if name == "bfloat16" and array.dtype != dtype:
            array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return array.astype(dtype, copy=False)


def pack(array: np.ndarray, huffman: bool = True) -> bytes:
    """The number of the narrowest dtype (1 byte), and the flat array's elements in it.

    Where that is shorter, and `huffman` codes may be used, 64 is added to the number, and `exponents` packs them.

    Example:
      >>> pack(np.float32([1, -3])).hex()
      '0201fd'
    """
    return packed_as(array, narrowest(array), huffman)


def least(array: np.ndarray, name: str, huffman: bool) -> int:
    """Bytes that `packed_as` takes at least."""
    plain = itemsize(NAMES.index(name)) * array.size
    if not huffman or name not in exponents.MANTISSA or not array.size:
        return 1 + plain
    return 1 + min(plain, exponents.least(bits_of(_cast(array, name)), name))


def packed_as(array: np.ndarray, name: str, huffman: bool) -> bytes:
    """`pack` in the dtype `name`."""
    held, number = _cast(array, name), NAMES.index(name)
    if least(array, name, huffman) < 1 + held.nbytes:
        coded = exponents.pack(bits_of(held), name)
        if len(coded) < held.nbytes:
            return bytes([number | _CODED]) + coded
    return bytes([number]) + to_bytes(held)


def unpack(cursor: Cursor, dtype: np.dtype, count: int) -> np.ndarray:
    """Reads what `pack` wrote: a flat array of `count` elements, which may share the buffer's memory.

    Raises:
      CodecError: if it is not that.
    """
    first = cursor.byte()
    number = first & ~_CODED
    name = NAMES[number] if number < len(NAMES) else ""
    if name != dtype.name and name not in _NARROWER.get(dtype.name, ()):
        raise cursor.fail(f"elements of {dtype.name} cannot be held as dtype {number} {name}".rstrip())
    if first & _CODED:
        if name not in exponents.MANTISSA or not count:
            raise cursor.fail(f"{count} elements of {name} cannot have coded exponents")
        patterns = exponents.unpack(cursor, name, count)
        if name == dtype.name:
            return patterns.view(dtype)
        return _widen(patterns if name == "bfloat16" else patterns.view(name), name, dtype)
    content = cursor.take(count * itemsize(number))
    if name == "bool" and count and (largest := int(from_bytes(content, np.dtype(np.uint8)).max())) > 1:
        raise cursor.fail(f"a bool must be 0 or 1, got {largest}")
    if name == dtype.name:
        return from_bytes(content, dtype)
    return _widen(from_bytes(content, np.dtype("uint16" if name == "bfloat16" else name)), name, dtype)


def name(number: int) -> str:
    """In words, the dtype that `pack` wrote the number of."""
    return NAMES[number & ~_CODED] + (" with coded exponents" if number & _CODED else "")
