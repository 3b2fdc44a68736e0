"""k-means on the line: the codebook of one array."""

import operator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from jopt.cluster import starts
from jopt.cluster.means import cluster_sums, middles, nearest, take
from jopt.typing import Key, Number

MAX_CLUSTERS = 4096
# Differences of so many values as an array can have stay finite below it.
LARGE = 2.0**80


class Clusters(NamedTuple):
    """The codebook of one array, and which of its values each entry has.

    Attributes:
      centroids: float32 [k], in ascending order; with `has_zero`, 0.0 and then the others in ascending order.
      assignments: uint8 (uint16 if k > 256) of the array's shape: each entry's index into `centroids`.
      counts: float32 [k], the number of (counted) entries in each cluster.
      has_zero: bool scalar, whether code 0 is the number zero, kept for the entries that are exactly zero.
      inertia: float32 scalar, the sum of squared differences between the (counted) entries and their centroids;
        infinite where float32 cannot hold it.
      iterations: int32 scalar, how many of Lloyd's iterations were run.
    """

    centroids: jax.Array
    assignments: jax.Array
    counts: jax.Array
    has_zero: jax.Array
    inertia: jax.Array
    iterations: jax.Array


def kmeans(
    w: ArrayLike,
    k: int,
    *,
    start: str = "linear",
    iterations: Number = 100,
    keep_zero: bool = False,
    mask: ArrayLike | None = None,
    key: jax.Array | None = None,
) -> Clusters:
    r"""Minimizes $\sum_i (w_i - c_{a_i})^2$ over k centroids c and assignments a.

    Han, Mao and Dally, 2016, Deep Compression, equation 2. Lloyd's iteration alone ends in minima with several
    times the least error, and with clusters that no entry belongs to. So the intervals of the first centroids are
    split into several times as many cells (`jopt.cluster.starts.split_cells`), which dynamic programming joins to k
    clusters with the least error (`join_cells`); Lloyd's iteration then moves boundaries only within cells. The
    error is at most 1.05 times that of scikit-learn's `KMeans`, the best of ten starts, in all tests, and mostly
    below it.

    On the line the clusters are intervals: an entry belongs to the nearest centroid, and half-way between two to
    the lower. A centroid moves to its cluster's mean. Iterations end where no entry changes its cluster. An array
    of at most k distinct values is represented exactly (then the largest value is repeated to fill the codebook).

    Works under `jit` and `vmap`, is deterministic, and does not sort the array (but for `start='density'`, and a
    small array, of which each entry has a cell: then the start decides nothing, and the error is the least).

    Args:
      w: a floating array of any shape, not empty, all finite. Computed in float32.
      k: the largest number of distinct values, zero included; 1 to 4096, at least 2 with `keep_zero`.
      start: the first centroids, which are then improved: 'linear', equally spaced between the smallest and the
        largest; 'density', quantiles; 'kmeans++', drawn.
      iterations: the largest number of Lloyd's iterations, at least 0; may be traced. With 0 the centroids are
        those of `start`.
      keep_zero: if any entry is exactly 0, then code 0 is the number 0.0 and belongs to all of these and no other,
        and the other k - 1 centroids fit the other entries.
      mask: bool of w's shape, the entries that count (all, if None). The others are given the nearest centroid.
      key: a JAX key, read by 'kmeans++'.

    Returns:
      `Clusters`.

    Raises:
      ValueError: for a k, start, mask or w other than the above, or a missing key.

    Example:
      >>> clusters = kmeans(jnp.array([0.0, 1.0, 2.0, 9.0, 10.0]), 2)
      >>> clusters.centroids.tolist(), clusters.assignments.tolist(), float(clusters.inertia)
      ([1.0, 9.5], [0, 0, 0, 1, 1], 2.5)
      >>> kmeans(jnp.array([0.0, 1.0, 2.0, 9.0, 10.0]), 3, keep_zero=True).centroids.tolist()
      [0.0, 1.5, 9.5]
    """
    w = jnp.asarray(w)
    k = check_clusters(k, keep_zero)
    check_start(start)
    check_values(w)
    if start == "kmeans++" and key is None:
        raise ValueError("start 'kmeans++' draws its centroids: it needs a key")
    if mask is not None and (jnp.shape(mask) != w.shape or jnp.asarray(mask).dtype != jnp.bool_):
        description = f"{jnp.asarray(mask).dtype} of shape {jnp.shape(mask)}"
        raise ValueError(f"mask must be bool of shape {w.shape}, got {description}")
    counted = jnp.ones(w.size, jnp.bool_) if mask is None else jnp.asarray(mask).reshape(-1)
    # The limit is a number in the program, so that a sweep over it compiles once.
    limit = jnp.asarray(iterations).astype(jnp.int32)
    fitted = _fit(w.reshape(-1), counted, limit, key, k=k, start=start, keep_zero=bool(keep_zero))
    return fitted._replace(assignments=fitted.assignments.reshape(w.shape))


def lookup(clusters: Clusters, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """The array that the codebook stands for: `centroids[assignments]`.

    Args:
      clusters: of `kmeans`.
      dtype: of the result. Centroids are rounded to it, so in bfloat16 two of them may become one value.

    Returns:
      An array of the shape of `assignments`.

    Example:
      >>> lookup(kmeans(jnp.array([1.0, 2.0, 7.0]), 2)).tolist()
      [1.5, 1.5, 7.0]
    """
    return take(clusters.centroids, clusters.assignments).astype(dtype)


def check_clusters(k: int, keep_zero: bool = False, where: str = "k") -> int:
    """`k` as an int; raises `ValueError` if it is not a number of clusters.

    Example:
      >>> check_clusters(1, keep_zero=True)
      Traceback (most recent call last):
      ...
      ValueError: k must be an integer in [2, 4096] (one value is zero: keep_zero), got 1
    """
    least = 2 if keep_zero else 1
    why = " (one value is zero: keep_zero)" if keep_zero else ""
    try:
        fine = not isinstance(k, bool) and least <= operator.index(k) <= MAX_CLUSTERS
    except TypeError:
        fine = False
    if not fine:
        raise ValueError(f"{where} must be an integer in [{least}, {MAX_CLUSTERS}]{why}, got {k!r}")
    return operator.index(k)


def check_start(start: str) -> None:
    """Raises `ValueError` for an unknown start."""
    if start not in starts.STARTS:
        raise ValueError(f"start must be one of {', '.join(map(repr, starts.STARTS))}, got {start!r}")


def check_values(w: jax.Array, name: str = "w") -> None:
    """Raises `ValueError` for an array without entries, not floating, or (unless traced) not finite."""
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise ValueError(f"{name} must be a floating array, got {w.dtype}")
    if w.size == 0:
        raise ValueError(f"{name} must have at least one entry, got shape {w.shape}")
    if isinstance(w, Tracer):
        return
    # NumPy, as JAX would trace this too inside a trace that an array is constant in.
    if wrong := int((~np.isfinite(np.asarray(w).astype(np.float32))).sum()):
        raise ValueError(f"{name} must be finite, got {wrong} entries that are not")


def codes_dtype(k: int) -> Any:
    """The narrowest dtype of k codes.

    Example:
      >>> codes_dtype(256).__name__, codes_dtype(257).__name__
      ('uint8', 'uint16')
    """
    return jnp.uint8 if k <= 256 else jnp.uint16


@partial(jax.jit, static_argnames=("k", "start", "keep_zero"))
def _fit(
    w: jax.Array, counted: jax.Array, limit: jax.Array, key: Key | None, *, k: int, start: str, keep_zero: bool
) -> Clusters:
    x = w.astype(jnp.float32)
    # Zero is not a centroid that k-means may move: pruned weights would come back as small numbers.
    has_zero = jnp.any(x == 0) if keep_zero else jnp.zeros((), jnp.bool_)
    fitting = counted & (x != 0) if keep_zero else counted
    # The last of the k slots is not used where zero takes one; infinity keeps it away from every entry.
    used = k - has_zero.astype(jnp.int32)
    is_used = jnp.arange(k, dtype=jnp.int32) < used

    distinct = _smallest(x, fitting, k + 1)
    exact = (distinct < jnp.inf).sum() <= used
    largest = jnp.where(fitting, x, -jnp.inf).max()
    # Sums of values near the end of float32 would overflow; a power of two changes no digit.
    unit = jnp.where(jnp.abs(x).max() > LARGE, jnp.float32(2.0**-40), jnp.float32(1.0))
    first = jnp.where(is_used, _start(start, x * unit, fitting, used, is_used, key), jnp.inf)
    centroids, done = lax.cond(
        exact | (limit == 0),
        lambda: (first, jnp.int32(0)),
        lambda: _lloyd(x * unit, fitting, _refine(x * unit, fitting, first, used), limit),
    )
    centroids = jnp.where(is_used, jnp.where(exact, jnp.minimum(distinct[:k], largest), centroids / unit), jnp.inf)

    codes = nearest(x, centroids)
    if keep_zero:
        shifted = jnp.concatenate([jnp.zeros(1, jnp.float32), centroids[:-1]])
        centroids = jnp.where(has_zero, shifted, centroids)
        codes = jnp.where(x == 0, 0, codes + has_zero.astype(jnp.int32))
    # Infinite where there is nothing to fit: no entry counts, or all are zero.
    centroids = jnp.where(jnp.isfinite(centroids), centroids, 0.0)
    apart = jnp.where(counted, x - take(centroids, codes), 0.0)
    return Clusters(
        centroids=centroids,
        assignments=codes.astype(codes_dtype(k)),
        counts=cluster_sums(counted.astype(jnp.float32), codes, k),
        has_zero=has_zero,
        inertia=jnp.sum(apart * apart),
        iterations=done,
    )


def _smallest(x: jax.Array, counted: jax.Array, count: int) -> jax.Array:
    """The `count` smallest distinct values among the counted, in order, then infinity."""

    # Passes over the values and not a sort, which costs as much as hundreds of them.
    def following(low, _):
        value = jnp.where(counted & (x > low), x, jnp.inf).min()
        return value, value

    return lax.scan(following, jnp.float32(-jnp.inf), length=count)[1]


def _start(
    start: str, x: jax.Array, counted: jax.Array, used: jax.Array, is_used: jax.Array, key: Key | None
) -> jax.Array:
    if start == "linear":
        return starts.linear(x, counted, is_used.size, used)
    if start == "density":
        return starts.density(x, counted, is_used.size, used)
    assert key is not None
    return jnp.sort(jnp.where(is_used, starts.kmeans_plus_plus(x, counted, is_used.size, key), jnp.inf))


def _refine(x: jax.Array, counted: jax.Array, first: jax.Array, used: jax.Array) -> jax.Array:
    k = first.size
    m = starts.cell_count(x.size, k)
    start_cells = starts.single_cells(x, counted, m) if x.size <= m else starts.split_cells(x, counted, first, m)
    joined = starts.join_cells(start_cells, k, used)
    # Means of cells that are a few floats wide may be rounded past each other.
    return jnp.sort(joined)


def _lloyd(x: jax.Array, counted: jax.Array, first: jax.Array, limit: jax.Array) -> tuple[jax.Array, jax.Array]:
    k = first.size

    def moves(carry):
        done, _, _, moved = carry
        return moved & (done < limit)

    def move(carry):
        done, old, sizes, _ = carry
        codes = nearest(x, old)
        counts = cluster_sums(counted.astype(jnp.float32), codes, k)
        # Differences from the centroid, so that the error of the sum is that of the cluster's width.
        sums = cluster_sums(jnp.where(counted, x - take(old, codes), 0.0), codes, k)
        between, end = middles(old), jnp.full(1, jnp.inf, jnp.float32)
        # A mean lies in its interval; its rounding may not, and centroids must stay in order.
        low, high = jnp.concatenate([-end, between]), jnp.concatenate([between, end])
        new = jnp.clip(old + sums / jnp.maximum(counts, 1), low, high)
        # Clusters are intervals: of the same sizes, they are the same, and only roundings differ.
        return done + 1, new, counts, jnp.any(counts != sizes)

    begin = (jnp.int32(0), first, jnp.full(k, -1.0, jnp.float32), jnp.array(True))
    done, centroids, _, _ = lax.while_loop(moves, move, begin)
    return centroids, done
