"""Ranges that are learned by gradient descent: the learned step size (LSQ) and the clipping activation (PACT)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jopt.quantize.arithmetic import divide, ordered_sum
from jopt.quantize.grid import Grid, Range, decode, encode, grid, largest_code, spread_fields, stored_grid
from jopt.quantize.magnitudes import mean_magnitude
from jopt.quantize.spec import (
    Spec,
    check_array,
    check_spec,
    collect,
    compiled,
    from_groups,
    merge,
    scale_shape,
    shared_axes,
    split,
    spread,
    to_groups,
)
from jopt.quantize.tensors import is_inside, unless_untouched, values

_SMALLEST = jnp.finfo(jnp.float32).tiny

GridOfStep = Callable[[Spec, jax.Array], Grid]
"""The grid of steps of the scales' shape."""


def lsq(x: jax.Array, step: jax.Array, spec: Spec, *, count: jax.Array | float | None = None) -> jax.Array:
    """Fake quantization with a learned step: round(clip(x / step, lowest code, highest code)) * step.

    With v = x / step, the gradient to x is 1 where v lies between the codes, bounds included, else 0. That to the
    step is, summed over its entries and times 1 / sqrt(count * highest code),

        round(v) - v inside,    the lowest code where v <= it,    the highest code where v >= it.

    (The paper gives x no gradient exactly at the bounds.) At one bit the codes are -1 and 1, and 0 for a zero.

    Args:
      x: floating array.
      step: floating, broadcasts to the scales' shape. One below the smallest normal number counts as that number.
      spec: the Spec; the identity and 32 bits give `x` itself, and the step no gradient. Asymmetric: codes from 0,
        zero point 0, for what is never negative.
      count: the number of entries in the gradient's scale; None: those that share a step. The paper's for
        activations is the number of features (without the batch). May be traced.

    Returns:
      An array of the shape and dtype of `x`.

    Raises:
      ValueError: as `jopt.quantize.fake_quantize`.

    Esser et al., 2020, "Learned step size quantization", equations 1 to 5 and section 2.2.

    Example:
      >>> x = jnp.array([-2.0, 0.3, 0.5, 5.0])
      >>> lsq(x, jnp.float32(1.0), Spec(3)).tolist()
      [-2.0, 0.0, 0.0, 3.0]
      >>> f = lambda x, step: lsq(x, step, Spec(3), count=3).sum()
      >>> dx, dstep = jax.grad(f, argnums=(0, 1))(x, jnp.float32(1.0))
      >>> dx.tolist(), round(float(dstep) * 3, 4)                # 0 - 0.3 - 0.5 + 3, times sqrt(3 * 3) / 3
      ([1.0, 1.0, 1.0, 0.0], 2.2)
    """
    if spec.bits is None:
        return x
    check_array(x, "x")
    check_spec(spec, jnp.shape(x))
    step = _fit(step, "step", jnp.shape(x), spec)
    return x if spec.is_identity else _with_step(spec, x, step, count, _grid_of_products)


def lsq_weights(w: jax.Array, step: jax.Array, spec: Spec) -> jax.Array:
    """`lsq` of a weight, on the grid of `step_range`: an array of these values is stored exactly.

    `lsq` multiplies codes by the step itself. A packed file computes its scale from a range, and that quotient can
    miss the step by one bit; so here the simulation computes the scale the same way.

    Args:
      w: floating array.
      step: floating, broadcasts to the scales' shape; its magnitude counts, so that no optimizer step makes it
        meaningless.
      spec: a symmetric Spec; the identity and 32 bits give `w` itself, and the step no gradient.

    Returns:
      An array of the shape and dtype of `w`; 0 stays 0.

    Raises:
      ValueError: as `jopt.quantize.fake_quantize`.

    Example:
      >>> lsq_weights(jnp.array([-2.0, 0.0, 0.6]), jnp.float32(-0.5), Spec(3)).tolist()
      [-1.5, 0.0, 0.5]
    """
    if spec.bits is None:
        return w
    check_array(w, "w")
    check_spec(spec, jnp.shape(w))
    step = _fit(step, "step", jnp.shape(w), spec)
    return w if spec.is_identity else _with_step(spec, w, _magnitude(step), None, _grid_of_range)


def step_range(step: jax.Array, spec: Spec) -> Range:
    """The range whose scale is a learned step, to one rounding.

    Args:
      step: float32, of the scales' shape; its magnitude counts.
      spec: a symmetric Spec.

    Example:
      >>> float(step_range(jnp.float32(-0.5), Spec(3)).high)
      1.5
    """
    # The largest float32 over the most steps that a range has: a larger step would make the range infinite.
    largest = jnp.finfo(jnp.float32).max / 2.0**15
    steps = largest_code(spec)
    if not spec.narrow:
        steps = steps + jnp.where(jnp.asarray(spec.bits) == 1, jnp.float32(0), jnp.float32(0.5))
    # Twice the smallest normal number: the quotient that `grid` takes of it must not fall below that number.
    high = jnp.clip(_magnitude(step), 2 * _SMALLEST, largest) * steps
    return Range(-high, high)


def _magnitude(step: jax.Array) -> jax.Array:
    # Not jnp.abs, whose gradient at 0 is 0: a step there would never leave it.
    return jnp.where(step < 0, -step, step)


def lsq_step(x: jax.Array, spec: Spec) -> jax.Array:
    """Where a learned step starts: 2 mean|x| / sqrt(highest code), the mean over what is not 0.

    Args:
      x: floating array: the weights, or the first batch of activations.
      spec: the Spec.

    Returns:
      float32, of the scales' shape; 1 where all is 0.

    Raises:
      ValueError: as `jopt.quantize.absmax`.

    Esser et al., 2020, section 2.1.

    Example:
      >>> round(float(lsq_step(jnp.array([-3.0, 1.0]), Spec(4))), 4)                       # 4 / sqrt(7)
      1.5119
    """
    check_array(x, "x")
    check_spec(spec, jnp.shape(x))
    return _lsq_step(spec, x)


@compiled()
def _lsq_step(spec: Spec, x: jax.Array) -> jax.Array:
    view = to_groups(x.astype(jnp.float32), spec)
    mean = collect(mean_magnitude(view, shared_axes(view.ndim, spec)), spec)
    step = divide(mean * jnp.float32(2), jnp.sqrt(largest_code(spec)))
    return jnp.where(step < _SMALLEST, jnp.float32(1), step)


def _fit(value: jax.Array | float, name: str, shape: tuple[int, ...], spec: Spec) -> jax.Array:
    number, expected = jnp.asarray(value, jnp.float32), scale_shape(shape, spec)
    try:
        return jnp.broadcast_to(number, expected)
    except ValueError as error:
        raise ValueError(
            f"{name} must broadcast to the scales' shape {expected}, got shape {number.shape}"
        ) from error


def _with_step(
    spec: Spec, x: jax.Array, step: jax.Array, count: jax.Array | float | None, grid_of: GridOfStep
) -> jax.Array:
    # The paper's count is that of the entries which share one step.
    count = jnp.size(x) // max(step.size, 1) if count is None else count
    return _lsq_compiled(spec, x, step, jnp.asarray(count, jnp.float32), grid_of=grid_of)


@compiled("grid_of")
def _lsq_compiled(spec: Spec, x: jax.Array, step: jax.Array, count: jax.Array, *, grid_of: GridOfStep) -> jax.Array:
    return _lsq(grid_of, *split(spec), x, step, count)


def _grid_of_products(spec: Spec, step: jax.Array) -> Grid:
    step = jnp.maximum(step, _SMALLEST)
    return spread_fields(stored_grid(spec, step, jnp.zeros(step.shape, jnp.int32)), spec)


def _grid_of_range(spec: Spec, step: jax.Array) -> Grid:
    return spread_fields(grid(spec, step_range(step, spec)), spec)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _lsq(
    grid_of: GridOfStep, static: Spec, bits: object, x: jax.Array, step: jax.Array, count: jax.Array
) -> jax.Array:
    spec = merge(static, bits)
    g = grid_of(spec, step)
    y = decode(encode(to_groups(x.astype(jnp.float32), spec), g), g)
    return unless_untouched(spec, x, from_groups(y, x.shape, spec).astype(x.dtype))


def _lsq_forward(
    grid_of: GridOfStep, static: Spec, bits: object, x: jax.Array, step: jax.Array, count: jax.Array
) -> tuple[jax.Array, Any]:
    return _lsq(grid_of, static, bits, x, step, count), (bits, x, step, count)


def _lsq_backward(grid_of: GridOfStep, static: Spec, residuals: Any, gradient: jax.Array) -> tuple[Any, ...]:
    bits, x, step, count = residuals
    spec = merge(static, bits)
    g = grid_of(spec, step)
    view = to_groups(x.astype(jnp.float32), spec)
    upstream = to_groups(gradient.astype(jnp.float32), spec)
    # v decides what is inside by the scale, not by the divisor, which at one bit is far below it.
    v, code = divide(view, g.scale), jnp.clip(encode(view, g), g.lowest, g.highest)
    # At 32 bits the input passes as it is, so its gradient is 1 everywhere and the step's is 0.
    inside = unless_untouched(spec, True, from_groups((v >= g.lowest) & (v <= g.highest), x.shape, spec))
    slope = jnp.where(v <= g.lowest, g.lowest, jnp.where(v >= g.highest, g.highest, code - v))
    # An ordered sum: the gradient of a batch of trials must have the bits of a single trial.
    total = collect(ordered_sum(slope * upstream, shared_axes(view.ndim, spec)), spec)
    d_step = unless_untouched(spec, jnp.float32(0), divide(total, jnp.sqrt(count * largest_code(spec))))
    return None, jnp.where(inside, gradient, jnp.zeros_like(gradient)), d_step, None


_lsq.defvjp(_lsq_forward, _lsq_backward)


def pact(x: jax.Array, alpha: jax.Array, spec: Spec) -> jax.Array:
    """The clipping activation with a learned bound: clip(x, 0, alpha), quantized to 2^b - 1 steps of [0, alpha].

    A symmetric Spec clips to [-alpha, alpha]. The gradient to x is 1 inside the range, bounds included, else 0;
    that to alpha is 1 where x >= alpha (symmetric: and -1 where x <= -alpha), summed over its entries.

    Args:
      x: floating array, before any ReLU.
      alpha: floating, broadcasts to the scales' shape; a negative one counts as 0.
      spec: the Spec; of the identity the result is clipped and not quantized, at 32 bits it is `x`, not clipped
        either, and alpha gets no gradient.

    Returns:
      An array of the shape and dtype of `x`; alpha is represented exactly, unless the Spec is symmetric and not
      narrow.

    Raises:
      ValueError: as `jopt.quantize.fake_quantize`.

    Choi et al., 2018, "PACT: parameterized clipping activation for quantized neural networks", equations 1 to 3.

    Example:
      >>> x, spec = jnp.array([-1.0, 0.4, 1.5, 2.0]), Spec(2, symmetric=False)
      >>> pact(x, jnp.float32(1.5), spec).tolist()
      [0.0, 0.5, 1.5, 1.5]
      >>> dx, dalpha = jax.grad(lambda x, a: pact(x, a, spec).sum(), argnums=(0, 1))(x, jnp.float32(1.5))
      >>> dx.tolist(), float(dalpha)
      ([0.0, 1.0, 1.0, 0.0], 2.0)
    """
    check_array(x, "x")
    if spec.bits is not None:
        check_spec(spec, jnp.shape(x))
    alpha = _fit(alpha, "alpha", jnp.shape(x), spec)
    return x if spec.bits is not None and spec.is_identity else _pact_compiled(spec, x, alpha)


@compiled()
def _pact_compiled(spec: Spec, x: jax.Array, alpha: jax.Array) -> jax.Array:
    return _pact(*split(spec), x, alpha)


def _pact_range(spec: Spec, alpha: jax.Array) -> Range:
    # A negative level lets nothing through, but its gradient can make it grow again.
    alpha = jnp.maximum(alpha, 0)
    return Range(-alpha if spec.symmetric else jnp.zeros_like(alpha), alpha)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pact(static: Spec, bits: object, x: jax.Array, alpha: jax.Array) -> jax.Array:
    spec = merge(static, bits)
    range = _pact_range(spec, alpha)
    if spec.bits is not None:
        return values(spec, x, range)
    low, high = spread_fields(range, spec)
    return from_groups(jnp.clip(to_groups(x.astype(jnp.float32), spec), low, high), x.shape, spec).astype(x.dtype)


def _pact_forward(static: Spec, bits: object, x: jax.Array, alpha: jax.Array) -> tuple[jax.Array, Any]:
    return _pact(static, bits, x, alpha), (bits, x, alpha)


def _pact_backward(static: Spec, residuals: Any, gradient: jax.Array) -> tuple[Any, ...]:
    bits, x, alpha = residuals
    spec = merge(static, bits)
    range = _pact_range(spec, alpha)
    view = to_groups(x.astype(jnp.float32), spec)
    upstream = to_groups(gradient.astype(jnp.float32), spec)
    bound, zeros = spread(range.high, spec), jnp.zeros_like(upstream)
    slope = jnp.where(view >= bound, upstream, zeros)
    if spec.symmetric:
        slope = slope - jnp.where(view <= -bound, upstream, zeros)
    d_alpha, inside = collect(ordered_sum(slope, shared_axes(view.ndim, spec)), spec), is_inside(x, spec, range)
    if spec.bits is not None:
        d_alpha = unless_untouched(spec, jnp.float32(0), d_alpha)
        inside = unless_untouched(spec, True, inside)
    return None, jnp.where(inside, gradient, jnp.zeros_like(gradient)), d_alpha


_pact.defvjp(_pact_forward, _pact_backward)
