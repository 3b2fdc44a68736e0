"""From a range to the grid of representable values: scale, zero point, outermost codes and what they stand for."""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jopt.codec import grid as formula
from jopt.codec.grid import IntegerGrid
from jopt.quantize.arithmetic import divide
from jopt.quantize.groups import spread
from jopt.quantize.spec import Spec


class Range(NamedTuple):
    """The clipping range, low <= high, float32, of the scales' shape (`jopt.quantize.groups.scale_shape`).

    For a symmetric Spec the larger magnitude counts for both; for an asymmetric one it is widened to contain 0.
    """

    low: jax.Array
    high: jax.Array


Grid = IntegerGrid[jax.Array]
"""The representable values of a group; see `jopt.codec.grid`."""

R = TypeVar("R", Range, Grid)


def largest_code(spec: Spec) -> jax.Array:
    """The largest code, as float32: 2^(b-1) - 1 (1 at one bit) if symmetric, else 2^b - 1. At 32 bits that of 16.

    Example:
      >>> [int(largest_code(Spec(b))) for b in (1, 2, 8, 16)], int(largest_code(Spec(8, symmetric=False)))
      ([1, 1, 127, 32767], 255)
    """
    return formula.largest_code(jnp, spec)


def grid(spec: Spec, range: Range) -> Grid:
    """The grid of a range, by the formula of `jopt.codec.grid.range_grid`.

    Args:
      spec: the Spec, not the identity.
      range: the range, of the scales' shape.

    Returns:
      The `Grid`.

    Example:
      >>> g = grid(Spec(8), Range(jnp.float32(-1.27), jnp.float32(1.0)))
      >>> [round(float(v), 4) for v in (g.scale, g.lowest, g.highest, g.low, g.high)]
      [0.01, -127.0, 127.0, -1.27, 1.27]
      >>> g = grid(Spec(2, narrow=False), Range(jnp.float32(-1.5), jnp.float32(1.5)))
      >>> [float(v) for v in (g.scale, g.lowest, g.highest, g.low, g.high, g.peak)]
      [1.0, -2.0, 1.0, -2.0, 1.0, 1.5]
    """
    return formula.range_grid(jnp, spec, range.low, range.high, divide)


def stored_grid(spec: Spec, scale: jax.Array, zero_point: jax.Array) -> Grid:
    """The grid of a scale and zero point whose range is not known: the outermost codes stand for their products.

    Args:
      spec: the Spec, not the identity.
      scale: float32, above 0.
      zero_point: of the same shape, integers of any dtype.

    Returns:
      The `Grid`.

    Example:
      >>> g = stored_grid(Spec(8, symmetric=False), jnp.float32(0.5), jnp.int32(3))
      >>> float(g.low), float(g.high)
      (-1.5, 126.0)
    """
    return formula.scale_grid(jnp, spec, scale, zero_point)


def encode(x: jax.Array, g: Grid) -> jax.Array:
    """Codes of `x`, counted from the zero point, as float32, not yet clipped: x / scale rounded half to even."""
    return jnp.round(divide(x, g.divisor))


def decode(codes: jax.Array, g: Grid) -> jax.Array:
    """What codes stand for, those beyond the outermost being the outermost; codes counted from the zero point."""
    # 0, but not so that XLA knows: -0 + 0 is +0, as it comes back from an integer.
    zero = lax.optimization_barrier(jnp.zeros_like(g.scale))
    y = codes * g.scale + zero
    return jnp.where(codes >= g.highest, g.high, jnp.where(codes <= g.lowest, g.low, y))


def spread_fields(value: R, spec: Spec) -> R:
    """The fields of a `Range` or `Grid` as they broadcast against what `to_groups` gave."""
    return type(value)(*(spread(field, spec) for field in value))
