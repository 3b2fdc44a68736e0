"""The grid of values that integers stand for, and which entries of an array share a grid.

The formula is written once, for NumPy and for JAX: a file holds the range of a grid, not its scale, so that
`jopt.codec` must compute every scale to the bit as `jopt.quantize` does. The array module is an argument, because
packed files are read where JAX is not installed.
"""

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

BITS = (*range(1, 9), 16)

_LARGEST = np.float32(np.finfo(np.float32).max)
_SMALLEST = np.float32(np.finfo(np.float32).tiny)  # the smallest normal number; devices may flush those below to 0
_BLOCK = 1 << 18

Array = TypeVar("Array")


class SpecLike(Protocol):
    """What `jopt.quantize.Spec` and `jopt.codec.Spec` have in common."""

    @property
    def bits(self) -> Any:
        """1 to 8, 16; None or 32 for what is not quantized; an array in a JAX program."""
        ...

    @property
    def symmetric(self) -> bool:
        """Whether codes are centred on 0."""
        ...

    @property
    def axis(self) -> int | tuple[int, ...] | str | None:
        """The axes along which scales differ."""
        ...

    @property
    def narrow(self) -> bool:
        """Whether the lowest symmetric code is left out."""
        ...

    @property
    def group(self) -> int | None:
        """The number of entries that share a scale."""
        ...


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


class IntegerGrid(NamedTuple, Generic[Array]):
    """The values of a group; float32 of the scales' shape (from JAX, symmetric: the outermost codes are scalars).

    Codes are counted from the zero point: code r stands for r * scale, except for the outermost codes, which can
    stand for an end of the range.
    """

    scale: Array
    divisor: Array  # x / divisor is rounded to the code: the scale, but infinite for an empty range
    zero_point: Array
    lowest: Array  # the lowest code
    highest: Array
    peak: Array  # symmetric: the magnitude of the range; narrow: what the codes +-highest stand for
    low: Array  # what the lowest code stands for
    high: Array


def largest_code(xp: ModuleType, spec: SpecLike) -> Any:
    """The largest code, as float32: 2^(b-1) - 1 (1 at one bit) if symmetric, else 2^b - 1; at 32 bits that of 16.

    Example:
      >>> [int(largest_code(np, Spec(b))) for b in (1, 2, 8, 16)], int(largest_code(np, Spec(8, symmetric=False)))
      ([1, 1, 127, 32767], 255)
    """
    # Shifted as an integer: exp2 is off by one part in a million on some backends.
    # At 32 bits the result is not used; it must only be finite.
    one, bits = xp.int32(1), xp.minimum(xp.asarray(spec.bits).astype(xp.int32), BITS[-1])
    top = xp.maximum(xp.left_shift(one, bits - one), 2) if spec.symmetric else xp.left_shift(one, bits)
    return (top - one).astype(xp.float32)


def range_grid(
    xp: ModuleType, spec: SpecLike, low: Any, high: Any, divide: Callable[[Any, Any], Any]
) -> IntegerGrid[Any]:
    """The grid of a range.

    With peak = max(-low, high) and n = 2^(b-1) - 1. Symmetric and narrow: scale = peak / n, and +-peak are exact.
    Symmetric and not narrow: scale = peak / (n + 1/2), as 2^b - 1 steps span [-peak, peak]; the codes -n - 1 and n
    stand for their products with it, half a step below -peak and half a step below peak, and neither end is exact.
    One bit: scale = peak, narrow or not. Asymmetric: the range is widened to contain 0; scale = (high - low) /
    (2^b - 1), zero point = round(-low / scale); a range that starts or ends at 0 has its other end exact. Where the
    scale would be 0, or below the smallest normal number, it is 1 and every value is quantized to 0. Scales and
    values beyond the largest float32 are the largest float32.

    Args:
      xp: `numpy` or `jax.numpy`.
      spec: not the identity.
      low: float32, of the scales' shape.
      high: the same.
      divide: float32 division that is correctly rounded.

    Returns:
      The `IntegerGrid`.

    Example:
      >>> g = range_grid(np, Spec(2, narrow=False), np.float32(-1.5), np.float32(1.5), np.divide)
      >>> [float(v) for v in (g.scale, g.lowest, g.highest, g.low, g.high, g.peak)]
      [1.0, -2.0, 1.0, -2.0, 1.0, 1.5]
    """
    zero, top = xp.float32(0), largest_code(xp, spec)
    if spec.symmetric:
        high = xp.where(-low > high, -low, high)
        low = -high
        half = xp.where(xp.asarray(spec.bits) == 1, zero, xp.float32(0.5))
        scale = divide(high, top if spec.narrow else top + half)
    else:
        low, high = xp.where(low > 0, zero, low), xp.where(high < 0, zero, high)
        width = high - low
        # Where the width overflows, the scale need not.
        parts = divide(high, top) - divide(low, top)
        scale = xp.minimum(xp.where(xp.isinf(width), parts, divide(width, top)), _LARGEST)
    empty = scale < _SMALLEST
    scale = xp.where(empty, xp.float32(1), scale)
    zero_point = xp.zeros_like(scale) if spec.symmetric else xp.clip(xp.round(divide(zero - low, scale)), zero, top)
    products = scale_grid(xp, spec, scale, zero_point)
    if spec.symmetric:
        # Without the lowest code (narrow, or one bit) the outermost stand for the ends themselves.
        even = True if spec.narrow else products.lowest == -top
        ends = xp.where(even, low, products.low), xp.where(even, high, products.high)
    else:
        ends = (
            xp.where((high == zero) & ~empty, low, products.low),
            xp.where((low == zero) & ~empty, high, products.high),
        )
    return products._replace(
        divisor=xp.where(empty, xp.float32(xp.inf), products.divisor), peak=high, low=ends[0], high=ends[1]
    )


def scale_grid(xp: ModuleType, spec: SpecLike, scale: object, zero_point: Any) -> IntegerGrid[Any]:
    """The grid of a scale and zero point whose range is not known: the outermost codes stand for their products.

    Args:
      xp: `numpy` or `jax.numpy`.
      spec: not the identity.
      scale: float32, above 0.
      zero_point: of the same shape, integers of any dtype.

    Returns:
      The `IntegerGrid`.

    Example:
      >>> g = scale_grid(np, Spec(8, symmetric=False), np.float32(0.5), np.int32(3))
      >>> float(g.low), float(g.high)
      (-1.5, 126.0)
    """
    # Counted in integers, where there is no -0.
    last, zero = largest_code(xp, spec).astype(xp.int32), zero_point.astype(xp.int32)
    divisor = scale
    if spec.symmetric:
        first = -last if spec.narrow else xp.where(xp.asarray(spec.bits) > 1, -last - 1, -last)
        # At one bit so small that everything but 0 is rounded to an outermost code: the sign.
        divisor = xp.where(xp.asarray(spec.bits) == 1, _SMALLEST, scale)
    else:
        first, last = -zero, last - zero
    lowest, highest = first.astype(xp.float32), last.astype(xp.float32)
    # An outermost code can lie up to a step beyond the range, and so beyond float32.
    low, high = xp.maximum(lowest * scale, -_LARGEST), xp.minimum(highest * scale, _LARGEST)
    return IntegerGrid(scale, divisor, zero.astype(xp.float32), lowest, highest, high, low, high)


def grid(spec: Spec, low: np.ndarray, high: np.ndarray) -> IntegerGrid[np.ndarray]:
    """`range_grid` in NumPy, with every field in the shape of the scales.

    Args:
      spec: not the identity.
      low: float32 of the scales' shape, finite.
      high: the same.

    Example:
      >>> g = grid(Spec(8), np.float32(-1.27), np.float32(1.0))
      >>> [round(float(v), 4) for v in (g.scale, g.lowest, g.highest, g.low, g.high)]
      [0.01, -127.0, 127.0, -1.27, 1.27]
    """
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    # A range near the ends of float32 overflows on the way to a finite scale.
    with np.errstate(all="ignore"):
        fields = range_grid(np, spec, low, high, np.divide)
    return IntegerGrid(*(np.array(np.broadcast_to(field, low.shape)) for field in fields))


def to_codes(x: np.ndarray, grid: IntegerGrid[np.ndarray]) -> np.ndarray:
    """Codes of `x`, float32, counted from the zero point: x / scale rounded half to even, clipped."""
    return np.clip(np.rint(x / grid.divisor), grid.lowest, grid.highest)


def to_values(codes: np.ndarray, grid: IntegerGrid[np.ndarray]) -> np.ndarray:
    """What codes counted from the zero point stand for, float32; those beyond the outermost count as these."""
    values = codes * grid.scale
    values += np.float32(0)  # -0 becomes +0
    np.copyto(values, grid.low, where=codes <= grid.lowest)
    np.copyto(values, grid.high, where=codes >= grid.highest)
    return values


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
    distinct = sorted({a % ndim for a in axes if -ndim <= a < ndim})
    if len(distinct) != len(axes):
        raise ValueError(f"axis must name different axes of an array of rank {ndim}, got {spec.axis!r}")
    return tuple(distinct)


def scale_shape(shape: tuple[int, ...], spec: Spec) -> tuple[int, ...]:
    """The shape of the scales of an array, as `jopt.quantize.scale_shape`.

    Raises:
      ValueError: if the axes do not fit, none is left to share a scale, or the group does not divide the entries.

    Example:
      >>> [scale_shape((64, 10), s) for s in (Spec(8), Spec(8, axis=-1), Spec(8, axis=-1, group=32))]
      [(), (1, 10), (2, 10)]
    """
    axes = kept_axes(len(shape), spec)
    if spec.group is None:
        if spec.axis is None:
            return ()
        if len(axes) == len(shape):
            raise ValueError(f"axis must leave one to share a scale, got {spec.axis!r} for shape {shape}")
        return tuple(n if i in axes else 1 for i, n in enumerate(shape))
    entries = math.prod(n for i, n in enumerate(shape) if i not in axes)
    if spec.group < 1 or entries % spec.group:
        raise ValueError(f"group must divide the {entries} entries of shape {shape} that share, got {spec.group}")
    return (entries // spec.group, *(shape[i] for i in axes))


def to_groups(x: np.ndarray, spec: Spec) -> np.ndarray:
    """The array in a shape that `spread` broadcasts against: flat, unchanged, or [groups, group, *kept axes]."""
    if spec.group is None:
        return x.reshape(-1) if spec.axis is None else x
    axes = kept_axes(x.ndim, spec)
    shared_axes = [i for i in range(x.ndim) if i not in axes]
    groups, *sizes = scale_shape(x.shape, spec)
    return x.transpose(*shared_axes, *axes).reshape(groups, spec.group, *sizes)


def from_groups(y: np.ndarray, shape: tuple[int, ...], spec: Spec) -> np.ndarray:
    """Undoes `to_groups` for an array of `shape`; contiguous."""
    if spec.group is None:
        return y.reshape(shape)
    axes = kept_axes(len(shape), spec)
    order = [*(i for i in range(len(shape)) if i not in axes), *axes]
    x = y.reshape([shape[i] for i in order]).transpose(*(order.index(i) for i in range(len(shape))))
    return np.ascontiguousarray(x).reshape(shape)


def spread(scales: np.ndarray, spec: Spec) -> np.ndarray:
    """Scales as they broadcast against what `to_groups` returns, of the same rank."""
    if spec.group is None:
        return scales.reshape(1) if spec.axis is None else scales
    return np.expand_dims(scales, 1)


def blocks(
    groups: np.ndarray, grid: IntegerGrid[np.ndarray], spec: Spec
) -> Iterator[tuple[slice, IntegerGrid[np.ndarray]]]:
    """Slices of the first axis of what `to_groups` returns, small enough for a cache, with the grid of each."""
    broadcast = IntegerGrid(*(spread(field, spec) for field in grid))
    step = max(_BLOCK // max(math.prod(groups.shape[1:]), 1), 1)
    for start in range(0, groups.shape[0], step):
        part = slice(start, start + step)
        one_grid = broadcast.scale.shape[0] == 1
        yield part, broadcast if one_grid else IntegerGrid(*(field[part] for field in broadcast))
