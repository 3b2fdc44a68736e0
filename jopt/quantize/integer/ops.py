"""Layers on codes: operands, int8 contractions with int32 sums, pooling, ReLU, and the way back to codes."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jopt.patches import patches
from jopt.quantize.grid import Grid, Range, encode, fit_range, grid
from jopt.quantize.spec import Spec
from jopt.quantize.tensors import QTensor

NARROW = 8
"""The most bits that an operand can have."""

Padding = str | Sequence[tuple[int, int]]
DimensionNumbers = tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]
"""As in `jax.lax.dot_general`."""


class Codes(NamedTuple):
    """An operand; a code c stands for (c - zero_point) * scale.

    Attributes:
      codes: int8, int4 or int2, of the array's shape. Unsigned codes of b bits are stored less 2^(b-1).
      scale: float32, of the shape `jopt.quantize.scale_shape` gives.
      zero_point: int32 of that shape, for codes as they are stored; None: 0, and nothing is computed with it.
      columns: int32, of the last axis: a kernel's codes summed over all others, where `with_columns` computed it.
    """

    codes: jax.Array
    scale: jax.Array
    zero_point: jax.Array | None = None
    columns: jax.Array | None = None


Operand = QTensor | Codes


def code_type(bits: int) -> Any:
    """The narrowest signed dtype that holds codes of `bits` bits.

    Example:
      >>> [code_type(bits).__name__ for bits in (1, 2, 3, 8)]
      ['int2', 'int2', 'int4', 'int8']
    """
    return jnp.int2 if bits <= 2 else jnp.int4 if bits <= 4 else jnp.int8


def operand(q: Operand) -> Codes:
    """A quantized array as an operand, its codes stored in as few bits as they need.

    XLA has no contraction of int4 or int2 on CPU, so they become int8 at the contraction and not before.

    Args:
      q: what `jopt.quantize.quantize` gave (the range is not needed), or an operand, which is returned.

    Returns:
      The `Codes`.

    Raises:
      ValueError: for more than 8 bits, traced bits, or scales shared by groups.

    Example:
      >>> from jopt.quantize import quantize
      >>> codes, scale, zero_point, _ = operand(quantize(jnp.array([-1.0, 0.0, 2.0]), Spec(2, symmetric=False)))
      >>> codes.tolist(), codes.dtype.name, float(scale), int(zero_point)         # 0, 1, 3 with zero point 1
      ([-2, -1, 1], 'int2', 1.0, -1)
    """
    if isinstance(q, Codes):
        return q
    bits = checked_width(q.spec, "the codes")
    codes, zero_point = jnp.asarray(q.codes).astype(jnp.int32), None
    if not q.spec.symmetric:
        # XLA's integer products take signed codes of one type, so unsigned ones are shifted into it.
        half = jnp.int32(1 << (bits - 1))
        codes, zero_point = codes - half, jnp.asarray(q.zero_point).astype(jnp.int32) - half
    return Codes(codes.astype(code_type(bits)), jnp.asarray(q.scale), zero_point)


def with_columns(kernel: Codes) -> Codes:
    """The kernel with the sums of its columns, which an input's zero point is multiplied with, computed once.

    Example:
      >>> with_columns(Codes(jnp.array([[1, 2], [3, 4]], jnp.int8), jnp.float32(1))).columns.tolist()
      [4, 6]
    """
    return kernel._replace(columns=column_sums(kernel, range(kernel.codes.ndim - 1)))


def column_sums(kernel: Codes, axes: Iterable[int]) -> jax.Array:
    """The sums of a kernel's codes over `axes`, int32.

    Example:
      >>> column_sums(Codes(jnp.array([[1, 2], [3, 4]], jnp.int8), jnp.float32(1)), (1,)).tolist()
      [3, 7]
    """
    axes = tuple(axes)
    if kernel.columns is not None and sorted(axes) == list(range(kernel.codes.ndim - 1)):
        return kernel.columns
    return kernel.codes.astype(jnp.int32).sum(axes, dtype=jnp.int32)


def encode_input(x: jax.Array, spec: Spec, g: Grid) -> Codes:
    """The codes of an input on the grid of its range, bit for bit those that the simulation rounds to.

    Args:
      x: floating array.
      spec: of at most 8 bits, one scale.
      g: the grid, of scalars.

    Returns:
      int8 `Codes`, of any width: the contraction needs int8, so they are not made narrower before it.

    Raises:
      ValueError: for more than 8 bits, traced bits, or more than one scale.

    Example:
      >>> from jopt.quantize.grid import Range, grid
      >>> spec = Spec(8, symmetric=False)
      >>> g = grid(spec, Range(jnp.float32(0), jnp.float32(255)))
      >>> encode_input(jnp.array([-9.0, 0.0, 2.5, 300.0]), spec, g).codes.tolist()
      [-128, -128, -126, 127]
    """
    bits = checked_width(spec, "the input's codes")
    if spec.axis is not None:
        raise ValueError(f"an input's axis must be None: its codes share one scale, got {spec.axis!r}")
    # Counted from the zero point, as in the simulation.
    codes = jnp.clip(encode(x.astype(jnp.float32), g), g.lowest, g.highest)
    if spec.symmetric:
        return Codes(codes.astype(jnp.int8), g.scale)
    zero_point = g.zero_point - jnp.float32(1 << (bits - 1))
    return Codes((codes + zero_point).astype(jnp.int8), g.scale, zero_point.astype(jnp.int32))


def values_of(x: Codes) -> jax.Array:
    """What the codes stand for, float32: (codes - zero_point) * scale.

    Example:
      >>> values_of(Codes(jnp.array([-1, 3], jnp.int8), jnp.float32(0.5), jnp.int32(-1))).tolist()
      [0.0, 2.0]
    """
    codes = x.codes.astype(jnp.int32)
    return (codes if x.zero_point is None else codes - x.zero_point).astype(jnp.float32) * x.scale


def checked_width(spec: Spec, operand_name: str) -> int:
    """The bits of a Spec that integer execution can take.

    Raises:
      ValueError: says what it takes.

    Example:
      >>> checked_width(Spec(16), "the codes of 'Dense_0/kernel'")
      Traceback (most recent call last):
      ...
      ValueError: bits of the codes of 'Dense_0/kernel' must be 1 to 8 for integer execution, got 16
    """
    if spec.group is not None:
        raise ValueError(
            f"group of {operand_name} must be None for integer execution (scales are by tensor or channel)"
        )
    if isinstance(spec.bits, Tracer):
        raise ValueError(
            f"bits of {operand_name} must not be traced for integer execution: the program depends on them"
        )
    if spec.bits is None or not 1 <= int(spec.bits) <= NARROW:
        raise ValueError(f"bits of {operand_name} must be 1 to {NARROW} for integer execution, got {spec.bits}")
    return int(spec.bits)


def dot(lhs: jax.Array, rhs: jax.Array, lhs_axes: Sequence[int], rhs_axes: Sequence[int]) -> jax.Array:
    """`lax.dot_general` of codes, without batch axes.

    Args:
      lhs: int8, int4 or int2.
      rhs: int8, int4 or int2.
      lhs_axes: the axes of `lhs` that are contracted.
      rhs_axes: those of `rhs`, in the same order.

    Returns:
      int32: the other axes of `lhs`, then those of `rhs`.

    Example:
      >>> codes = jnp.full((1, 300), 127, jnp.int8)
      >>> dot(codes, codes, (1,), (1,)).tolist()                 # 300 * 127^2
      [[4838700]]
    """
    dimensions = ((tuple(lhs_axes), tuple(rhs_axes)), ((), ()))
    return lax.dot_general(lhs.astype(jnp.int8), rhs.astype(jnp.int8), dimensions, preferred_element_type=jnp.int32)


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], dilation: Sequence[int], groups: int = 1
) -> jax.Array:
    """Convolution of codes, channels last, of an input that is padded already.

    Shifted slices are joined along the channels and multiplied once (`jopt.models.layers` says why): every platform
    has that product for int8 with exact sums. On TPU, and with groups, it is the native convolution.

    Args:
      x: int8, int4 or int2, [batch, *spatial, channels in].
      kernel: int8, int4 or int2, [*window, channels in / groups, channels out].
      strides: one number a spatial axis.
      dilation: of the kernel, one number a spatial axis.
      groups: number of groups of channels.

    Returns:
      int32, [batch, *spatial, channels out].

    Example:
      >>> x = jnp.arange(16).astype(jnp.int8).reshape(1, 4, 4, 1)
      >>> convolve(x, jnp.ones((3, 3, 1, 1), jnp.int8), (1, 1), (1, 1))[0, :, :, 0].tolist()
      [[45, 54], [81, 90]]
    """
    x, kernel = x.astype(jnp.int8), kernel.astype(jnp.int8)
    spatial = x.ndim - 2
    data = (0, spatial + 1, *range(1, spatial + 1))
    layout = lax.ConvDimensionNumbers(data, (spatial + 1, spatial, *range(spatial)), data)

    def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            "VALID",
            rhs_dilation=dilation,
            dimension_numbers=layout,
            feature_group_count=groups,
            preferred_element_type=jnp.int32,
        )

    def slices(x: jax.Array, kernel: jax.Array) -> jax.Array:
        columns = patches(x, kernel.shape[:-2], strides, [(0, 0)] * (x.ndim - 2), dilation)
        return dot(columns, kernel.reshape(-1, kernel.shape[-1]), (x.ndim - 1,), (0,))

    # A product of columns would multiply every group with every other.
    if groups != 1:
        return native(x, kernel)
    return lax.platform_dependent(x, kernel, tpu=native, default=slices)


def check_length(length: int, lhs: jax.Array, rhs: jax.Array, shifted: tuple[bool, bool]) -> None:
    """Raises `ValueError` where a sum of `length` products could leave int32.

    Sums wrap around, so only the sum without zero points, at the end, must fit.

    Args:
      length: number of products in a sum.
      lhs: the codes; only their dtypes matter.
      rhs: the other codes.
      shifted: whether each has a zero point.

    Example:
      >>> check_length(70_000, jnp.int8(0), jnp.int8(0), (True, False))
      Traceback (most recent call last):
      ...
      ValueError: a contraction of int8 by int8 must be of at most 65793 products, so that int32 holds the sum, ...
    """
    # Of a code less its zero point: the full width of its type where there is one.
    largest = [
        (1 << bits) - 1 if zero else 1 << (bits - 1)
        for bits, zero in zip((jnp.iinfo(lhs.dtype).bits, jnp.iinfo(rhs.dtype).bits), shifted, strict=True)
    ]
    most = (2**31 - 1) // math.prod(largest)
    if length > most:
        raise ValueError(
            f"a contraction of {lhs.dtype} by {rhs.dtype} must be of at most {most} products, so that int32 holds "
            f"the sum, got {length}"
        )


class Sums(NamedTuple):
    """What a contraction of codes gives; a sum s stands for s * scale.

    Attributes:
      values: int32, [..., out], exact.
      scale: float32, () or [out]: the scale of the input times those of the weights.
    """

    values: jax.Array
    scale: jax.Array


def dense(x: Operand, w: Operand, dimension_numbers: DimensionNumbers | None = None) -> Sums:
    r"""The product of an input and a kernel, both in codes.

    With codes c, d, zero points z, y and scales s, t,
    $\sum_k s (c_k - z)\, t (d_k - y) = s t\,(\sum c_k d_k - z \sum d_k - y \sum c_k + K z y)$; the sums are int32.

    Args:
      x: the input, [..., in], one scale.
      w: the kernel, [in, out], one scale or one for each output.
      dimension_numbers: as in `jax.lax.dot_general`, without batch axes; None: the last axis with the first.

    Returns:
      The `Sums`, [..., out].

    Raises:
      ValueError: for codes of more than 8 bits, scales along a contracted axis, batch axes, or so many products
        that int32 cannot hold them.

    Jacob et al., 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", equations 3, 4 and 7.

    Example:
      >>> from jopt.quantize import quantize
      >>> x = quantize(jnp.array([[0.0, 1.0, 3.0]]), Spec(2, symmetric=False))             # codes 0, 1, 3, scale 1
      >>> w = quantize(jnp.array([[7.0], [-2.0], [5.0]]), Spec(4))                         # codes 7, -2, 5, scale 1
      >>> sums = dense(x, w)
      >>> sums.values.tolist(), rescale(sums, jnp.array([0.5])).tolist()
      ([[13]], [[13.5]])
    """
    x, w = operand(x), operand(w)
    (x_axes, w_axes), batch = dimension_numbers or (((x.codes.ndim - 1,), (0,)), ((), ()))
    if any(map(len, batch)):
        raise ValueError(f"dimension_numbers must have no batch axes for integer execution, got {batch}")
    length = math.prod(x.codes.shape[i] for i in x_axes)
    check_length(length, x.codes, w.codes, (x.zero_point is not None, w.zero_point is not None))
    total = dot(x.codes, w.codes, x_axes, w_axes)
    trailing = total.ndim - (x.codes.ndim - len(x_axes))

    def of_outputs(v: jax.Array) -> jax.Array:
        return _outputs(v, w_axes, w.codes.ndim)

    # By the formula above: only the terms of zero points that exist are computed.
    if x.zero_point is not None:
        total = total - lax.broadcast(x.zero_point * column_sums(w, w_axes), total.shape[: total.ndim - trailing])
    if w.zero_point is not None:
        rows = x.codes.astype(jnp.int32).sum(tuple(x_axes), dtype=jnp.int32)
        rows = rows if x.zero_point is None else rows - jnp.int32(length) * x.zero_point
        total = _minus_rows(total, lax.expand_dims(rows, range(rows.ndim, total.ndim)), of_outputs(w.zero_point))
    return Sums(total, x.scale * of_outputs(w.scale))


def conv(
    x: Operand,
    w: Operand,
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
) -> Sums:
    """The convolution of an input and a kernel, both in codes, channels last; what is padded is the zero point.

    Args:
      x: the input, [batch, *spatial, channels in], one scale.
      w: the kernel, [*window, channels in / groups, channels out], one scale or one for each output channel.
      strides: one number a spatial axis, None is 1.
      padding: 'SAME', 'VALID', 'SAME_LOWER' or pairs (low, high), which may be negative.
      lhs_dilation: of the input (transposed convolution), None is 1.
      rhs_dilation: of the kernel, None is 1.
      feature_group_count: number of groups.

    Returns:
      The `Sums`, [batch, *spatial, channels out].

    Raises:
      ValueError: as `dense`.

    Example:
      >>> from jopt.quantize import quantize
      >>> x = quantize(jnp.arange(-8.0, 8.0).reshape(1, 4, 4, 1), Spec(4, symmetric=False))     # zero point 8
      >>> w = quantize(jnp.ones((3, 3, 1, 1)), Spec(2))
      >>> conv(x, w, padding="SAME").values[0, :, :, 0].tolist()
      [[-22, -30, -24, -14], [-21, -27, -18, -9], [3, 9, 18, 15], [10, 18, 24, 18]]
    """
    x, w = operand(x), operand(w)
    window, spatial = w.codes.shape[:-2], w.codes.ndim - 2
    strides, stretch, dilation = (tuple(v or (1,) * spatial) for v in (strides, lhs_dilation, rhs_dilation))
    if isinstance(padding, str):
        sizes = [(n - 1) * d + 1 for n, d in zip(x.codes.shape[1:-1], stretch, strict=True)]
        extent = [(n - 1) * d + 1 for n, d in zip(window, dilation, strict=True)]
        padding = lax.padtype_to_pads(sizes, extent, strides, padding)
    zero = jnp.zeros((), jnp.int32) if x.zero_point is None else x.zero_point
    borders = [(low, high, d - 1) for (low, high), d in zip(padding, stretch, strict=True)]
    # Padded with the zero point, whose value is 0; padding of the convolution itself would be the code 0.
    codes = lax.pad(x.codes.astype(jnp.int8), zero.astype(jnp.int8), [(0, 0, 0), *borders, (0, 0, 0)])
    length = math.prod(w.codes.shape[:-1])
    check_length(length, x.codes, w.codes, (x.zero_point is not None, w.zero_point is not None))
    total = convolve(codes, w.codes, strides, dilation, feature_group_count)
    inner = tuple(range(spatial + 1))
    if x.zero_point is not None:
        total = total - lax.broadcast(x.zero_point * column_sums(w, inner), total.shape[:-1])
    if w.zero_point is not None:
        # The sums of the codes under each window: a convolution with ones, one output for each group.
        ones = jnp.ones((*w.codes.shape[:-1], feature_group_count), jnp.int8)
        rows = convolve(codes, ones, strides, dilation, feature_group_count)
        rows = rows if x.zero_point is None else rows - jnp.int32(length) * x.zero_point
        rows = jnp.repeat(rows, w.codes.shape[-1] // feature_group_count, axis=-1)
        total = _minus_rows(total, rows, _outputs(w.zero_point, inner, w.codes.ndim))
    return Sums(total, x.scale * _outputs(w.scale, inner, w.codes.ndim))


def rescale(sums: Sums, bias: jax.Array | None = None) -> jax.Array:
    """What sums stand for: `values * scale + bias`, float32.

    Example:
      >>> rescale(Sums(jnp.array([[3, 4]]), jnp.array([0.5, 0.25])), jnp.array([1.0, 0.0])).tolist()
      [[2.5, 1.0]]
    """
    y = _times(sums.values.astype(jnp.float32), sums.scale)
    return y if bias is None else y + lax.expand_dims(bias, range(y.ndim - bias.ndim))


def requantize(sums: Sums, spec: Spec, range: Range, bias: jax.Array | None = None) -> Codes:
    """The sums as the next layer's codes: those of `rescale(sums, bias)`.

    Args:
      sums: what a layer gave.
      spec: of the next layer's input.
      range: its clipping range; with `Range(0, high)` and asymmetric codes this is the ReLU as well.
      bias: [out], or None.

    Returns:
      The `Codes`.

    Raises:
      ValueError: as `encode_input`.

    Example:
      >>> sums = Sums(jnp.array([-40, 100, 9000]), jnp.float32(0.01))
      >>> requantize(sums, Spec(8, symmetric=False), Range(0.0, 2.55)).codes.tolist()          # 0, 100, 255
      [-128, -28, 127]
    """
    return encode_input(rescale(sums, bias), spec, grid(spec, fit_range(range, (), spec)))


def relu(x: Operand) -> Codes:
    """The maximum with the code of 0.

    Example:
      >>> relu(Codes(jnp.array([-5, -1, 4], jnp.int8), jnp.float32(1), jnp.int32(-2))).codes.tolist()
      [-2, -1, 4]
    """
    x = operand(x)
    zero = jnp.zeros((), jnp.int32) if x.zero_point is None else x.zero_point
    return x._replace(codes=jnp.maximum(x.codes.astype(jnp.int8), zero.astype(jnp.int8)))


def max_pool(x: Operand, window: Sequence[int], strides: Sequence[int] | None = None) -> Codes:
    """The largest code of each window: codes are in the order of what they stand for.

    Args:
      x: [batch, *spatial, channels], one scale.
      window: one size a spatial axis; entries that do not fill a window at the end are dropped.
      strides: None: the window.

    Returns:
      The `Codes`, [batch, *spatial, channels].

    Example:
      >>> x = Codes(jnp.arange(16).astype(jnp.int8).reshape(1, 4, 4, 1), jnp.float32(1))
      >>> max_pool(x, (2, 2)).codes[0, :, :, 0].tolist()
      [[5, 7], [13, 15]]
    """
    x = operand(x)
    # Below every code, so that padding never wins.
    lowest = jnp.int8(-128)
    codes = lax.reduce_window(x.codes.astype(jnp.int8), lowest, lax.max, *_windows(window, strides))
    return x._replace(codes=codes)


def average_pool(x: Operand, window: Sequence[int], strides: Sequence[int] | None = None) -> Sums:
    """The mean of each window, as an int32 sum whose scale is that of the input over the window's size.

    Args:
      x: as in `max_pool`.
      window: as in `max_pool`.
      strides: as in `max_pool`.

    Returns:
      The `Sums`, [batch, *spatial, channels].

    Example:
      >>> x = Codes(jnp.arange(4).astype(jnp.int8).reshape(1, 2, 2, 1), jnp.float32(2), jnp.int32(-1))
      >>> rescale(average_pool(x, (2, 2))).ravel().tolist()                       # 2 (1 + 2 + 3 + 4) / 4
      [5.0]
    """
    x = operand(x)
    count = math.prod(window)
    total = lax.reduce_window(x.codes.astype(jnp.int32), jnp.int32(0), lax.add, *_windows(window, strides))
    if x.zero_point is not None:
        total = total - jnp.int32(count) * x.zero_point
    return Sums(total, x.scale / jnp.float32(count))


def _windows(window: Sequence[int], strides: Sequence[int] | None) -> tuple[tuple[int, ...], tuple[int, ...], str]:
    return (1, *window, 1), (1, *(strides or window), 1), "VALID"


def _outputs(v: jax.Array, contracted: Sequence[int], ndim: int) -> jax.Array:
    """Numbers of a kernel, () or of its rank, as they broadcast against the last axes of the sums."""
    if v.ndim == 0:
        return v
    if any(v.shape[i] != 1 for i in contracted):
        raise ValueError(
            f"axis of a kernel's scales must name output axes only, got scales of shape {v.shape} where axes "
            f"{tuple(contracted)} are summed"
        )
    return v.reshape([v.shape[i] for i in range(ndim) if i not in contracted])


def _times(total: jax.Array, v: jax.Array) -> jax.Array:
    return total * (v if v.ndim == 0 else lax.expand_dims(v, range(total.ndim - v.ndim)))


def _minus_rows(total: jax.Array, rows: jax.Array, zero_point: jax.Array) -> jax.Array:
    return total - _times(jnp.broadcast_to(rows, total.shape), zero_point)


def rnn_cell(
    x: Operand, h: Operand, kernel: Operand, recurrent_kernel: Operand, bias: jax.Array, spec: Spec
) -> tuple[Codes, jax.Array]:
    """`tanh(x W + b + h U)`, both products in integers; the new state as the next step's codes.

    Args:
      x: the input, [batch, in], one scale.
      h: the state, [batch, size], one scale.
      kernel: W, [in, size].
      recurrent_kernel: U, [size, size].
      bias: b, float32 [size].
      spec: of the state, whose range is [-1, 1].

    Returns:
      The state's `Codes`, and the state before it is quantized, float32 [batch, size].

    Raises:
      ValueError: as `dense` and `encode_input`.

    Elman, 1990, "Finding structure in time".

    Example:
      >>> from jopt.quantize import quantize
      >>> spec, eye = Spec(8), quantize(jnp.eye(2), Spec(2))
      >>> x = quantize(jnp.array([[1.0, -1.0]]), spec)
      >>> h = encode_input(jnp.zeros((1, 2)), spec, grid(spec, Range(jnp.float32(-1), jnp.float32(1))))
      >>> codes, state = rnn_cell(x, h, eye, eye, jnp.zeros(2), spec)
      >>> codes.codes.tolist(), round(float(state[0, 0]), 4)         # tanh(1), times 127 is 96.7
      ([[97, -97]], 0.7616)
    """
    state = jnp.tanh(rescale(dense(x, kernel), bias) + rescale(dense(h, recurrent_kernel)))
    return encode_input(state, spec, grid(spec, fit_range(Range(-1.0, 1.0), (), spec))), state  # type: ignore[arg-type]
