"""The grid of values that integers stand for, in NumPy's float32: that of `jopt.quantize.grid`, bit for bit.

It follows from a range: the outermost codes stand for its ends exactly (symmetric and not narrow: nearly). Scales
are shared as `jopt.quantize.groups` says: by all entries, by those that agree on the kept axes, or by runs of
`group` of the others.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BITS = (*range(1, 9), 16)
_LARGEST = np.finfo(np.float32).max
_SMALLEST = np.finfo(np.float32).tiny
_BLOCK = 1 << 18


class Spec(NamedTuple):
    """How an array is quantized; the fields are those of `jopt.quantize.Spec`.

    Example:
      >>> Spec(4, axis=-1)
      Spec(bits=4, symmetric=True, axis=-1, narrow=True, group=None)
    """

    bits: int
    symmetric: bool = True
    axis: int | tuple[int, ...] | None = None
    narrow: bool = True
    group: int | None = None


class Grid(NamedTuple):
    """The values of a group; float32 of the scales' shape. Codes count from the zero point here."""

    scale: np.ndarray
    divisor: np.ndarray  # x / divisor is rounded to the code.
    zero_point: np.ndarray
    lowest: np.ndarray  # the lowest code.
    highest: np.ndarray
    peak: np.ndarray  # symmetric: the magnitude of the range. Narrow: what the codes +-highest stand for.
    low: np.ndarray  # what the lowest code stands for.
    high: np.ndarray


def code_dtype(spec: Spec) -> np.dtype:
    """The dtype of codes.

    Example:
      >>> code_dtype(Spec(4)), code_dtype(Spec(16, symmetric=False))
      (dtype('int8'), dtype('uint16'))
    """
    return np.dtype(("i" if spec.symmetric else "u") + ("1" if spec.bits <= 8 else "2"))


def kept_axes(ndim: int, spec: Spec) -> tuple[int, ...]:
    """The axes along which scales differ, in order.

    Raises:
      ValueError: if one is out of range, or named twice.
    """
    axes = () if spec.axis is None else spec.axis if isinstance(spec.axis, tuple) else (spec.axis,)
    kept = sorted({a % ndim for a in axes if -ndim <= a < ndim})
    if len(kept) != len(axes):
        raise ValueError(f"axis must name different axes of an array of rank {ndim}, got {spec.axis!r}")
    return tuple(kept)


def scale_shape(shape: tuple[int, ...], spec: Spec) -> tuple[int, ...]:
    """The shape of the scales of an array.

    Raises:
      ValueError: if the axes do not fit, no axis is left to share a scale, or the groups do not come out even.

    Example:
      >>> [scale_shape((64, 10), s) for s in (Spec(8), Spec(8, axis=-1), Spec(8, axis=-1, group=32))]
      [(), (1, 10), (2, 10)]
    """
    kept = kept_axes(len(shape), spec)
    if spec.group is None:
        if spec.axis is None:
            return ()
        if len(kept) == len(shape):
            raise ValueError(f"axis must leave one to share a scale, got {spec.axis!r} for shape {shape}")
        return tuple(n if i in kept else 1 for i, n in enumerate(shape))
    entries = math.prod(n for i, n in enumerate(shape) if i not in kept)
    if spec.group < 1 or entries % spec.group:
        raise ValueError(f"group must divide the {entries} entries of shape {shape} that share, got {spec.group}")
    return (entries // spec.group, *(shape[i] for i in kept))


def to_groups(x: np.ndarray, spec: Spec) -> np.ndarray:
    """The array so that what `spread` gives broadcasts: flat, as it is, or [groups, group, *kept axes]."""
    if spec.group is None:
        return x.reshape(-1) if spec.axis is None else x
    kept = kept_axes(x.ndim, spec)
    rest = [i for i in range(x.ndim) if i not in kept]
    groups, *sizes = scale_shape(x.shape, spec)
    return x.transpose(*rest, *kept).reshape(groups, spec.group, *sizes)


def from_groups(y: np.ndarray, shape: tuple[int, ...], spec: Spec) -> np.ndarray:
    """Undoes `to_groups` for an array of `shape`; contiguous."""
    if spec.group is None:
        return y.reshape(shape)
    kept = kept_axes(len(shape), spec)
    order = [*(i for i in range(len(shape)) if i not in kept), *kept]
    back = y.reshape([shape[i] for i in order]).transpose(*(order.index(i) for i in range(len(shape))))
    return np.ascontiguousarray(back).reshape(shape)


def spread(scales: np.ndarray, spec: Spec) -> np.ndarray:
    """Scales as they broadcast against what `to_groups` gives, of the same rank."""
    if spec.group is None:
        return scales.reshape(1) if spec.axis is None else scales
    return np.expand_dims(scales, 1)


def blocks(view: np.ndarray, grid: Grid, spec: Spec) -> Iterator[tuple[slice, Grid]]:
    """Slices of the first axis that fit a cache, with the grid of each."""
    wide = Grid(*(spread(np.asarray(field), spec) for field in grid))
    step = max(_BLOCK // max(math.prod(view.shape[1:]), 1), 1)
    for start in range(0, view.shape[0], step):
        part = slice(start, start + step)
        yield part, wide if wide.scale.shape[0] == 1 else Grid(*(field[part] for field in wide))


def grid(spec: Spec, low: np.ndarray, high: np.ndarray) -> Grid:
    """The grid of a range.

    With peak = max(-low, high). Symmetric and narrow: scale = peak / (2^(b-1) - 1), and +-peak are exact. Symmetric
    and not narrow: scale = peak / (2^(b-1) - 1/2), and every code stands for its product with it. One bit: scale =
    peak. Asymmetric: the range is widened to contain 0, scale = (high - low) / (2^b - 1), zero point =
    round(-low / scale), and the other end of a range that starts or ends at 0 is exact. Where the scale would be
    below the smallest normal number it is 1 and all codes are 0. Scales and values beyond the largest float32 are
    that.

    Args:
      spec: the Spec.
      low: float32 of the scales' shape, finite.
      high: the same.

    Returns:
      The `Grid`.

    Example:
      >>> g = grid(Spec(8), np.float32(-1.27), np.float32(1.0))
      >>> [round(float(v), 4) for v in (g.scale, g.lowest, g.highest, g.low, g.high)]
      [0.01, -127.0, 127.0, -1.27, 1.27]
    """
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    zero, one = np.float32(0), np.float32(1)
    with np.errstate(all="ignore"):
        if spec.symmetric:
            top = np.float32(max(2 ** (spec.bits - 1), 2) - 1)
            high = np.where(-low > high, -low, high)
            even = spec.narrow or spec.bits == 1  # as many codes below 0 as above
            low, scale = -high, high / (top if even else top + np.float32(0.5))
        else:
            top = np.float32(2**spec.bits - 1)
            low, high = np.where(low > 0, zero, low), np.where(high < 0, zero, high)
            width = high - low
            # Where the width overflows, the scale need not.
            scale = np.minimum(np.where(np.isinf(width), high / top - low / top, width / top), _LARGEST)
        empty = scale < _SMALLEST
        scale = np.where(empty, one, scale)
        divisor = np.where(empty, np.float32(np.inf), scale)
        if spec.symmetric:
            zero_point = np.zeros_like(scale)
            highest = np.full_like(scale, top)
            lowest = -highest if even else -highest - one
            if spec.bits == 1:
                # So small that everything but 0 is rounded to an outermost code: the sign.
                divisor = np.where(empty, divisor, _SMALLEST)
            outer = np.maximum(lowest * scale, -_LARGEST), np.minimum(highest * scale, _LARGEST)
            ends = (low, high) if even else outer
        else:
            zero_point = np.clip(np.rint((zero - low) / scale), zero, top)
            lowest, highest = zero - zero_point, top - zero_point
            ends = (
                np.where((high == zero) & ~empty, low, np.maximum(lowest * scale, -_LARGEST)),
                np.where((low == zero) & ~empty, high, np.minimum(highest * scale, _LARGEST)),
            )
    return Grid(scale, divisor, zero_point, lowest, highest, high, *ends)


def counted_codes(x: np.ndarray, g: Grid) -> np.ndarray:
    """Codes of `x`, float32, counted from the zero point: x / scale rounded half to even, clipped."""
    return np.clip(np.rint(x / g.divisor), g.lowest, g.highest)


def stand_for(codes: np.ndarray, g: Grid) -> np.ndarray:
    """What codes counted from the zero point stand for, float32; those beyond the outermost count as these."""
    y = codes * g.scale
    y += np.float32(0)  # -0 becomes +0.
    np.copyto(y, g.low, where=codes <= g.lowest)
    np.copyto(y, g.high, where=codes >= g.highest)
    return y
