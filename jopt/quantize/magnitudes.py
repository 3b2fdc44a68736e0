"""The mean magnitude of each channel of several arrays, in one loop, with terms added in an order of the shapes."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jopt.quantize.arithmetic import divide, lanes_of

# The entries that a round of the loop adds are a multiple of this, and at most four times as many.
_WIDTH, _MOST = 512, 4

Axes = tuple[int, ...]


def mean_magnitude(x: jax.Array, axes: Axes) -> jax.Array:
    """The mean of |x| over the entries that are not 0, along `axes`, kept with length 1; 0 where there are none.

    Args:
      x: float32 array.
      axes: the axes, increasing.

    Returns:
      float32.

    Example:
      >>> mean_magnitude(jnp.float32([-1.0, 0.0, 3.0]), (0,)).tolist()
      [2.0]
    """
    return mean_magnitudes([x], [axes], [largest_magnitude(x, axes)])[0]


def largest_magnitude(x: jax.Array, axes: Axes) -> jax.Array:
    """The largest |x| along `axes`, kept with length 1.

    Example:
      >>> largest_magnitude(jnp.float32([[-2.0, 1.0]]), (1,)).tolist()
      [[2.0]]
    """
    return jnp.max(jnp.abs(x), axes, keepdims=True, initial=0.0)


def mean_magnitudes(
    arrays: Sequence[jax.Array], axes: Sequence[Axes], largest: Sequence[jax.Array]
) -> list[jax.Array]:
    """`mean_magnitude` of several arrays.

    One loop for all of them: XLA compiles a loop for each array separately, which takes longer than the rest of a
    program that quantizes many kernels.

    Args:
      arrays: float32.
      axes: for each.
      largest: `largest_magnitude` of each.

    Returns:
      float32, as `largest`.

    Example:
      >>> a, b = jnp.float32([-1.0, 0.0, 3.0]), jnp.float32([[2.0, -4.0]])
      >>> largest = [largest_magnitude(a, (0,)), largest_magnitude(b, (0,))]
      >>> [m.tolist() for m in mean_magnitudes([a, b], [(0,), (0,)], largest)]
      [[2.0], [[2.0, 4.0]]]
    """
    tables = [_rows(x, a) for x, a in zip(arrays, axes, strict=True)]
    # Of large rows few, of small ones little padding.
    width = _WIDTH * min(_MOST, *(-(-table[0].size // _WIDTH) for table in tables))
    parts = [-(-table[0].size // width) for table in tables]
    first = np.cumsum([0, *parts])
    # Rows in the order of an array, each in parts of `width`: part i of all its rows is added up in total i.
    totals = [
        np.tile(np.arange(n), len(table)) + start for table, n, start in zip(tables, parts, first, strict=False)
    ]
    rows = jnp.concatenate([_in_parts(table, n, width) for table, n in zip(tables, parts, strict=True)])
    sums = _totals(rows, np.concatenate(totals), int(first[-1]))
    means = []
    for x, along, peak, table, n, start in zip(arrays, axes, largest, tables, parts, first, strict=False):
        shape = table.shape[1:]
        flat = sums[:, start : start + n].reshape(3, n * width)[:, : math.prod(shape)].reshape(3, *shape)
        total, count, least = (t.reshape(_kept_shape(x.shape, along)) for t in _halved(flat))
        # Rounding must not carry the mean out of its values: that of equal ones is their value, to the last bit.
        means.append(jnp.clip(divide(total, jnp.maximum(count, 1)), least, peak))
    return means


def _rows(x: jax.Array, axes: Axes) -> jax.Array:
    """|x| as [rows, lanes, *kept axes], zeros and what does not fill a row before the others."""
    kept = [i for i in range(x.ndim) if i not in axes]
    y = jnp.abs(x.transpose(*axes, *kept)).reshape(-1, *(x.shape[i] for i in kept))
    lanes = lanes_of(y.shape)
    full = y.shape[0] // lanes * lanes
    if full < max(y.shape[0], 1):
        y = jnp.concatenate([y[full:], jnp.zeros((full + lanes - y.shape[0], *y.shape[1:]), y.dtype), y[:full]])
    return y.reshape(-1, lanes, *y.shape[1:])


def _in_parts(table: jax.Array, parts: int, width: int) -> jax.Array:
    """A table's rows, filled with zeros, as [parts * rows, width]."""
    flat = table.reshape(len(table), -1)
    return jnp.pad(flat, [(0, 0), (0, parts * width - flat.shape[1])]).reshape(-1, width)


def _totals(rows: jax.Array, index: np.ndarray, count: int) -> jax.Array:
    """The sum, the number and the least of the entries that are not 0 of all rows with one index, elementwise.

    Args:
      rows: float32 [rows, width], at least 0.
      index: int [rows], in [0, count).
      count: how many there are.

    Returns:
      float32 [3, count, width].
    """
    of_row = jnp.asarray(index, jnp.int32)

    def add(i: jax.Array, totals: jax.Array) -> jax.Array:
        row, k = lax.dynamic_index_in_dim(rows, i, 0, False), of_row[i]
        total, number, least = lax.dynamic_index_in_dim(totals, k, 1, False)
        present = row != 0
        least = jnp.minimum(least, jnp.where(present, row, jnp.inf))
        changed = jnp.stack([total + row, number + present.astype(row.dtype), least])
        return lax.dynamic_update_index_in_dim(totals, changed, k, 1)

    # A loop: XLA would reorder the terms of a reduction, and would fuse those of a sum written out.
    zeros = jnp.zeros((2, count, rows.shape[1]), rows.dtype)
    return lax.fori_loop(0, len(rows), add, jnp.concatenate([zeros, jnp.full_like(zeros[:1], jnp.inf)]))


def _halved(totals: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The sum, the number and the least over the lanes, of [3, lanes, *kept axes]."""
    sums, least = totals[:2], totals[2]
    while (half := least.shape[0] // 2) > 0:
        sums, least = sums[:, :half] + sums[:, half:], jnp.minimum(least[:half], least[half:])
    return sums[0], sums[1], least


def _kept_shape(shape: tuple[int, ...], axes: Axes) -> list[int]:
    return [1 if i in axes else size for i, size in enumerate(shape)]
