"""The ranges that follow from an array's extreme values, for several arrays at once."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jopt.quantize.arithmetic import divide
from jopt.quantize.grid import Range, largest_code
from jopt.quantize.magnitudes import largest_magnitude, mean_magnitudes
from jopt.quantize.spec import Spec, collect, shared_axes, to_groups

LOW_BITS = (2, 3, 4)
"""The widths at which `auto` leaves half a step at both ends."""


def dynamic(x: jax.Array, spec: Spec) -> Range:
    """The range that `fake_quantize` and `quantize` use when none is given: `absmax` if symmetric, else `minmax`.

    Args:
      x: floating array.
      spec: not the identity.

    Returns:
      The `Range`.

    Example:
      >>> float(dynamic(jnp.array([-4.0, -1.0]), Spec(8)).high)
      4.0
    """
    return dynamic_ranges([x], [spec])[0]


def dynamic_ranges(arrays: Sequence[jax.Array], specs: Sequence[Spec]) -> list[Range]:
    """`dynamic` of several arrays, each with its Spec.

    Example:
      >>> [float(r.low) for r in dynamic_ranges([jnp.ones(2), jnp.ones(2)], [Spec(8), Spec(8, symmetric=False)])]
      [-1.0, 0.0]
    """
    views = [to_groups(x.astype(jnp.float32), spec) for x, spec in zip(arrays, specs, strict=True)]
    peaks = iter(_peaks(*zip(*((v, s) for v, s in zip(views, specs, strict=True) if s.symmetric), strict=True)))
    return [
        _both_sides(next(peaks), spec) if spec.symmetric else _widened(view, spec)
        for view, spec in zip(views, specs, strict=True)
    ]


def automatic(x: jax.Array, spec: Spec) -> Range:
    """`jopt.quantize.auto`, unchecked.

    Example:
      >>> float(automatic(jnp.array([-1.5, 1.0]), Spec(2)).low)
      -1.0
    """
    return automatic_ranges([x], [spec])[0]


def automatic_ranges(arrays: Sequence[jax.Array], specs: Sequence[Spec]) -> list[Range]:
    """`automatic` of several arrays, each with its Spec.

    Example:
      >>> [float(r.low) for r in automatic_ranges([jnp.array([1.5])] * 2, [Spec(2), Spec(8)])]
      [-1.0, -1.5]
    """
    extremes = dynamic_ranges(arrays, specs)
    return [_less_half_a_step(range, spec) for range, spec in zip(extremes, specs, strict=True)]


def _less_half_a_step(extremes: Range, spec: Spec) -> Range:
    if not spec.symmetric or not spec.narrow:
        return extremes
    bits, n = jnp.asarray(spec.bits), largest_code(spec)
    few = (bits >= LOW_BITS[0]) & (bits <= LOW_BITS[-1])
    # At 5 bits and more, half a step is so small that clipping it changes nothing; the range stays exact.
    share = jnp.where(few, divide(n, n + jnp.float32(0.5)), jnp.float32(1))
    return Range(extremes.low * share, extremes.high * share)


def _both_sides(peak: jax.Array, spec: Spec) -> Range:
    peak = collect(peak, spec)
    return Range(-peak, peak)


def _widened(view: jax.Array, spec: Spec) -> Range:
    axes, zero = shared_axes(view.ndim, spec), jnp.zeros((), jnp.float32)
    low = jnp.min(view, axes, keepdims=True, initial=jnp.inf)
    high = jnp.max(view, axes, keepdims=True, initial=-jnp.inf)
    return Range(collect(jnp.minimum(low, zero), spec), collect(jnp.maximum(high, zero), spec))


def _peaks(views: Sequence[jax.Array] = (), specs: Sequence[Spec] = ()) -> list[jax.Array]:
    """The largest magnitudes, or at one bit the mean ones, of what `to_groups` gave for symmetric Specs."""
    axes = [shared_axes(view.ndim, spec) for view, spec in zip(views, specs, strict=True)]
    peaks = [largest_magnitude(view, a) for view, a in zip(views, axes, strict=True)]
    # Where the bits are a number in the program, any width may be one bit.
    candidates = [i for i, spec in enumerate(specs) if not isinstance(spec.bits, int) or spec.bits == 1]
    if not candidates:
        return peaks
    one_bit = [jnp.asarray(specs[i].bits) == 1 for i in candidates]

    def means(views: list[jax.Array], largest: list[jax.Array]) -> list[jax.Array]:
        mean = mean_magnitudes(views, [axes[i] for i in candidates], largest)
        return [jnp.where(one, m, peak) for one, m, peak in zip(one_bit, mean, largest, strict=True)]

    operands = [views[i] for i in candidates], [peaks[i] for i in candidates]
    if any(isinstance(specs[i].bits, int) for i in candidates):
        chosen = means(*operands)
    else:
        # The mean costs several times the maximum, so only one bit takes that branch; a batch of widths takes both.
        # One branch for all arrays, as each costs time in every step.
        chosen = lax.cond(
            functools.reduce(jnp.logical_or, one_bit), means, lambda views, largest: largest, *operands
        )
    for i, peak in zip(candidates, chosen, strict=True):
        peaks[i] = peak
    return peaks
