"""Elements of arrays as bytes: the dtypes that a file can hold, narrower ones for the same values, coded exponents.

The exponents of weights differ little, the bits after them are noise: with their exponents Huffman-coded, float32
weights take 27 bits instead of 32.
"""

import sys

import numpy as np

from jopt.codec import bits, huffman, symbols
from jopt.codec.container import CodecError, Cursor, varint
from jopt.codec.symbols import Candidate

NAMES = (
    "float32", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
    "float64", "complex64", "complex128", "bfloat16", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz",
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float6_e2m3fn",
    "float6_e3m2fn", "float4_e2m1fn", "int1", "int2", "int4", "uint1", "uint2", "uint4", "complex32", "bcomplex32",
)  # fmt: skip
"""Names of dtypes; a file holds their index here. New names are only ever added at the end."""

_NUMPY_NAMES = 14  # the names before this one are NumPy's, the others those of ml_dtypes
_ML_DTYPES_SIZES = {"bfloat16": 2, "complex32": 4, "bcomplex32": 4}  # the others have a byte
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
"""Dtypes that can hold the values of another, the narrowest first."""
MANTISSA = {"float32": 23, "float16": 10, "bfloat16": 7}
"""Bits of the mantissas of the dtypes whose exponents can be coded."""

_CODED = 64
_MIXED, _POSITIVE, _NEGATIVE = range(3)
_SAMPLE, _BLOCK = 1 << 10, 1 << 18


def code(dtype: np.dtype) -> int | None:
    """The number of a dtype in a file; None: a file cannot hold it.

    Example:
      >>> code(np.dtype("float32")), code(np.dtype(">i2")), code(np.dtype("U3"))
      (0, 3, None)
    """
    return NAMES.index(dtype.name) if dtype.name in NAMES and dtype.names is None else None


def itemsize(number: int) -> int:
    """Bytes of an element of the dtype of that number, also where ml_dtypes is not installed.

    Example:
      >>> [itemsize(NAMES.index(name)) for name in ("float32", "bfloat16", "int64", "float8_e5m2", "uint4")]
      [4, 2, 8, 1, 1]
    """
    if number < _NUMPY_NAMES:
        return np.dtype(NAMES[number]).itemsize
    return _ML_DTYPES_SIZES.get(NAMES[number], 1)


def dtype(number: int, where: str) -> np.dtype:
    """The dtype of that number.

    Args:
      number: from a file.
      where: the part of the file, for errors.

    Raises:
      CodecError: if the number is unknown, or the dtype is of `ml_dtypes`, which is not installed.

    Example:
      >>> dtype(14, "kernel")
      dtype(bfloat16)
    """
    if number >= len(NAMES):
        raise CodecError(f"dtype {number} is unknown; there are {len(NAMES)}", where)
    name = NAMES[number]
    if number < _NUMPY_NAMES:
        return np.dtype(name)
    try:
        # Imported here: files of NumPy's dtypes are read without it.
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    except (ImportError, AttributeError) as error:
        raise CodecError(f"dtype {name} needs a newer ml_dtypes: `pip install -U ml_dtypes`", where) from error


def standard(path: str, array: np.ndarray) -> np.ndarray:
    """The array, contiguous and in the machine's byte order.

    Raises:
      TypeError: if a file cannot hold its dtype.
    """
    if code(array.dtype) is None:
        raise TypeError(f"{path} must be an array of numbers that a file can hold, got {array.dtype}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    # `ascontiguousarray` alone makes a vector of an array of rank 0.
    return np.ascontiguousarray(array).reshape(array.shape)


def bits_of(array: np.ndarray) -> np.ndarray:
    """The bit patterns of a contiguous array's elements, flat: uint8 to uint64, or pairs of uint64 for 16 bytes.

    Bits are compared instead of values: NaN differs from itself, and -0.0 equals 0.0.

    Example:
      >>> [hex(b) for b in bits_of(np.float32([1.0, -0.0]))]
      ['0x3f800000', '0x80000000']
    """
    size = array.dtype.itemsize
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint64).reshape(-1, 2) if size == 16 else flat.view(f"u{size}")


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same dtype, shape and bits."""
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(bits_of(a), bits_of(b))


def to_bytes(array: np.ndarray) -> bytes:
    """The elements' bytes in C order, little-endian.

    Example:
      >>> to_bytes(np.int16([1, 2])).hex()
      '01000200'
    """
    if sys.byteorder == "big" and array.dtype.itemsize > 1:
        array = _swapped(array)
    return array.tobytes()


def from_bytes(buffer: bytes | memoryview, dtype: np.dtype) -> np.ndarray:
    """Undoes `to_bytes`: a flat array that may share the buffer's memory.

    Example:
      >>> from_bytes(bytes([1, 0, 2, 0]), np.dtype("int16")).tolist()
      [1, 2]
    """
    array = np.frombuffer(buffer, np.uint8).view(dtype)
    return _swapped(array) if sys.byteorder == "big" and dtype.itemsize > 1 else array


def _swapped(array: np.ndarray) -> np.ndarray:
    """With the bytes of each number reversed; a complex number is two numbers."""
    size = array.dtype.itemsize // (2 if "complex" in array.dtype.name else 1)
    return np.ascontiguousarray(array).view(f"u{size}").byteswap().view(array.dtype)


def narrowest(array: np.ndarray) -> str:
    """The name of the narrowest dtype that gives back every bit of a flat array.

    Example:
      >>> [narrowest(np.float32(v)) for v in ([1, -3], [0.5], [1e30], [-0.0], [0.1])]
      ['int8', 'float16', 'float32', 'float16', 'float32']
    """
    names = _NARROWER.get(array.dtype.name, ())
    return next((name for name in names if _fits(array, name)), array.dtype.name)


def _can_hold(name: str, dtype: np.dtype) -> bool:
    """Whether elements of `dtype` may be stored as dtype `name`."""
    return name == dtype.name or name in _NARROWER.get(dtype.name, ())


def _fits(array: np.ndarray, name: str) -> bool:
    # A small sample first: most arrays that do not fit show it in their first elements.
    starts = (0, *range(_SAMPLE, array.size, _BLOCK))
    for start, end in zip(starts, (*starts[1:], array.size), strict=True):
        block = array[start:end]
        if not np.array_equal(bits_of(_widen(_cast(block, name), name, array.dtype)), bits_of(block)):
            return False
    return True


def _cast(array: np.ndarray, name: str) -> np.ndarray:
    """The elements in dtype `name`; as uint16, the bits, where that is bfloat16 and narrower."""
    with np.errstate(all="ignore"):
        if name == "bfloat16" and array.dtype != name:
            # The upper half of a float32, without ml_dtypes.
            return (array.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        return array.astype(name, copy=False)


def _widen(array: np.ndarray, name: str, dtype: np.dtype) -> np.ndarray:
    """Undoes `cast`."""
    with np.errstate(all="ignore"):
        if name == "bfloat16" and array.dtype != dtype:
            array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return array.astype(dtype, copy=False)


def pack(array: np.ndarray, huffman: bool = True) -> bytes:
    """The number of the narrowest dtype (1 byte), and the flat array's elements in it.

    If that is shorter, and `huffman` codes may be used, 64 is added to the number, and `coded_exponents` follow.

    Example:
      >>> pack(np.float32([1, -3])).hex()
      '0201fd'
    """
    return encoded(array, narrowest(array), huffman).build()


def encoded(array: np.ndarray, name: str, huffman: bool) -> Candidate:
    """`pack` in the dtype `name`."""
    elements, number = _cast(array, name), NAMES.index(name)
    coded = coded_exponents(bits_of(elements), name) if huffman and name in MANTISSA and array.size else None
    if coded is None or coded.least >= elements.nbytes:
        return Candidate(1 + elements.nbytes, lambda: bytes([number]) + to_bytes(elements))

    def build() -> bytes:
        exponents = coded.build()
        # Lanes can make the codes longer than their bound, and then longer than the elements.
        if len(exponents) < elements.nbytes:
            return bytes([number | _CODED]) + exponents
        return bytes([number]) + to_bytes(elements)

    return Candidate(1 + coded.least, build)


def unpack(cursor: Cursor, dtype: np.dtype, count: int) -> np.ndarray:
    """Reads what `pack` wrote: a flat array of `count` elements, which may share the buffer's memory.

    Raises:
      CodecError: if the bytes are not that.
    """
    first = cursor.byte()
    number = first & ~_CODED
    name = NAMES[number] if number < len(NAMES) else ""
    if not _can_hold(name, dtype):
        raise cursor.error(f"elements of {dtype.name} cannot be held as dtype {number} {name}".rstrip())
    if first & _CODED:
        if name not in MANTISSA or not count:
            raise cursor.error(f"{count} elements of {name} cannot have coded exponents")
        patterns = read_exponents(cursor, name, count)
        if name == dtype.name:
            return patterns.view(dtype)
        return _widen(patterns if name == "bfloat16" else patterns.view(name), name, dtype)
    content = cursor.take(count * itemsize(number))
    # NumPy trusts that a bool is 0 or 1.
    if name == "bool" and count and (largest := int(from_bytes(content, np.dtype(np.uint8)).max())) > 1:
        raise cursor.error(f"a bool must be 0 or 1, got {largest}")
    if name == dtype.name:
        return from_bytes(content, dtype)
    return _widen(from_bytes(content, np.dtype("uint16" if name == "bfloat16" else name)), name, dtype)


def describe(first: int) -> str:
    """The dtype in words, from the first byte that `pack` writes."""
    return NAMES[first & ~_CODED] + (" with coded exponents" if first & _CODED else "")


def coded_exponents(patterns: np.ndarray, name: str) -> Candidate:
    """Floats with their exponents Huffman-coded.

    A byte (0: the signs differ, 1: all are positive, 2: all are negative), the least exponent and how many follow
    it (a byte each), the table of code lengths, a varint, the length of the codes, and they. Then the mantissas,
    packed, each with its sign as the highest bit where the signs differ.

    Args:
      patterns: [n] the floats' bits, uint32 or uint16; at least one.
      name: of their dtype, one of `MANTISSA`.

    Example:
      >>> coded_exponents(np.float32([1.0, 1.5]).view(np.uint32), "float32").build().hex()
      '017f0000000000000020'
      >>> floats = np.float32([0.1, 0.15, 0.12, 0.2, 0.11, 0.13, 0.1, 0.19])  # 8 exponents in 8 bits, not 64
      >>> coded_exponents(floats.view(np.uint32), "float32").least, floats.nbytes
      (29, 32)
    """
    mantissa, one = MANTISSA[name], patterns.dtype.type
    sign_shift = one(8 * patterns.itemsize - 1)
    counts, negative = np.zeros(256, np.int64), 0
    for start in range(0, patterns.size, _BLOCK):
        block = patterns[start : start + _BLOCK]
        counts += np.bincount(_exponents(block, mantissa), minlength=256)
        negative += int(np.count_nonzero(block >> sign_shift))
    occur = np.flatnonzero(counts)
    first, counts = int(occur[0]), counts[occur[0] : occur[-1] + 1]
    lengths = huffman.lengths(counts)
    signs = _POSITIVE if not negative else _NEGATIVE if negative == patterns.size else _MIXED
    width = mantissa + (signs == _MIXED)
    head = bytes([signs, first, counts.size - 1]) + symbols.pack_lengths(lengths)
    least = huffman.least_bytes(counts, lengths)

    def build() -> bytes:
        exponents, mantissas = np.empty(patterns.size, np.uint8), np.empty(patterns.size, patterns.dtype)
        for start in range(0, patterns.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            exponents[part] = _exponents(patterns[part], mantissa) - np.uint8(first)
            mantissas[part] = patterns[part] & one((1 << mantissa) - 1)
            if signs == _MIXED:
                mantissas[part] |= (patterns[part] >> sign_shift) << one(mantissa)
        stream = huffman.encode(exponents, lengths)
        return head + varint(len(stream)) + stream + bits.pack(mantissas, width)

    return Candidate(len(head) + len(varint(least)) + least + bits.size(patterns.size, width), build)


def read_exponents(cursor: Cursor, name: str, count: int) -> np.ndarray:
    """Reads what `coded_exponents` wrote.

    Args:
      cursor: at its first byte; after its last when this returns.
      name: of the floats' dtype, one of `MANTISSA`.
      count: of the floats, at least 1.

    Returns:
      The floats' bits, [count] uint32 or uint16.

    Raises:
      CodecError: if the bytes are not that.

    Example:
      >>> patterns = read_exponents(Cursor(bytes.fromhex("017f0000000000000020"), "weights"), "float32", 2)
      >>> patterns.view(np.float32)
      array([1. , 1.5], dtype=float32)
    """
    mantissa, dtype = MANTISSA[name], np.uint32 if name == "float32" else np.uint16
    sign_bit = 8 * dtype().itemsize - 1
    signs, first, following = cursor.byte(), cursor.byte(), cursor.byte()
    top = (1 << sign_bit - mantissa) - 1
    if signs > _NEGATIVE or first + following > top:
        raise cursor.error(
            f"signs must be 0 to 2 and exponents 0 to {top}, got {signs}, {first} and {following} more"
        )
    lengths = symbols.read_table(cursor, following + 1)
    stream = cursor.take(cursor.varint("bytes of the exponents", largest=cursor.remaining))
    width = mantissa + (signs == _MIXED)
    # Both streams are known to be long enough before either is decoded: a lone exponent takes no bytes, so that
    # only the mantissas bound the count.
    packed = cursor.take(bits.size(count, width))
    exponents = huffman.decode(stream, lengths, count)
    patterns = bits.unpack(packed, width, count).astype(dtype, copy=False)
    mask = dtype((1 << mantissa) - 1)
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK)
        sign = patterns[part] >> dtype(mantissa) if signs == _MIXED else dtype(signs == _NEGATIVE)
        patterns[part] &= mask
        patterns[part] |= sign << dtype(sign_bit)
        patterns[part] |= (exponents[part].astype(dtype) + dtype(first)) << dtype(mantissa)
    return patterns


def _exponents(patterns: np.ndarray, mantissa: int) -> np.ndarray:
    """uint8, the sign shifted out."""
    shifted = (patterns << patterns.dtype.type(1)) >> patterns.dtype.type(mantissa + 1)
    return shifted.astype(np.uint8)
