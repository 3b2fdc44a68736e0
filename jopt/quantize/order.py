"""The k-th smallest value without a sort: bisection on the bits of the number."""

import jax
import jax.numpy as jnp
from jax import lax


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

    def round_(i: jax.Array, found: jax.Array) -> jax.Array:
        candidate = found | (top >> i.astype(jnp.uint32))
        below = jnp.sum((keys < candidate).astype(jnp.int32), axes, keepdims=True)
        return jnp.where(below <= k, candidate, found)

    found = lax.fori_loop(0, 32, round_, jnp.zeros_like(k, jnp.uint32))
    return lax.bitcast_convert_type(jnp.where(found >= top, found ^ top, ~found), jnp.float32)
