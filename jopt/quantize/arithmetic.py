"""Division, sums and order statistics whose last bit does not depend on the program around them.

XLA turns a division by a broadcast number or a constant into a product with its reciprocal, and chooses the order
of a sum by the shapes at hand. Codes would then differ between a single model and a batch of models, and from
`round(x / scale)`.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

# Entries added at once: so many that a round of the loop costs more than its start.
_LANES = 2048


def divide(a: jax.Array, b: jax.Array | float) -> jax.Array:
    """`a / b`, correctly rounded even where `b` is broadcast.

    Args:
      a: float32.
      b: float32 that broadcasts against `a`.

    Returns:
      float32, of the broadcast shape.

    Example:
      >>> divide(jnp.float32([0.3, 0.0]), jnp.float32(0.1)).tolist()
      [3.0, 0.0]
    """
    # The divisor is b, but XLA sees one that differs from element to element and that it cannot fold to a constant,
    # and so takes no reciprocal.
    b = lax.optimization_barrier(jnp.asarray(b, a.dtype))
    return a / jnp.where(a == b, a, b)


def computed_once(x: jax.Array) -> jax.Array:
    """`x`, computed once and kept by XLA instead of once for each element that it is broadcast to.

    Example:
      >>> computed_once(jnp.array([[0.5]])).tolist()
      [[0.5]]
    """
    # Of all elementwise operations, XLA takes only a quotient for too costly to repeat.
    return divide(x, 1.0) if x.ndim else x


def ordered_sum(
    x: jax.Array, axes: tuple[int, ...], of: Callable[[jax.Array], jax.Array] = lambda terms: terms
) -> jax.Array:
    """The sum along `axes`, kept with length 1, whose terms are added in an order given by the shape alone.

    Args:
      x: a floating array.
      axes: the axes to sum along, increasing.
      of: what is summed, an elementwise function of `x` that gives 0 for 0.

    Returns:
      An array of the dtype and rank of `x`.

    Example:
      >>> ordered_sum(jnp.full((3, 100), -1.0), (0, 1), of=jnp.abs).tolist()
      [[300.0]]
    """
    kept_axes = [i for i in range(x.ndim) if i not in axes]
    y = x.transpose(*axes, *kept_axes).reshape(-1, *(x.shape[i] for i in kept_axes))
    n, lanes = y.shape[0], lanes_of(y.shape)
    rows = n // lanes
    total = of(jnp.pad(y[rows * lanes :], [(0, lanes - n % lanes), *[(0, 0)] * (y.ndim - 1)]))
    blocks = y[: rows * lanes].reshape(rows, lanes, *y.shape[1:])
    if rows:
        # A loop: XLA would reorder the terms of a reduction, and would fuse those of a sum written out.
        total = lax.fori_loop(0, rows, lambda i, t: t + of(lax.dynamic_index_in_dim(blocks, i, 0, False)), total)
    while lanes > 1:
        lanes //= 2
        total = total[:lanes] + total[lanes:]
    return total.reshape([1 if i in axes else size for i, size in enumerate(x.shape)])


def lanes_of(shape: tuple[int, ...]) -> int:
    """How many sums of terms [n, *kept axes] are made at once and added in the end: a power of two.

    Example:
      >>> lanes_of((1_000_000,)), lanes_of((300, 100)), lanes_of((3, 2))
      (2048, 4, 2)
    """
    n, width = shape[0], max(math.prod(shape[1:]), 1)
    # Several channels are lanes already, and halving them in the end is slower.
    return 1 << (max(min(_LANES if width == 1 else _LANES // (4 * width), n), 1).bit_length() - 1)


def count_nonzero(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The number of entries that are not 0 along `axes`, kept with length 1, and at least 1, as float32.

    Example:
      >>> count_nonzero(jnp.float32([[1.0, 0.0], [2.0, 0.0]]), (0,)).tolist()
      [[2.0, 1.0]]
    """
    if len(axes) < x.ndim:
        count = jnp.sum((x != 0).astype(jnp.int32), axes, keepdims=True).astype(x.dtype)
    else:
        # XLA on CPU sums integers to a single number one by one.
        count = ordered_sum(x, axes, of=lambda terms: (terms != 0).astype(terms.dtype))
    return jnp.maximum(count, 1)


def order_statistic(x: jax.Array, k: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The k-th smallest value (from 0) along `axes`, which are kept with length 1.

    32 rounds of counting, each a pass over the data: on a CPU several times faster than a sort, and it vmaps.

    Args:
      x: float32 array without NaN.
      k: int32, at least 0 and below the number of entries, of the shape that counting along `axes` gives.
      axes: the axes.

    Returns:
      float32, of the shape of `k`.

    Example:
      >>> order_statistic(jnp.float32([3.0, -1.0, 2.0, -0.5]), jnp.array([1]), (0,)).tolist()
      [-0.5]
    """
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    top = jnp.uint32(1 << 31)
    # Unsigned integers in the order of the numbers: the negative ones reversed, the others above them.
    keys = jnp.where(bits >= top, ~bits, bits | top)

    def next_bit(i: jax.Array, prefix: jax.Array) -> jax.Array:
        candidate = prefix | (top >> i.astype(jnp.uint32))
        below = jnp.sum((keys < candidate).astype(jnp.int32), axes, keepdims=True)
        return jnp.where(below <= k, candidate, prefix)

    key = lax.fori_loop(0, 32, next_bit, jnp.zeros_like(k, jnp.uint32))
    return lax.bitcast_convert_type(jnp.where(key >= top, key ^ top, ~key), jnp.float32)
