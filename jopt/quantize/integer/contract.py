"""The contractions themselves: int8 codes in, int32 sums out, on every platform."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jopt.patches import patches


def dot(lhs: jax.Array, rhs: jax.Array, left: Sequence[int], right: Sequence[int]) -> jax.Array:
    """`lax.dot_general` of codes, without batch axes.

    Args:
      lhs: int8, int4 or int2.
      rhs: likewise.
      left: the axes of `lhs` that are contracted.
      right: those of `rhs`, in the same order.

    Returns:
      int32: the other axes of `lhs`, then those of `rhs`.

    Example:
      >>> codes = jnp.full((1, 300), 127, jnp.int8)
      >>> dot(codes, codes, (1,), (1,)).tolist()                 # 300 * 127^2
      [[4838700]]
    """
    dimensions = ((tuple(left), tuple(right)), ((), ()))
    return lax.dot_general(lhs.astype(jnp.int8), rhs.astype(jnp.int8), dimensions, preferred_element_type=jnp.int32)


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], dilation: Sequence[int], groups: int = 1
) -> jax.Array:
    """Convolution of codes, channels last, of an input that is padded already.

    As shifted slices joined along the channels and one product (`jopt.models.conv` says why), which every platform
    has for int8 with exact sums; on TPU, and with groups, as the native convolution.

    Args:
      x: int8, int4 or int2, [batch, *spatial, channels in].
      kernel: likewise, [*window, channels in / groups, channels out].
      strides: one number a spatial axis.
      dilation: of the kernel, likewise.
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

    if groups != 1:
        return native(x, kernel)
    return lax.platform_dependent(x, kernel, tpu=native, default=slices)


def check_length(length: int, lhs: jax.Array, rhs: jax.Array, shifted: tuple[bool, bool]) -> None:
    """Raises `ValueError` where a sum of `length` products could leave int32.

    Sums wrap around, so what counts is the sum that is left when zero points are taken off.

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
