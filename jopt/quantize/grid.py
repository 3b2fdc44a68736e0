"""From a range to the grid of representable values: scale, zero point, outermost codes and what they stand for."""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jopt.codec import grid as formula
from jopt.codec.grid import IntegerGrid
from jopt.config import ConfigError
from jopt.quantize.arithmetic import divide
from jopt.quantize.spec import Spec, scale_shape, spread
from jopt.reference import is_reference, resolve

Rounding = Callable[[jax.Array], jax.Array]
"""Maps `x / scale` to integers of the same shape and dtype, elementwise; 0 stays 0."""

ROUNDINGS: dict[str, Rounding] = {"nearest": jnp.round, "floor": jnp.floor}
"""By name: to the nearest integer, ties to even; to the integer below."""


class Range(NamedTuple):
    """The clipping range, low <= high, float32, of the scales' shape (`jopt.quantize.spec.scale_shape`).

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


def encode(x: jax.Array, g: Grid, rounding: Rounding = jnp.round) -> jax.Array:
    """Codes of `x`, counted from the zero point, as float32, not yet clipped: `rounding(x / scale)`."""
    return rounding(divide(x, g.divisor))


def decode(codes: jax.Array, g: Grid) -> jax.Array:
    """The values of codes, which are counted from the zero point and clipped to the outermost ones."""
    # A 0 that XLA cannot fold: -0 + 0 is +0, which is what comes back from a stored integer.
    zero = lax.optimization_barrier(jnp.zeros_like(g.scale))
    y = codes * g.scale + zero
    return jnp.where(codes >= g.highest, g.high, jnp.where(codes <= g.lowest, g.low, y))


def spread_fields(value: R, spec: Spec) -> R:
    """The fields of a `Range` or `Grid` as they broadcast against what `to_groups` gave."""
    return type(value)(*(spread(field, spec) for field in value))


def rounding_function(rounding: str | Rounding, field: str = "rounding") -> Rounding:
    """The function behind a name of `ROUNDINGS`, a reference ('package.module:name') or a function.

    Args:
      rounding: any of these.
      field: what holds it, for messages.

    Raises:
      ConfigError: for anything else, and for a function that does not give integers of the shape and dtype of
        `x / scale`, or does not keep 0.

    Example:
      >>> rounding_function("floor")(jnp.float32(-0.5)).tolist()
      -1.0
    """
    if isinstance(rounding, str) and rounding in ROUNDINGS:
        return ROUNDINGS[rounding]
    if is_reference(rounding):
        rounding = resolve(str(rounding), field)
    if isinstance(rounding, str) or not callable(rounding):
        names = ", ".join(map(repr, ROUNDINGS))
        raise ConfigError(field, rounding, f"one of {names}, a function, or 'package.module:name' of one")
    if rounding not in ROUNDINGS.values() and not _gives_integers(rounding):
        accepted = "a function to integers of the same shape and dtype, with 0 at 0"
        raise ConfigError(field, rounding, accepted)
    return rounding


@functools.cache
def _gives_integers(rounding: Rounding) -> bool:
    # Tried out on constants, also inside of a trace: a wrong rounding would otherwise show only as a wrong file.
    # Cached, because every call of `fake_quantize` asks.
    with jax.ensure_compile_time_eval():
        trial = jnp.float32([-2.5, -0.25, 0.0, 0.5, 3.0])
        codes = rounding(trial)
        if jnp.shape(codes) != trial.shape or jnp.result_type(codes) != trial.dtype:
            return False
        return bool(jnp.all(codes == jnp.round(codes))) and float(codes[2]) == 0


def fit_range(range: Range, shape: tuple[int, ...], spec: Spec) -> Range:
    """A range, of numbers or arrays, as float32 arrays of the scales' shape for an array of `shape`.

    Raises:
      ValueError: if it does not broadcast to that, or (unless traced) for a low end above the high one, or an end
        that is not finite.

    Example:
      >>> fit_range(Range(2.0, 1.0), (3,), Spec(8))
      Traceback (most recent call last):
      ...
      ValueError: range must have finite ends, low <= high, got low 2.0 and high 1.0
    """
    if not any(isinstance(v, Tracer) for v in range):
        # In NumPy: inside of a trace, JAX would trace the check of a constant too.
        low, high = (np.asarray(v, np.float32) for v in range)
        wrong = ~(np.isfinite(low) & np.isfinite(high) & (low <= high))
        if wrong.any():
            low, high = (np.broadcast_to(v, wrong.shape)[wrong][0] for v in (low, high))
            raise ValueError(f"range must have finite ends, low <= high, got low {low} and high {high}")
    expected = scale_shape(shape, spec)

    def fit(v: jax.Array | float) -> jax.Array:
        v = jnp.asarray(v, jnp.float32)
        try:
            return jnp.broadcast_to(v, expected)
        except ValueError as error:
            raise ValueError(
                f"range must broadcast to the scales' shape {expected}, got shape {v.shape}"
            ) from error

    return Range(*map(fit, range))
