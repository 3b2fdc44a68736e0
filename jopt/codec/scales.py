"""A Spec and the range its scales derive from, as bytes.

The bits (1 byte: bits 0 to 4 the number, 5 symmetric, 6 narrow, 7 whether there are groups); the axis (0: None, 1:
an integer, 2 + n: a tuple of n; and they, signed); the size of a group; and the range, in the shape of the scales:
the largest magnitudes if symmetric, else the low ends and the high ends. Scales and zero points follow from it.

Symmetric codes of more than one bit that are not narrow have bit 4 of the number flipped. Where it is not, the
file was written before December 2026, when their scale was that of narrow codes and the lowest code stood for its
product with it.
"""

import math
from collections.abc import Callable

import numpy as np

from jopt.codec import narrow
from jopt.codec.cursor import Cursor, signed, varint
from jopt.codec.grid import BITS, Spec, scale_shape
from jopt.codec.integers import Integers

_HALF_STEP, _SYMMETRIC, _NARROW, _GROUP = 16, 32, 64, 128
_FLOAT32 = np.dtype(np.float32)
_SCALE = 48  # bytes that a scale takes with the grid that is made of it.


def pack(integers: Integers, huffman: bool = True) -> bytes:
    """The bytes of the Spec and range of `integers`.

    Example:
      >>> from jopt.codec.integers import build
      >>> pack(build(np.int8([1]), np.float32(-2), np.float32(2), Spec(4))).hex()        # peak 2, as int8
      '64000202'
    """
    spec = integers.spec
    flags = spec.symmetric * _SYMMETRIC | spec.narrow * _NARROW | (spec.group is not None) * _GROUP
    flags ^= _HALF_STEP * (spec.symmetric and not spec.narrow and spec.bits > 1)
    axes = spec.axis if isinstance(spec.axis, tuple) else () if spec.axis is None else (spec.axis,)
    form = 2 + len(axes) if isinstance(spec.axis, tuple) else len(axes)
    out = bytes([spec.bits ^ flags]) + varint(form) + b"".join(map(signed, axes))
    if spec.group is not None:
        out += varint(spec.group)
    ends = (integers.high,) if spec.symmetric else (integers.low, integers.high)
    return out + narrow.pack(np.concatenate([np.ravel(end) for end in ends]), huffman)


def unpack(
    cursor: Cursor, shape: tuple[int, ...], room: Callable[[int], None] = lambda count: None
) -> tuple[Spec, np.ndarray, np.ndarray, bool]:
    """Reads what `pack` wrote, for an array of `shape`: the Spec, the range, low and high, and whether it is old.

    The Spec of old codes (see above) is narrow, but one more code can follow below its lowest. `room` raises where
    there is none for as many bytes.

    Raises:
      CodecError: if it is not that, or does not fit the shape.
    """
    first = cursor.byte()
    bits, symmetric, narrow_codes = first & 31, bool(first & _SYMMETRIC), bool(first & _NARROW)
    old = symmetric and not narrow_codes and bits in BITS[1:]
    if symmetric and not narrow_codes and not old and bits != 1:
        bits ^= _HALF_STEP
    if bits not in BITS:
        raise cursor.fail(f"bits must be one of {BITS}, got {bits}")
    form = cursor.varint("the axis", largest=2 + len(shape))
    axes = tuple(cursor.signed("an axis") for _ in range(1 if form == 1 else max(form - 2, 0)))
    axis = None if form == 0 else axes[0] if form == 1 else axes
    group = cursor.varint("group") if first & _GROUP else None
    spec = Spec(bits, symmetric, axis, narrow_codes or old, group)
    try:
        fitting = scale_shape(shape, spec)
    except ValueError as error:
        raise cursor.fail(str(error)) from error
    count = math.prod(fitting)
    room(_SCALE * count)
    ends = narrow.unpack(cursor, _FLOAT32, count if spec.symmetric else 2 * count)
    if not np.isfinite(ends).all():
        raise cursor.fail("a range must be finite")
    high = ends[-count:].reshape(fitting) if count else ends.reshape(fitting)
    return spec, -high if spec.symmetric else ends[:count].reshape(fitting), high, old
