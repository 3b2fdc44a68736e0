"""Which of the sorted values of a codebook is nearest."""

import jax
import jax.numpy as jnp
from jax import lax


def nearest(x: jax.Array, centroids: jax.Array) -> jax.Array:
    """The index of the nearest of the sorted `centroids` for each entry, the lower one half-way between two.

    Args:
      x: float32, any shape.
      centroids: float32 [k], in ascending order, infinite at the end where there are fewer.

    Returns:
      int32 of the shape of x.

    Example:
      >>> nearest(jnp.array([-3.0, 1.5, 1.6, 9.0]), jnp.array([1.0, 2.0, jnp.inf])).tolist()
      [0, 0, 1, 1]
    """
    return jnp.searchsorted(middles(centroids), x, side="left", method="scan_unrolled").astype(jnp.int32)


def middles(centroids: jax.Array) -> jax.Array:
    """The k - 1 boundaries between sorted centroids: a value at a boundary belongs to the lower.

    Example:
      >>> middles(jnp.array([1.0, 2.0, 5.0])).tolist()
      [1.5, 3.5]
    """
    low, high = centroids[:-1], centroids[1:]
    # XLA would make half a sum of it, which overflows near the end of float32.
    middle = lax.optimization_barrier(0.5 * low) + 0.5 * high
    # Between two neighbours among the floats, the middle rounds to one of them: the upper must stay above it.
    return jnp.where((middle < high) | jnp.isinf(high), middle, low)
