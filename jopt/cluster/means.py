"""Sums and means within clusters, the look-up of a cluster's value, and which value of a codebook is nearest."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Integer

from jopt.levels import CPU_ONLY

# Sums kept for each cluster: with one alone, each addition to a large cluster (pruned weights) waits for the last.
BANKS = 8
# Additions to one sum, at most: float32 sums of millions of terms would lose their last digits.
LENGTH = 2**16


def wide(dtype: DTypeLike) -> type:
    """The dtype to compute in: float64 for float64, float32 for all others.

    Example:
      >>> wide(jnp.bfloat16).__name__
      'float32'
    """
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def take(table: jax.Array, codes: jax.Array) -> jax.Array:
    """`table[codes]` for codes that are known to lie in the table, of any shape and integer dtype.

    Example:
      >>> take(jnp.array([0.5, 2.0]), jnp.array([1, 0, 1], jnp.uint8)).tolist()
      [2.0, 0.5, 2.0]
    """
    return table.at[codes.astype(jnp.int32)].get(mode="promise_in_bounds")


def cluster_sums(values: Float[Array, " n"], codes: Integer[Array, " n"], k: int) -> Float[Array, " k"]:
    r"""$s_j = \sum_{i : c_i = j} v_i$.

    On a CPU a scatter in index order, whose cost does not depend on k. Elsewhere a masked sum, as a scatter there
    adds in an order that changes from run to run.

    Args:
      values: [n], floating.
      codes: [n], integers in [0, k).
      k: the number of clusters.

    Returns:
      [k], of the dtype of `values`; 0 for an empty cluster.

    Example:
      >>> cluster_sums(jnp.array([1.0, 2.0, 4.0]), jnp.array([0, 2, 0], jnp.uint8), 3).tolist()
      [5.0, 0.0, 2.0]
    """

    @jax.named_scope(CPU_ONLY)
    def scattered(values: jax.Array, codes: jax.Array) -> jax.Array:
        return _scattered_sums(values, codes, k)

    return lax.platform_dependent(values, codes, cpu=scattered, default=lambda v, c: _masked_sums(v, c, k))


def _scattered_sums(values: jax.Array, codes: jax.Array, k: int) -> jax.Array:
    banks = max(BANKS, 1 << (values.size // LENGTH).bit_length())
    ids = codes.astype(jnp.int32) + k * (jnp.arange(values.size, dtype=jnp.int32) % banks)
    sums = jax.ops.segment_sum(values, ids, banks * k, mode="promise_in_bounds")
    # A product, where XLA would fuse a sum into the look-up that follows and do it again for each weight.
    return jnp.dot(jnp.ones(banks, values.dtype), sums.reshape(banks, k), precision=lax.Precision.HIGHEST)


def _masked_sums(values: jax.Array, codes: jax.Array, k: int) -> jax.Array:
    mine = codes[None, :] == jnp.arange(k, dtype=codes.dtype)[:, None]
    return jnp.where(mine, values[None, :], jnp.zeros((), values.dtype)).sum(axis=1)


def cluster_means(
    values: Float[Array, " n"], codes: Integer[Array, " n"], members: Int[Array, " k"], counts: Float[Array, " k"]
) -> Float[Array, " k"]:
    r"""$m_j = r_j + \frac{1}{n_j} \sum_{i : c_i = j} (v_i - r_j)$, with $r_j$ the value of one member.

    The mean, in a form that is exact where all members of a cluster are equal, and accurate where they are close.

    Args:
      values: [n], float32 or float64.
      codes: [n], integers in [0, k).
      members: int32 [k], the index of any member of each cluster (any index at all for an empty cluster).
      counts: float32 [k], the clusters' sizes.

    Returns:
      [k], of the dtype of `values`. An empty cluster's is arbitrary. Never -0.0, which is written 0.0.

    Example:
      >>> values, codes = jnp.array([1.0, 0.1, 2.0, 0.1]), jnp.array([0, 1, 0, 1])
      >>> cluster_means(values, codes, jnp.array([0, 1]), jnp.array([2.0, 2.0])).tolist()
      [1.5, 0.10000000149011612]
    """
    members_values = take(values, members)
    deviations = cluster_sums(values - take(members_values, codes), codes, members.size)
    means = members_values + deviations / jnp.maximum(counts, 1).astype(values.dtype)
    return jnp.where(means == 0, jnp.zeros((), values.dtype), means)


def nearest(x: Float[Array, "*shape"], centroids: Float[Array, " k"]) -> Int[Array, "*shape"]:
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
