"""Convolution as shifted slices and one matrix product on CPU, as XLA's own convolution elsewhere."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jopt.patches import patches


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, lowered for the platform that the program will run on.

    On CPU the input is padded, its `prod(window)` shifted (strided) slices are joined along the channels, and one
    product with the kernel, flattened to [prod(window) * channels in, channels out], gives the output (im2col).
    XLA's CPU convolution is several times slower inside `lax.scan` and under `vmap`; `docs/models.md` has the
    figures. Elsewhere, and for transposed or grouped convolutions or a layout other than channels last, it is the
    native one. The choice is `lax.platform_dependent`'s, made at lowering: no backend starts while tracing.

    Args:
      lhs: input, [batch, *spatial, channels in], with one or more spatial axes.
      rhs: kernel, [*window, channels in / groups, channels out], of the dtype of `lhs`.
      window_strides: one number a spatial axis.
      padding: 'SAME', 'VALID', 'SAME_LOWER' or pairs (low, high), which may be negative.
      lhs_dilation: of the input (transposed convolution), None is 1.
      rhs_dilation: of the kernel, None is 1.
      dimension_numbers: as in `jax.lax`.
      feature_group_count: number of groups.
      precision: of the product, as in `jax.lax`.

    Returns:
      [batch, *spatial, channels out]: the same sums of products as `jax.lax`'s, in another order.

    Example:
      >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
      >>> kernel = jnp.ones((3, 3, 1, 1))
      >>> layout = ("NHWC", "HWIO", "NHWC")
      >>> conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)[0, :, :, 0].tolist()
      [[45.0, 54.0], [81.0, 90.0]]
    """
    spatial = lhs.ndim - 2
    native = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )
    transposed = any(d != 1 for d in lhs_dilation or ())
    layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    if feature_group_count != 1 or transposed or layout != _channels_last(spatial):
        return native(lhs, rhs)
    dilation = tuple(rhs_dilation or (1,) * spatial)
    if isinstance(padding, str):
        extent = [(size - 1) * d + 1 for size, d in zip(rhs.shape, dilation, strict=False)]
        padding = lax.padtype_to_pads(lhs.shape[1:-1], extent, window_strides, padding)
    product = functools.partial(
        _slices_and_product, strides=window_strides, padding=padding, dilation=dilation, precision=precision
    )
    return lax.platform_dependent(lhs, rhs, cpu=product, default=native)


Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)
"""`flax.linen.Conv` (same parameters, same padding) with `conv_general_dilated` of this file."""


def _channels_last(spatial: int) -> lax.ConvDimensionNumbers:
    """[batch, *spatial, channels], [*window, in, out]."""
    data = (0, spatial + 1, *range(1, spatial + 1))
    return lax.ConvDimensionNumbers(data, (spatial + 1, spatial, *range(spatial)), data)


def _slices_and_product(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    precision: Any,
) -> jax.Array:
    columns = patches(x, kernel.shape[:-2], strides, padding, dilation)
    contract = (((x.ndim - 1,), (0,)), ((), ()))
    product = functools.partial(lax.dot_general, dimension_numbers=contract, precision=precision)
    if not jnp.issubdtype(x.dtype, jnp.floating) or jnp.finfo(x.dtype).bits >= 32:
        return product(columns, kernel.reshape(-1, kernel.shape[-1]))
    # Else XLA may add up in so few bits too: on CPU, of jaxlib 0.11, 2 % of a kernel's gradient were lost.
    wide = product(columns, kernel.reshape(-1, kernel.shape[-1]), preferred_element_type=jnp.float32)
    return wide.astype(x.dtype)
