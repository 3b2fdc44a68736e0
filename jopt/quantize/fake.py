"""Fake quantization: what integers stand for, with a gradient that passes straight through the rounding."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jopt.quantize.arithmetic import computed_once
from jopt.quantize.checks import check_array, check_spec
from jopt.quantize.grid import Grid, Range, decode, encode, grid, spread_fields
from jopt.quantize.groups import from_groups, to_groups
from jopt.quantize.ranges import automatic, dynamic
from jopt.quantize.spec import UNTOUCHED, Spec, compiled, merge, split
from jopt.quantize.tensors import fit_range


def fake_quantize(x: jax.Array, spec: Spec, range: Range | None = None) -> jax.Array:
    """`dequantize(quantize(x, spec, range))` in one pass and in the dtype of `x`, differentiable.

    The gradient is straight-through: 1 inside the clipping range, its bounds included, and 0 outside. Without a
    range everything lies inside. The range and `spec.bits` get no gradient.

    Args:
      x: floating array.
      spec: the Spec; of the identity and of 32 bits the result is `x` itself. Where `spec.bits` is an array, 32
        gives every bit of `x` and a gradient of 1, in and beyond the range.
      range: the clipping range, which broadcasts to the scales' shape; None: the whole, `jopt.quantize.dynamic`.

    Returns:
      An array of the shape and dtype of `x`; 0 stays 0.

    Raises:
      ValueError: for an array that is not floating or (unless traced) not finite; axes, groups or a range that do
        not fit its shape.

    Bengio, Leonard and Courville, 2013, "Estimating or propagating gradients through stochastic neurons"; Jacob et
    al., 2018, section 3.

    Example:
      >>> x = jnp.array([-1.5, 0.3, 0.5, 1.0])
      >>> fake_quantize(x, Spec(3)).tolist()
      [-1.5, 0.5, 0.5, 1.0]
      >>> clip = Range(-1.0, 1.0)
      >>> jax.grad(lambda x: fake_quantize(x, Spec(3), clip).sum())(x).tolist()
      [0.0, 1.0, 1.0, 1.0]
    """
    if spec.bits is None:
        return x
    check_array(x, "x")
    check_spec(spec, jnp.shape(x))
    if spec.is_identity:
        return x
    if range is None:
        return _whole(spec, x, choose=dynamic)
    return _clipped(spec, x, fit_range(range, jnp.shape(x), spec))


def auto_quantize(x: jax.Array, spec: Spec) -> jax.Array:
    """`fake_quantize` in the range that `jopt.quantize.auto` gives, with a gradient of 1 everywhere.

    Nothing is clipped: the largest magnitude is half a step from what its code stands for, as any value may be.

    Example:
      >>> x = jnp.array([-1.5, 0.3, 0.6, 1.0])
      >>> auto_quantize(x, Spec(2)).tolist(), fake_quantize(x, Spec(2)).tolist()
      ([-1.0, 0.0, 1.0, 1.0], [-1.5, 0.0, 0.0, 1.5])
    """
    if spec.bits is None:
        return x
    check_array(x, "x")
    check_spec(spec, jnp.shape(x))
    return x if spec.is_identity else _whole(spec, x, choose=automatic)


def values(spec: Spec, x: jax.Array, range: Range) -> jax.Array:
    """What `fake_quantize` gives, without a gradient of its own; a range of the scales' shape."""
    g = spread_fields(grid(spec, range), spec)
    if not spec.symmetric:
        g = Grid(*map(computed_once, g))
    y = decode(encode(to_groups(x.astype(jnp.float32), spec), g), g)
    return unless_untouched(spec, x, from_groups(y, x.shape, spec).astype(x.dtype))


def unless_untouched(spec: Spec, x: Any, y: jax.Array) -> jax.Array:
    """`y`, or `x` where the bits are 32; for bits that are no array, which are never 32 here, no operation.

    Example:
      >>> float(unless_untouched(Spec(jnp.array(32)), jnp.float32(0.25), jnp.float32(0.5)))
      0.25
    """
    return y if isinstance(spec.bits, int) else jnp.where(jnp.asarray(spec.bits) == UNTOUCHED, x, y)


@compiled("choose")
def _whole(spec: Spec, x: jax.Array, *, choose: Callable[[jax.Array, Spec], Range]) -> jax.Array:
    static, bits = split(spec)
    return _through(choose, static, bits, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _through(choose: Callable[[jax.Array, Spec], Range], static: Spec, bits: Any, x: jax.Array) -> jax.Array:
    spec = merge(static, bits)
    return values(spec, x, choose(x, spec))


# Nothing is clipped, so nothing need be kept for the way back.
_through.defvjp(
    lambda choose, static, bits, x: (_through(choose, static, bits, x), None),
    lambda choose, static, nothing, gradient: (None, gradient),
)


@compiled()
def _clipped(spec: Spec, x: jax.Array, range: Range) -> jax.Array:
    return _inside(*split(spec), x, range)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _inside(static: Spec, bits: Any, x: jax.Array, range: Range) -> jax.Array:
    return values(merge(static, bits), x, range)


def _inside_forward(static: Spec, bits: Any, x: jax.Array, range: Range) -> tuple[jax.Array, Any]:
    return _inside(static, bits, x, range), (bits, x, range)


def _inside_backward(static: Spec, kept: Any, gradient: jax.Array) -> tuple[Any, ...]:
    bits, x, range = kept
    spec = merge(static, bits)
    inside = unless_untouched(spec, True, is_inside(x, spec, range))
    return None, jnp.where(inside, gradient, jnp.zeros_like(gradient)), None


_inside.defvjp(_inside_forward, _inside_backward)


def is_inside(x: jax.Array, spec: Spec, range: Range) -> jax.Array:
    """Where `x` lies in the clipping range, bounds included.

    Args:
      x: floating array.
      spec: not the identity.
      range: of the scales' shape. Symmetric: the larger magnitude counts for both sides.

    Returns:
      bool, of the shape of `x`.

    Example:
      >>> is_inside(jnp.array([-2.0, -1.0, 1.5]), Spec(8), Range(jnp.float32(-1.0), jnp.float32(0.5))).tolist()
      [False, True, False]
    """
    # The range's ends, not the grid's: these lie up to half a step beside them where codes are asymmetric or not
    # narrow.
    if spec.symmetric:
        peak = jnp.maximum(-range.low, range.high)
        ends = Range(-peak, peak)
    else:
        ends = Range(jnp.minimum(range.low, 0), jnp.maximum(range.high, 0))
    low, high = spread_fields(ends, spec)
    view = to_groups(x.astype(jnp.float32), spec)
    return from_groups((view >= low) & (view <= high), x.shape, spec)
