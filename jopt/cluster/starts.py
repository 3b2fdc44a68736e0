"""Where k-means begins: equally spaced, at quantiles, or drawn far apart."""

import jax
import jax.numpy as jnp

STARTS = ("linear", "density", "kmeans++")


def linear(x: jax.Array, counted: jax.Array, slots: int, used: jax.Array) -> jax.Array:
    r"""$c_i = \min + \frac{i}{m - 1} (\max - \min)$ (Han et al., 2016, section 3.2).

    Large weights are few and matter most: of the three starts, this one has the most centroids near them.

    Args:
      x: float32 [n], the values.
      counted: bool [n], which of them count.
      slots: the length of the result.
      used: int32 scalar m, at most `slots`, may be traced.

    Returns:
      float32 [slots], of which the first m hold the centroids. One centroid alone starts at the smallest value.

    Example:
      >>> linear(jnp.array([4.0, 0.0, 9.0]), jnp.array([True, True, False]), 3, jnp.int32(3)).tolist()
      [0.0, 2.0, 4.0]
    """
    low = jnp.where(counted, x, jnp.inf).min()
    high = jnp.where(counted, x, -jnp.inf).max()
    steps = jnp.arange(slots, dtype=jnp.int32).astype(jnp.float32)
    # Divided last: a product added to `low` might be fused, and eager and compiled results would differ.
    return low + (high - low) * steps / jnp.maximum(used - 1, 1).astype(jnp.float32)


def density(x: jax.Array, counted: jax.Array, slots: int, used: jax.Array) -> jax.Array:
    r"""$c_i = x_{(\lfloor (2 i + 1) n / 2 m \rfloor)}$, the medians of m equally large parts of the sorted values.

    Han et al., 2016, section 3.2: equal steps on the values' cumulative distribution.

    Args:
      x: float32 [n], the values.
      counted: bool [n], which of them count.
      slots: the length of the result.
      used: int32 scalar m, at most `slots`, may be traced.

    Returns:
      float32 [slots], of which the first m hold the centroids.

    Example:
      >>> density(jnp.array([5.0, 1.0, 2.0, 3.0]), jnp.ones(4, bool), 2, jnp.int32(2)).tolist()
      [2.0, 5.0]
    """
    ordered = jnp.sort(jnp.where(counted, x, jnp.inf))
    n, parts = counted.sum().astype(jnp.uint32), 2 * used.astype(jnp.uint32)
    odd = 2 * jnp.arange(slots, dtype=jnp.uint32) + 1
    # (2 i + 1) n // 2 m in two parts, neither of which overflows.
    index = odd * (n // parts) + odd * (n % parts) // parts
    return ordered.at[jnp.minimum(index, jnp.uint32(x.size - 1)).astype(jnp.int32)].get(mode="promise_in_bounds")


def kmeans_plus_plus(x: jax.Array, counted: jax.Array, slots: int, key: jax.Array) -> jax.Array:
    r"""Draws each centroid from the values, with a chance proportional to $\min_j (x - c_j)^2$.

    Arthur and Vassilvitskii, 2007, k-means++: the advantages of careful seeding, section 2.2. The first is drawn
    evenly. No value is drawn twice while there are others.

    Args:
      x: float32 [n], the values.
      counted: bool [n], which of them can be drawn.
      slots: the length of the result.
      key: a JAX key.

    Returns:
      float32 [slots], the centroids as they were drawn, not sorted.

    Example:
      >>> x = jnp.array([0.0, 0.0, 7.0])
      >>> sorted(kmeans_plus_plus(x, jnp.ones(3, bool), 2, jax.random.key(0)).tolist())
      [0.0, 7.0]
    """

    def draw(distance, key):
        # Logarithms, as the squares of small distances underflow.
        chance = jnp.where(counted, 2 * jnp.log(distance), -jnp.inf)
        centroid = x.at[jax.random.categorical(key, chance)].get(mode="promise_in_bounds")
        apart = jnp.abs(x - centroid)
        return jnp.minimum(distance, apart), centroid

    keys = jax.random.split(key, slots)
    first = x.at[jax.random.categorical(keys[0], jnp.where(counted, 0.0, -jnp.inf))].get(mode="promise_in_bounds")
    _, others = jax.lax.scan(draw, jnp.abs(x - first), keys[1:])
    return jnp.concatenate([first[None], others])
