"""Convolution as shifted slices and one matrix product on CPU, as XLA's own convolution elsewhere."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """`lax.conv_general_dilated`, lowered for the platform: `flax.linen.Conv(conv_general_dilated=...)` takes it."""
    n = lhs.ndim - 2
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
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    last = (n + 1, *range(n))
    channels_last = numbers == (tuple([0, n + 1, *range(1, n + 1)]), (n + 1, n, *range(n)), (0, n + 1, *range(1, n + 1)))
    del last
    if feature_group_count != 1 or not channels_last or any(d != 1 for d in lhs_dilation or ()):
        return native(lhs, rhs)
    rhs_dilation = tuple(rhs_dilation or (1,) * n)
    if isinstance(padding, str):
        extent = [(k - 1) * d + 1 for k, d in zip(rhs.shape[:n], rhs_dilation, strict=True)]
        padding = lax.padtype_to_pads(lhs.shape[1:-1], extent, window_strides, padding)
    slices = functools.partial(
        _slices_and_product, strides=tuple(window_strides), padding=padding, dilation=rhs_dilation, precision=precision
    )
    return lax.platform_dependent(lhs, rhs, cpu=slices, default=native)


def _slices_and_product(x, kernel, *, strides, padding, dilation, precision):
    window = kernel.shape[:-2]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in padding), (0, 0, 0)])
    extent = [(k - 1) * d for k, d in zip(window, dilation, strict=True)]
    patches = []
    for offset in itertools.product(*map(range, window)):
        start = [o * d for o, d in zip(offset, dilation, strict=True)]
        stop = [s + size - e for s, size, e in zip(start, x.shape[1:-1], extent, strict=True)]
        patches.append(lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1)))
    columns = jnp.concatenate(patches, axis=-1) if len(patches) > 1 else patches[0]
    return lax.dot_general(
        columns,
        kernel.reshape(-1, kernel.shape[-1]),
        (((columns.ndim - 1,), (0,)), ((), ())),
        precision=precision,
    )


Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)
