"""The dtypes a file can hold, and narrower ones that hold the same values."""

import sys
from typing import Any

import numpy as np

from jopt.codec.error import CodecError

NAMES = (
    "float32",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float64",
    "complex64",
    "complex128",
    "bfloat16",
    "float8_e3m4",
    "float8_e4m3",
    "float8_e4m3b11fnuz",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float6_e2m3fn",
    "float6_e3m2fn",
    "float4_e2m1fn",
    "int1",
    "int2",
    "int4",
    "uint1",
    "uint2",
    "uint4",
    "complex32",
    "bcomplex32",
)
"""Names of dtypes; a file holds their number here. New ones are only ever added at the end."""

_NUMPY = 14  # the names before this one are NumPy's own.
_SIZES = {"bool": 1, "bfloat16": 2, "complex32": 4, "bcomplex32": 4} | {
    "float64": 8, "complex64": 8, "complex128": 16, "float32": 4, "float16": 2
}  # fmt: skip


def code(dtype: np.dtype) -> int | None:
    """The number of a dtype in a file; None: it cannot be held.

    Example:
      >>> code(np.dtype("float32")), code(np.dtype(">i2")), code(np.dtype("U3"))
      (0, 3, None)
    """
    return NAMES.index(dtype.name) if dtype.name in NAMES and dtype.names is None else None


def itemsize(number: int) -> int:
    """Bytes of an element of the dtype of that number, also where the dtype is not installed.

    Example:
      >>> [itemsize(NAMES.index(name)) for name in ("float32", "bfloat16", "int64", "float8_e5m2", "uint4")]
      [4, 2, 8, 1, 1]
    """
    if number < _NUMPY:
        return np.dtype(NAMES[number]).itemsize
    return _SIZES.get(NAMES[number], 1)


def dtype(number: int, where: str) -> np.dtype:
    """The dtype of that number.

    Args:
      number: from a file.
      where: what errors begin with.

    Raises:
      CodecError: if there is none, or if it is of `ml_dtypes`, which is not installed.

    Example:
      >>> dtype(14, "kernel")
      dtype(bfloat16)
    """
    if number >= len(NAMES):
        raise CodecError(f"{where}: dtype {number} is unknown; there are {len(NAMES)}")
    name = NAMES[number]
    if number < _NUMPY:
        return np.dtype(name)
    try:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    except (ImportError, AttributeError) as error:
        raise CodecError(f"{where}: dtype {name} needs a newer ml_dtypes: `pip install -U ml_dtypes`") from error


def bits_of(array: np.ndarray) -> np.ndarray:
    """The bit patterns of a contiguous array's elements, flat: uint8 to uint64, or pairs of uint64 for 16 bytes.

    Example:
      >>> [hex(b) for b in bits_of(np.float32([1.0, -0.0]))]
      ['0x3f800000', '0x80000000']
    """
    size = array.dtype.itemsize
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint64).reshape(-1, 2) if size == 16 else flat.view(f"u{size}")


def to_bytes(array: np.ndarray) -> bytes:
    """The elements' bytes in C order, little-endian.

    Example:
      >>> to_bytes(np.int16([1, 2])).hex()
      '01000200'
    """
    if sys.byteorder == "big" and array.dtype.itemsize > 1:
        array = _swapped(array)
    return array.tobytes()


def from_bytes(buffer: Any, dtype: np.dtype) -> np.ndarray:
    """Undoes `to_bytes`: a flat array that may share the buffer's memory.

    Example:
      >>> from_bytes(bytes([1, 0, 2, 0]), np.dtype("int16")).tolist()
      [1, 2]
    """
    array = np.frombuffer(buffer, np.uint8).view(dtype)
    return _swapped(array) if sys.byteorder == "big" and dtype.itemsize > 1 else array


def _swapped(array: np.ndarray) -> np.ndarray:
    """With the bytes of each number reversed; complex ones are two numbers."""
    half = array.dtype.itemsize // (2 if "complex" in array.dtype.name else 1)
    return np.ascontiguousarray(array).view(f"u{half}").byteswap().view(array.dtype)
