"""The codebook that Lloyd's iteration begins with: a start, refined into cells that are joined to k clusters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jopt.cluster.means import cluster_sums, nearest, take

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


ROUNDS = 64
# A half of a cell has about 8^-1/2 of its error's root: cells with more are split together.
ENOUGH = np.float32(8**-0.5)
# Sums that the dynamic programming compares, at most.
WORK = 2**24
EXPONENT = np.int32(0x7F800000)


class Cells(NamedTuple):
    """Intervals of the line, in ascending order.

    Attributes:
      means: float32 [m], of the values in each cell; of one without values some number, or infinity.
      counts: float32 [m], how many values each cell holds.
    """

    means: jax.Array
    counts: jax.Array


def cell_count(n: int, k: int) -> int:
    """How many cells n values are put in, to be joined to k clusters.

    Example:
      >>> [cell_count(n, k) for n, k in ((10**6, 16), (10**6, 64), (10**6, 256), (10**6, 4096), (24, 4))]
      [256, 256, 1024, 8192, 24]
    """
    return max(k, min(n, max(256, min(4 * k, 4096), 2 * k)))


def single_cells(x: jax.Array, counted: jax.Array, cells: int) -> Cells:
    """A cell for each value: of few values, so that the best way to join them is the best of all.

    Args:
      x: float32 [n].
      counted: bool [n], which of them count.
      cells: at least n.

    Returns:
      `Cells`.

    Example:
      >>> found = single_cells(jnp.array([3.0, 1.0, 2.0]), jnp.array([True, True, False]), 4)
      >>> found.means.tolist(), found.counts.tolist()
      ([1.0, 3.0, inf, inf], [1.0, 1.0, 0.0, 0.0])
    """
    values = jnp.sort(jnp.where(counted, x, jnp.inf))
    means = jnp.concatenate([values, jnp.full(cells - x.size, jnp.inf, jnp.float32)])
    return Cells(means, jnp.isfinite(means).astype(jnp.float32))


def split_cells(x: jax.Array, counted: jax.Array, first: jax.Array, cells: int) -> Cells:
    r"""Splits cells at their means until there are `cells`, those with the largest error first.

    Splitting a cell of n values into parts of n_l and n_r with means m_l and m_r lowers the squared error by
    $n_l n_r (m_r - m_l)^2 / n$ (Linde, Buzo and Gray, 1980, split all). One round splits each cell whose gain is
    at least an eighth of the largest, which is what the halves of the largest are left with: as good as one after
    the other, in few passes over the values.

    Args:
      x: float32 [n], such that the sum of n differences does not overflow.
      counted: bool [n], which of them count.
      first: float32 [k], values to begin with, in ascending order, infinite at the end where there are fewer.
      cells: the largest number of cells, at least k.

    Returns:
      `Cells`. Where there are fewer distinct values than cells, each value has a cell for itself.

    Example:
      >>> found = split_cells(jnp.array([0.0, 1.0, 2.0, 100.0]), jnp.ones(4, bool), jnp.array([50.0]), 3)
      >>> found.means.tolist(), found.counts.tolist()
      ([0.5, 2.0, 100.0], [2.0, 1.0, 1.0])
    """
    # Entries that do not count take part with weight 0: under `jit` they cannot be left out.
    on = counted.astype(jnp.float32)

    def one_round(carry):
        rounds, centers, *_ = carry
        codes = nearest(x, centers)
        counts = cluster_sums(on, codes, cells)
        means = centers + cluster_sums(on * (x - take(centers, codes)), codes, cells) / jnp.maximum(counts, 1)
        apart = x - take(means, codes)
        right = jnp.where(apart > 0, on, 0.0)
        above = cluster_sums(right, codes, cells)
        below = counts - above
        # What the right half is above the mean, the left half is below it.
        rise = cluster_sums(right * apart, codes, cells)
        high, low = means + rise / jnp.maximum(above, 1), means - rise / jnp.maximum(below, 1)
        # The root of the gain, as squares of small differences underflow.
        gain = rise * jnp.sqrt(jnp.where(above > 0, counts / above / jnp.maximum(below, 1), 0.0))
        empty = counts == 0
        rank = jnp.argsort(jnp.argsort(-gain))
        chosen = (gain > 0) & (gain >= gain.max() * ENOUGH) & (rank < empty.sum())
        remaining = jnp.where(empty, jnp.inf, jnp.where(chosen, low, means))
        following = jnp.sort(jnp.concatenate([remaining, jnp.where(chosen, high, jnp.inf)]))[:cells]
        return rounds + 1, following, Cells(means, counts), jnp.any(chosen)

    slots = jnp.concatenate([first, jnp.full(cells - first.size, jnp.inf, jnp.float32)])
    begin = (jnp.int32(0), slots, Cells(slots, jnp.zeros_like(slots)), jnp.array(True))
    # The last round splits nothing, so its sums are those of the result.
    return lax.while_loop(lambda carry: carry[3] & (carry[0] < ROUNDS), one_round, begin)[2]


def join_cells(cells: Cells, k: int, used: jax.Array) -> jax.Array:
    r"""Joins neighbouring cells to k clusters with the least squared error, by dynamic programming.

    $D_c(j) = \min_{t} D_{c-1}(j - t) + E(j - t, j)$, with E(i, j) the squared error of cells i to j - 1 as one
    cluster (Fisher, 1958; Wang and Song, 2011, Ckmeans.1d.dp, equation 2). The error inside the cells is the same
    for all, and left out. Clusters of more than `WORK` / (k m) cells, but at least of 16, are not tried; with the
    `cell_count` of up to 64 clusters that is no limit.

    Args:
      cells: m cells, at least k.
      k: the length of the result.
      used: int32 scalar, how many clusters to make, 1 to k; may be traced.

    Returns:
      float32 [k], the means of the clusters, in ascending order; infinite from `used` on.

    Example:
      >>> cells = Cells(jnp.array([0.0, 1.0, 2.0, 100.0]), jnp.array([1.0, 1.0, 1.0, 1.0]))
      >>> join_cells(cells, 3, jnp.int32(2)).tolist()
      [1.0, 100.0, inf]
    """
    m = cells.means.size
    longest = min(m, max(16, WORK // (k * m)))
    errors, means = _interval_errors(cells, longest)
    # Of the t + 1 cells that end with cell j: how many cells are before them, and the length of the padding.
    before = np.arange(m)[None, :] - np.arange(longest)[:, None] + longest

    def one_more(best, _):
        # Padded on the left: no cluster begins before the first cell.
        padded = jnp.concatenate([jnp.full(longest, jnp.inf, jnp.float32), best[:-1]])
        sums = padded[before] + errors
        length = jnp.argmin(sums, axis=0)
        least = jnp.min(sums, axis=0)
        return jnp.concatenate([jnp.full(1, jnp.inf, jnp.float32), least]), length.astype(jnp.uint16)

    start = jnp.where(jnp.arange(m + 1) == 0, 0.0, jnp.inf).astype(jnp.float32)
    _, lengths = lax.scan(one_more, start, length=k)

    def back(end, c):
        last = jnp.maximum(end - 1, 0)
        length = lengths[c, last].astype(jnp.int32)
        makes = c < used
        return jnp.where(makes, end - length - 1, end), jnp.where(makes, means[length, last], jnp.inf)

    _, centroids = lax.scan(back, jnp.int32(m), jnp.arange(k), reverse=True)
    return centroids


def _interval_errors(cells: Cells, longest: int) -> tuple[jax.Array, jax.Array]:
    """The squared error and the mean of the t + 1 cells that end with cell j, [longest, m] each."""
    nonempty = cells.counts > 0
    low, high = jnp.where(nonempty, cells.means, jnp.inf).min(), jnp.where(nonempty, cells.means, -jnp.inf).max()
    # In units of about the whole width, whose squares neither overflow nor, where they matter, underflow. A power
    # of two, so that products with it are exact: fused with a sum or not, they give the same bits.
    width = lax.bitcast_convert_type(lax.bitcast_convert_type(high - low, jnp.int32) & EXPONENT, jnp.float32)
    width = jnp.where(width > 0, width, 1.0)
    unit = jnp.clip((cells.means - low) / width, 0.0, 2.0)
    counts = cells.counts
    padding = jnp.zeros(longest, jnp.float32)
    units, sizes = jnp.concatenate([padding, unit]), jnp.concatenate([padding, counts])

    def longer(carry, t):
        error, mean, count = carry
        added, size = (lax.dynamic_slice(a, (longest - t,), (counts.size,)) for a in (units, sizes))
        total = count + size
        apart = mean - added
        # Divided last, as products may be fused with the sum, and eager and compiled results would differ.
        error = error + apart * apart * count * size / jnp.maximum(total, 1)
        mean = mean - apart * size / jnp.maximum(total, 1)
        error = jnp.where(jnp.arange(counts.size) < t, jnp.inf, error)
        return (error, mean, total), (error, mean)

    first = (jnp.zeros_like(unit), unit, counts)
    _, (errors, means) = lax.scan(longer, first, jnp.arange(1, longest))
    errors = jnp.concatenate([first[0][None], errors])
    means = jnp.concatenate([first[1][None], means])
    return errors, low + means * width
