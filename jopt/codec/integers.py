"""Arrays as integers: whether a grid gives back every bit of them, and what its codes stand for."""

from typing import Any, NamedTuple

import numpy as np

from jopt.codec.dtypes import bits_of
from jopt.codec.grid import (
    BITS,
    Spec,
    blocks,
    code_dtype,
    counted_codes,
    from_groups,
    grid,
    kept_axes,
    scale_shape,
    stand_for,
    to_groups,
)

_UNTOUCHED = 32  # bits with which `jopt.quantize.Spec` leaves values as they are.


class Integers(NamedTuple):
    """An array as integers; a code c stands for (c - zero_point) * scale, the outermost for the ends of the range.

    Attributes:
      codes: of the array's shape; int8 (asymmetric: uint8), at 16 bits int16 (uint16).
      scale: float32, of the shape that `jopt.codec.grid.scale_shape` gives.
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


def fit(array: np.ndarray, spec: Any, range: Any, path: str) -> Integers | None:
    """The integers of an array that was quantized; None where no grid gives back every bit of it.

    Args:
      array: what the model computes with, [any shape].
      spec: an object with the attributes of a `Spec`; bits None or 32: not quantized.
      range: `(low, high)`, which broadcast to the scales' shape; None, or where it does not give back the values:
        the largest magnitude (asymmetric: the smallest and the largest value) of what shares a scale.
      path: of the array, for errors.

    Returns:
      `Integers` whose `values` are the array, bit for bit, or None.

    Raises:
      ValueError: if the spec is none, or it or the range do not fit the array's shape.

    Example:
      >>> q = fit(np.float32([-1.0, 0.5, 0.0, 1.5]), Spec(3), None, "w")
      >>> q.codes.tolist(), float(q.scale)
      ([-2, 1, 0, 3], 0.5)
      >>> fit(np.float32([-1.0, 0.7, 0.0, 1.5]), Spec(3), None, "w")
    """
    spec = _spec(spec, path)
    if spec is None:
        return None
    try:
        shape = scale_shape(array.shape, spec)
        ends = None if range is None else [np.broadcast_to(np.asarray(end, np.float32), shape) for end in range]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not array.size or not array.dtype.name.startswith(("float", "bfloat")):
        return None
    with np.errstate(all="ignore"):
        view = to_groups(array.astype(np.float32, copy=False), spec)
    if ends is not None and (found := _fit(array, view, spec, ends[0], ends[1])):
        return found
    return _fit(array, view, spec, *_recovered(view, spec, shape))


def build(codes: np.ndarray, low: np.ndarray, high: np.ndarray, spec: Spec) -> Integers:
    """`Integers` of codes and a finite range."""
    g = grid(spec, low, high)
    if spec.symmetric:
        low, high = -g.peak, g.peak
    # Of rank 0 they would be scalars.
    low, high, points = map(np.asarray, (low, high, g.zero_point.astype(np.int32)))
    return Integers(codes, g.scale, points, low, high, spec)


def values(integers: Integers, dtype: np.dtype) -> np.ndarray:
    """What the integers stand for, as `jopt.quantize.dequantize` gives it: computed in float32, then cast.

    A code below the lowest, which only old files have (`jopt.codec.scales`), stands for its product with the scale.

    Example:
      >>> q = build(np.array([-2, 1, 0, 3], np.int8), np.float32(-1.5), np.float32(1.5), Spec(3))
      >>> values(q, np.dtype("float32")).tolist()
      [-1.0, 0.5, 0.0, 1.5]
    """
    spec = integers.spec
    view = to_groups(integers.codes, spec)
    out = np.empty(view.shape, dtype)
    for part, g in blocks(view, grid(spec, integers.low, integers.high), spec):
        counted = view[part].astype(np.float32)
        if not spec.symmetric:
            counted -= g.zero_point
        with np.errstate(all="ignore"):
            found = stand_for(counted, g)
            if (below := counted < g.lowest).any():
                np.copyto(found, counted * g.scale, where=below)
            out[part] = found
    return from_groups(out, integers.codes.shape, spec)


def _spec(spec: Any, path: str) -> Spec | None:
    if spec.bits is None:
        return None
    bits = np.asarray(spec.bits)
    if bits.ndim or bits.dtype.kind not in "iu" or int(bits) not in (*BITS, _UNTOUCHED):
        raise ValueError(f"specs[{path!r}].bits must be 1 to 8, 16, 32 or None, got {spec.bits!r}")
    if int(bits) == _UNTOUCHED:
        return None
    axis = tuple(map(int, spec.axis)) if isinstance(spec.axis, tuple | list) else spec.axis
    return Spec(int(bits), bool(spec.symmetric), axis, bool(spec.narrow), spec.group)


def _fit(array: np.ndarray, view: np.ndarray, spec: Spec, low: np.ndarray, high: np.ndarray) -> Integers | None:
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    exact = to_groups(array, spec)
    codes = np.empty(view.shape, code_dtype(spec))
    for part, g in blocks(view, grid(spec, low, high), spec):
        with np.errstate(all="ignore"):
            counted = counted_codes(view[part], g)
            again = stand_for(counted, g).astype(array.dtype)
            if not np.array_equal(bits_of(again), bits_of(exact[part])):
                return None
            codes[part] = counted if spec.symmetric else counted + g.zero_point
    return build(from_groups(codes, array.shape, spec), low, high, spec)


def _recovered(view: np.ndarray, spec: Spec, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    if spec.group is not None:
        axes = (1,)
    elif spec.axis is None:
        axes = (0,)
    else:
        axes = tuple(i for i in range(view.ndim) if i not in kept_axes(view.ndim, spec))
    low = np.min(view, axis=axes, initial=np.float32(0)).reshape(shape)
    high = np.max(view, axis=axes, initial=np.float32(0)).reshape(shape)
    return low, high
