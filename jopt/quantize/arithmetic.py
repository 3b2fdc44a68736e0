"""Division and sums whose last bit does not depend on the program around them.

XLA turns a division by a number that is broadcast, or by a constant, into a product with its reciprocal, and
orders the terms of a sum as the shapes of the moment suggest. Codes would then differ between a single model and
a batch of them, and from `round(x / scale)`.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

_LANES = 2048  # added to at once: so many that a round of the loop costs more than its start.


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
    """`x`, as what XLA computes once and keeps, instead of anew for each element that it is broadcast to.

    Example:
      >>> computed_once(jnp.array([[0.5]])).tolist()
      [[0.5]]
    """
    # Of all elementwise operations a quotient is what it takes for too costly to repeat.
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
    rest = [i for i in range(x.ndim) if i not in axes]
    y = x.transpose(*axes, *rest).reshape(-1, *(x.shape[i] for i in rest))
    n, width = y.shape[0], max(math.prod(y.shape[1:]), 1)
    # Several channels are lanes already, and halving them in the end is slower.
    lanes = 1 << (max(min(_LANES if width == 1 else _LANES // (4 * width), n), 1).bit_length() - 1)
    rows = n // lanes
    total = of(jnp.pad(y[rows * lanes :], [(0, lanes - n % lanes), *[(0, 0)] * (y.ndim - 1)]))
    blocks = y[: rows * lanes].reshape(rows, lanes, *y.shape[1:])
    if rows:
        # A loop: XLA would order the terms of a reduction anew, and would fuse those of a sum written out.
        total = lax.fori_loop(0, rows, lambda i, t: t + of(lax.dynamic_index_in_dim(blocks, i, 0, False)), total)
    while lanes > 1:
        lanes //= 2
        total = total[:lanes] + total[lanes:]
    return total.reshape([1 if i in axes else size for i, size in enumerate(x.shape)])
