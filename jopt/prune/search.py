"""The largest of many numbers without sorting them: k of all by counting, n of each run of m by comparing."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LOWEST = -(2**31)  # the key of NaN
INFINITY = 0x7F800000  # the largest key, of +infinity: its bits
PARTS = 8
FRACTIONS = np.arange(1, PARTS, dtype=np.uint32)


class Bracket(NamedTuple):
    """Two thresholds, int32 scalars, and how many numbers are at least as large as each.

    Attributes:
      low: count(low) >= k.
      high: above low; count(high) < k.
      at_low: count(low).
      at_high: count(high).
    """

    low: jax.Array
    high: jax.Array
    at_low: jax.Array
    at_high: jax.Array


def order_keys(scores: jax.Array) -> jax.Array:
    """int32 keys in the order of the scores as float32: -0.0 ties with 0.0, and NaN is below -infinity.

    Example:
      >>> order_keys(jnp.array([-1.0, -0.0, 0.0, 1e-45, 1.0])).tolist()
      [-1065353216, 0, 0, 1, 1065353216]
    """
    # Integer arithmetic throughout: XLA has the processor flush denormals, which as floats would all equal 0.
    bits = jax.lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)
    size = bits & 0x7FFFFFFF
    return jnp.where(size > INFINITY, LOWEST, jnp.where(bits < 0, -size, size))


def largest(arrays: Sequence[jax.Array], k: jax.Array) -> list[jax.Array]:
    """Masks of the k largest entries of all arrays; of equal ones, those of the earlier array and lower flat index.

    The k-th largest key is found by counting, in at most eleven passes over memory. If more entries tie there than
    fit, a second search finds the index up to which they are kept; otherwise it takes no pass. No entry moves, so
    the arrays may be sharded: a pass then ends with the sum of seven counts over the devices.

    Args:
      arrays: floating, of any shapes; fewer than 2**31 entries in all.
      k: int32 scalar, from 0 to the number of entries.

    Returns:
      A boolean array for each array, together k times True.

    Example:
      >>> [m.tolist() for m in largest([jnp.array([3.0, 1.0]), jnp.array([1.0, 2.0])], jnp.int32(3))]
      [[True, True], [False, True]]
    """
    if not arrays:
        return []
    n, zero = sum(x.size for x in arrays), jnp.zeros((), jnp.int32)
    starts = [jnp.int32(s) for s in itertools.accumulate((x.size for x in arrays[:-1]), initial=0)]

    def count(condition: Callable[..., jax.Array]) -> Callable[[jax.Array], jax.Array]:
        def of_all(thresholds: jax.Array) -> jax.Array:
            # What does not depend on the thresholds XLA would compute before the loop, and keep: arrays of keys and
            # of positions, more memory than the scores. Behind a barrier it computes them on the way in each pass.
            xs, offsets, thresholds = jax.lax.optimization_barrier((list(arrays), starts, thresholds))
            counts = [_count([condition(x, o, t) for t in thresholds]) for x, o in zip(xs, offsets, strict=True)]
            return functools.reduce(jnp.add, counts)

        return of_all

    everything = Bracket(jnp.int32(LOWEST), jnp.int32(INFINITY + 1), jnp.int32(n), zero)
    threshold = _narrow(count(lambda x, start, t: order_keys(x) >= t), k, everything)

    def tied(x: jax.Array, start: jax.Array, t: jax.Array) -> jax.Array:
        return (order_keys(x) == threshold.low) & (_minus_index(x, start) >= t)

    # Of the tied entries the lowest indices, so the largest minus-indices, by the same search.
    ties = Bracket(jnp.int32(1 - n), jnp.int32(1), threshold.at_low - threshold.at_high, zero)
    last = _narrow(count(tied), k - threshold.at_high, ties).low
    masks = [(order_keys(x) > threshold.low) | tied(x, o, last) for x, o in zip(arrays, starts, strict=True)]
    return [mask & (k > 0) for mask in masks]


def _narrow(count: Callable[[jax.Array], jax.Array], k: jax.Array, bracket: Bracket) -> Bracket:
    """Narrows `bracket` until count(low) == k, or low + 1 == high: then more than k - count(high) tie at low."""

    def unfinished(b: Bracket) -> jax.Array:
        return (b.at_low > k) & (b.low + 1 < b.high)

    def cut(b: Bracket) -> Bracket:
        # The difference of two int32 may wrap around; as uint32 it is right again, and so is what is added to low.
        width = (b.high - b.low).astype(jnp.uint32)
        steps = width // PARTS * FRACTIONS + width % PARTS * FRACTIONS // PARTS
        t = b.low + steps.astype(jnp.int32)
        c = count(t)
        enough = c >= k
        return Bracket(
            low=jnp.max(jnp.where(enough, t, b.low)),
            high=jnp.min(jnp.where(enough, b.high, t)),
            at_low=jnp.min(jnp.where(enough, c, b.at_low)),
            at_high=jnp.max(jnp.where(enough, b.at_high, c)),
        )

    return jax.lax.while_loop(unfinished, cut, bracket)


def _count(conditions: Sequence[jax.Array]) -> jax.Array:
    """How often each condition, of one shape, holds: one pass over memory.

    One reduction of a tuple, since XLA makes vector code of it on CPU: counting seven conditions is faster so than
    one by `jnp.sum`.
    """
    ones = tuple(c.astype(jnp.int32) for c in conditions)
    add = lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))  # noqa: E731
    return jnp.stack(jax.lax.reduce(ones, (np.int32(0),) * len(ones), add, tuple(range(ones[0].ndim))))


def _minus_index(x: jax.Array, start: jax.Array) -> jax.Array:
    """Minus the position of each entry among all, without a reshape, which would move a sharded array."""
    index, stride = jnp.broadcast_to(start, x.shape), 1
    for axis in reversed(range(x.ndim)):
        index += stride * jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
        stride *= x.shape[axis]
    return -index


# Compiled once for a shape; called in a trace it becomes part of the caller's program.
@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def largest_in_runs(scores: jax.Array, n: int, m: int, axes: tuple[int, ...]) -> jax.Array:
    """Keeps the `n` largest of every `m` consecutive entries; of equal ones, the earlier.

    Args:
      scores: floating, of any shape.
      n: how many of each run are kept.
      m: the length of a run.
      axes: the axis that runs lie along, or several, ascending, joined in row-major order.

    Returns:
      A boolean mask of the shape of `scores`.

    Example:
      >>> largest_in_runs(jnp.array([3.0, 1.0, 2.0, 2.0]), 2, 4, (0,)).tolist()
      [True, False, True, False]
    """
    axis, *others = axes
    if others:
        end = tuple(range(-len(axes), 0))
        moved = jnp.moveaxis(scores, axes, end)
        flat = moved.reshape(*moved.shape[: -len(axes)], -1)
        mask = largest_in_runs(flat, n, m, (flat.ndim - 1,))
        return jnp.moveaxis(mask.reshape(moved.shape), end, axes)
    before, after = scores.shape[:axis], scores.shape[axis + 1 :]
    keys = order_keys(scores).reshape(*before, scores.shape[axis] // m, m, *after)
    position = jax.lax.broadcasted_iota(jnp.int32, keys.shape, axis + 1)
    # An entry's rank in its run is the number of entries before it: m comparisons are cheaper than a sort.
    rank = jnp.zeros(keys.shape, jnp.int32)
    for j in range(m):
        other = jax.lax.slice_in_dim(keys, j, j + 1, axis=axis + 1)
        rank += ((other > keys) | ((other == keys) & (j < position))).astype(jnp.int32)
    return (rank < n).reshape(scores.shape)
