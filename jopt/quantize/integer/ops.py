"""Layers on codes: products and convolutions with int32 sums, pooling, ReLU, and the way back to codes."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jopt.quantize.grid import Range, grid
from jopt.quantize.integer.contract import check_length, convolve, dot
from jopt.quantize.integer.operands import Codes, column_sums, encode_input, operand
from jopt.quantize.spec import Spec
from jopt.quantize.tensors import QTensor, fit_range

Operand = QTensor | Codes
Padding = str | Sequence[tuple[int, int]]


class Sums(NamedTuple):
    """What a contraction of codes gives; a sum s stands for s * scale.

    Attributes:
      values: int32, [..., out], exact.
      scale: float32, () or [out]: the scale of the input times those of the weights.
    """

    values: jax.Array
    scale: jax.Array


def dense(x: Operand, w: Operand, dimension_numbers: Any = None) -> Sums:
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
    (left, right), batch = dimension_numbers or (((x.codes.ndim - 1,), (0,)), ((), ()))
    if any(map(len, batch)):
        raise ValueError(f"dimension_numbers must have no batch axes for integer execution, got {batch}")
    length = math.prod(x.codes.shape[i] for i in left)
    check_length(length, x.codes, w.codes, (x.zero_point is not None, w.zero_point is not None))
    total = dot(x.codes, w.codes, left, right)
    trailing = total.ndim - (x.codes.ndim - len(left))

    def of_outputs(v: jax.Array) -> jax.Array:
        return _outputs(v, right, w.codes.ndim)

    if x.zero_point is not None:
        total = total - lax.broadcast(x.zero_point * column_sums(w, right), total.shape[: total.ndim - trailing])
    if w.zero_point is not None:
        rows = x.codes.astype(jnp.int32).sum(tuple(left), dtype=jnp.int32)
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
    codes = lax.pad(x.codes.astype(jnp.int8), zero.astype(jnp.int8), [(0, 0, 0), *borders, (0, 0, 0)])
    length = math.prod(w.codes.shape[:-1])
    check_length(length, x.codes, w.codes, (x.zero_point is not None, w.zero_point is not None))
    total = convolve(codes, w.codes, strides, dilation, feature_group_count)
    inner = tuple(range(spatial + 1))
    if x.zero_point is not None:
        total = total - lax.broadcast(x.zero_point * column_sums(w, inner), total.shape[:-1])
    if w.zero_point is not None:
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
      window: one size a spatial axis; what is left over at the end is dropped.
      strides: None: the window.

    Returns:
      The `Codes`, [batch, *spatial, channels].

    Example:
      >>> x = Codes(jnp.arange(16).astype(jnp.int8).reshape(1, 4, 4, 1), jnp.float32(1))
      >>> max_pool(x, (2, 2)).codes[0, :, :, 0].tolist()
      [[5, 7], [13, 15]]
    """
    x = operand(x)
    lowest = jnp.int8(-128)
    codes = lax.reduce_window(x.codes.astype(jnp.int8), lowest, lax.max, *_windows(window, strides))
    return x._replace(codes=codes)


def average_pool(x: Operand, window: Sequence[int], strides: Sequence[int] | None = None) -> Sums:
    """The mean of each window, as an int32 sum whose scale is that of the input over the window's size.

    Args:
      x: as in `max_pool`.
      window: likewise.
      strides: likewise.

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


def _windows(window: Sequence[int], strides: Sequence[int] | None) -> tuple[Any, Any, str]:
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
