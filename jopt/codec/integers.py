"""Arrays as integers: whether a grid gives back every bit of an array, and the bytes of a Spec with its range."""

import math
from typing import Any, NamedTuple

import numpy as np

from jopt.codec import elements
from jopt.codec.container import Budget, Cursor, signed, varint
from jopt.codec.elements import bits_of
from jopt.codec.grid import (
    BITS,
    Spec,
    SpecLike,
    blocks,
    code_dtype,
    from_groups,
    grid,
    scale_shape,
    spread,
    to_codes,
    to_groups,
    to_values,
)

_UNTOUCHED = 32  # bits with which `jopt.quantize.Spec` leaves values unchanged
_HALF_STEP, _SYMMETRIC, _NARROW, _GROUP = 16, 32, 64, 128
_FLOAT32 = np.dtype(np.float32)
_SCALE_MEMORY = 48  # bytes of memory that a scale takes with the grid that is made of it


class Integers(NamedTuple):
    """An array as integers; a code c stands for (c - zero_point) * scale, the outermost for the ends of the range.

    Attributes:
      codes: of the array's shape; int8 (asymmetric: uint8), at 16 bits int16 (uint16).
      scale: float32, of the shape that `jopt.codec.grid.scale_shape` returns.
      zero_point: int32, of the same shape; 0 if symmetric.
      low, high: float32, of the same shape; the range. Symmetric: the larger magnitude, to both sides.
      spec: a `jopt.codec.Spec`.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    low: np.ndarray
    high: np.ndarray
    spec: Spec


def fit(array: np.ndarray, spec: SpecLike, range: Any, path: str) -> Integers | None:
    """The integers of an array that was quantized; None if no grid gives back every bit of it.

    Args:
      array: the values that the model computes with, any shape.
      spec: bits None or 32: not quantized.
      range: `(low, high)`, which broadcast to the scales' shape. If it is None, or does not give back the values:
        the largest magnitude (asymmetric: the smallest and the largest value) of the entries that share a scale.
      path: of the array, for errors.

    Returns:
      `Integers` whose `values` are the array, bit for bit, or None.

    Raises:
      ValueError: if the spec is invalid, or it or the range do not fit the array's shape.

    Example:
      >>> q = fit(np.float32([-1.0, 0.5, 0.0, 1.5]), Spec(3), None, "w")
      >>> q.codes.tolist(), float(q.scale)
      ([-2, 1, 0, 3], 0.5)
      >>> fit(np.float32([-1.0, 0.7, 0.0, 1.5]), Spec(3), None, "w")
    """
    checked_spec = _checked_spec(spec, path)
    if checked_spec is None:
        return None
    try:
        shape = scale_shape(array.shape, checked_spec)
        ends = None if range is None else [np.broadcast_to(np.asarray(end, np.float32), shape) for end in range]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not array.size or not array.dtype.name.startswith(("float", "bfloat")):
        return None
    with np.errstate(all="ignore"):
        groups = to_groups(array.astype(np.float32, copy=False), checked_spec)
    if ends is not None and (integers := _fit(array, groups, checked_spec, ends[0], ends[1])):
        return integers
    return _fit(array, groups, checked_spec, *_largest_values(groups, checked_spec, shape))


def build(codes: np.ndarray, low: np.ndarray, high: np.ndarray, spec: Spec) -> Integers:
    """`Integers` of codes and a finite range."""
    g = grid(spec, low, high)
    if spec.symmetric:
        low, high = -g.peak, g.peak
    # Arithmetic on arrays of rank 0 gives scalars.
    low, high, zero_point = map(np.asarray, (low, high, g.zero_point.astype(np.int32)))
    return Integers(codes, g.scale, zero_point, low, high, spec)


def values(integers: Integers, dtype: np.dtype) -> np.ndarray:
    """The values that integers stand for, as `jopt.quantize.dequantize`: computed in float32, then cast.

    Example:
      >>> q = build(np.array([-2, 1, 0, 3], np.int8), np.float32(-1.5), np.float32(1.5), Spec(3))
      >>> values(q, np.dtype("float32")).tolist()
      [-1.0, 0.5, 0.0, 1.5]
    """
    spec = integers.spec
    groups = to_groups(integers.codes, spec)
    array = np.empty(groups.shape, dtype)
    for part, g in blocks(groups, grid(spec, integers.low, integers.high), spec):
        codes = groups[part].astype(np.float32)
        if not spec.symmetric:
            codes -= g.zero_point
        with np.errstate(all="ignore"):
            block = to_values(codes, g)
            # Only in old files (see `unpack_spec`): one code below the lowest, which stands for its product.
            if (below := codes < g.lowest).any():
                np.copyto(block, codes * g.scale, where=below)
            array[part] = block
    return from_groups(array, integers.codes.shape, spec)


def _checked_spec(spec: SpecLike, path: str) -> Spec | None:
    if spec.bits is None:
        return None
    bits = np.asarray(spec.bits)
    if bits.ndim or bits.dtype.kind not in "iu" or int(bits) not in (*BITS, _UNTOUCHED):
        raise ValueError(f"specs[{path!r}].bits must be 1 to 8, 16, 32 or None, got {spec.bits!r}")
    if int(bits) == _UNTOUCHED:
        return None
    axis: Any = tuple(map(int, spec.axis)) if isinstance(spec.axis, tuple | list) else spec.axis
    return Spec(int(bits), bool(spec.symmetric), axis, bool(spec.narrow), spec.group)


def _fit(array: np.ndarray, groups: np.ndarray, spec: Spec, low: np.ndarray, high: np.ndarray) -> Integers | None:
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    exact = to_groups(array, spec)
    codes = np.empty(groups.shape, code_dtype(spec))
    for part, g in blocks(groups, grid(spec, low, high), spec):
        with np.errstate(all="ignore"):
            block = to_codes(groups[part], g)
            # Bits, not values: -0.0 equals the code 0, but would come back as +0.0.
            if not np.array_equal(bits_of(to_values(block, g).astype(array.dtype)), bits_of(exact[part])):
                return None
            codes[part] = block if spec.symmetric else block + g.zero_point
    return build(from_groups(codes, array.shape, spec), low, high, spec)


def _largest_values(groups: np.ndarray, spec: Spec, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The range of the values themselves: quantized with narrow codes, the largest is an end of the range."""
    axes = tuple(i for i, length in enumerate(spread(np.zeros(shape), spec).shape) if length == 1)
    low = np.min(groups, axis=axes, initial=np.float32(0)).reshape(shape)
    high = np.max(groups, axis=axes, initial=np.float32(0)).reshape(shape)
    return low, high


def pack_spec(integers: Integers, huffman: bool = True) -> bytes:
    """The bytes of the Spec and the range of `integers`.

    A byte: bits 0 to 4 the number of bits, 5 symmetric, 6 narrow, 7 whether there are groups. The axis: 0 for None,
    1 for an integer, 2 + n for a tuple of n, and they, signed. The size of a group, if there are groups. The range,
    in the shape of the scales: the largest magnitudes if symmetric, else the low ends and the high ends. Scales and
    zero points follow from it, and the outermost codes then stand for the ends exactly, not for a rounded product.

    Example:
      >>> pack_spec(build(np.int8([1]), np.float32(-2), np.float32(2), Spec(4))).hex()  # peak 2, as int8
      '64000202'
    """
    spec = integers.spec
    flags = spec.symmetric * _SYMMETRIC | spec.narrow * _NARROW | (spec.group is not None) * _GROUP
    # Symmetric codes that are not narrow had the scale of narrow ones before December 2026. Since then bit 4 of
    # their number is flipped, which makes it one that is never used: older readers refuse it.
    flags ^= _HALF_STEP * (spec.symmetric and not spec.narrow and spec.bits > 1)
    axes = spec.axis if isinstance(spec.axis, tuple) else () if spec.axis is None else (spec.axis,)
    form = 2 + len(axes) if isinstance(spec.axis, tuple) else len(axes)
    head = bytes([spec.bits ^ flags]) + varint(form) + b"".join(map(signed, axes))
    if spec.group is not None:
        head += varint(spec.group)
    ends = (integers.high,) if spec.symmetric else (integers.low, integers.high)
    return head + elements.pack(np.concatenate([np.ravel(end) for end in ends]), huffman)


def unpack_spec(
    cursor: Cursor, shape: tuple[int, ...], budget: Budget
) -> tuple[Spec, np.ndarray, np.ndarray, bool]:
    """Reads what `pack_spec` wrote, for an array of `shape`.

    Returns:
      The Spec, the low and the high ends, and whether the codes are old. Old codes have the scale of narrow ones,
      and so a narrow Spec, but one more code can follow below its lowest; it stands for its product with the scale.

    Raises:
      CodecError: if the bytes are not a Spec, or it does not fit the shape.
    """
    first = cursor.byte()
    bits, symmetric, narrow = first & 31, bool(first & _SYMMETRIC), bool(first & _NARROW)
    old = symmetric and not narrow and bits in BITS[1:]
    if symmetric and not narrow and not old and bits != 1:
        bits ^= _HALF_STEP
    if bits not in BITS:
        raise cursor.error(f"bits must be one of {BITS}, got {bits}")
    form = cursor.varint("the axis", largest=2 + len(shape))
    axes = tuple(cursor.signed("an axis") for _ in range(1 if form == 1 else max(form - 2, 0)))
    axis = None if form == 0 else axes[0] if form == 1 else axes
    group = cursor.varint("group") if first & _GROUP else None
    spec = Spec(bits, symmetric, axis, narrow or old, group)
    try:
        ends_shape = scale_shape(shape, spec)
    except ValueError as error:
        raise cursor.error(str(error)) from error
    count = math.prod(ends_shape)
    budget.check(_SCALE_MEMORY * count)
    ends = elements.unpack(cursor, _FLOAT32, count if spec.symmetric else 2 * count)
    if not np.isfinite(ends).all():
        raise cursor.error("a range must be finite")
    high = ends[ends.size - count :].reshape(ends_shape)
    return spec, -high if spec.symmetric else ends[:count].reshape(ends_shape), high, old


def code_bounds(spec: Spec) -> tuple[int, int]:
    """The lowest and the highest code.

    Example:
      >>> code_bounds(Spec(4)), code_bounds(Spec(4, narrow=False)), code_bounds(Spec(4, symmetric=False))
      ((-7, 7), (-8, 7), (0, 15))
    """
    if not spec.symmetric:
        return 0, 2**spec.bits - 1
    top = max(2 ** (spec.bits - 1), 2) - 1
    return -top - (not spec.narrow and spec.bits > 1), top
