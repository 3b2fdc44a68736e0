"""Calibration: the clipping range of an array, from its values."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jopt.config import ConfigError, check_types, join_path, require
from jopt.hyper import as_traced
from jopt.quantize.arithmetic import divide, order_statistic, ordered_sum
from jopt.quantize.extremes import automatic, dynamic
from jopt.quantize.grid import Range, decode, encode, grid, spread_fields
from jopt.quantize.spec import Spec, check_array, check_spec, collect, compiled, shared_axes, to_groups
from jopt.reference import is_reference, resolve

Choose = Callable[[jax.Array, Spec], Range]
"""A calibration: `(values, spec) -> Range`, of the scales' shape; `spec.bits` and the values may be traced."""

# In the bits of a float32: the exponent's; and minus the bits of 2^e, those of 2^-e.
_EXPONENT, _POWERS = np.int32(0x7F800000), np.int32(0x7F000000)


def absmax(x: jax.Array, spec: Spec) -> Range:
    """The largest magnitude, to both sides; at one bit the mean magnitude of the entries that are not 0.

    Args:
      x: floating array.
      spec: which entries share a range, and its `bits`.

    Returns:
      The `Range`.

    Raises:
      ValueError: for the identity Spec, an array that is not floating or (unless traced) not finite, or axes and
        groups that do not fit its shape.

    Example:
      >>> absmax(jnp.array([[-4.0, 1.0], [2.0, 0.5]]), Spec(axis=-1)).high.tolist()
      [[4.0, 1.0]]
    """
    check_array(x, "x")
    check_spec(spec, jnp.shape(x))
    return _dynamic(Spec(spec.bits, axis=spec.axis, group=spec.group), x)


def minmax(x: jax.Array, spec: Spec) -> Range:
    """The smallest and the largest value, and 0.

    Args:
      x: floating array.
      spec: which entries share a range.

    Returns:
      The `Range`.

    Raises:
      ValueError: as `absmax`.

    Example:
      >>> r = minmax(jnp.array([-4.0, -1.0]), Spec(symmetric=False))
      >>> float(r.low), float(r.high)
      (-4.0, 0.0)
    """
    check_array(x, "x")
    check_spec(spec, jnp.shape(x))
    return _dynamic(Spec(spec.bits, symmetric=False, axis=spec.axis, group=spec.group), x)


def unclipped(x: jax.Array, spec: Spec) -> Range:
    """The range of the calibration 'absmax': `absmax` if symmetric, else `minmax`.

    Example:
      >>> float(unclipped(jnp.array([-4.0, -1.0]), Spec(symmetric=False)).high)
      0.0
    """
    return absmax(x, spec) if spec.symmetric else minmax(x, spec)


def auto(x: jax.Array, spec: Spec) -> Range:
    """The default range of weights: all values, but at 2 to 4 symmetric bits half a step less at both ends.

    With n = 2^(b-1) - 1, that is absmax n / (n + 1/2): the scale is absmax / (n + 1/2), as that of qwix, and the
    largest magnitude is rounded by half a step, as any other value may be. (At 2 bits, a step of absmax would round
    everything below its half to 0.) Other widths, asymmetric codes and codes that are not narrow are not clipped.

    Args:
      x: floating array.
      spec: the Spec.

    Returns:
      The `Range`.

    Raises:
      ValueError: as `absmax`.

    Example:
      >>> x = jnp.array([-1.5, 1.0])
      >>> [round(float(auto(x, Spec(b)).high), 4) for b in (2, 3, 4, 8)]
      [1.0, 1.2857, 1.4, 1.5]
    """
    check_array(x, "x")
    check_spec(spec, jnp.shape(x))
    return _auto(spec, x)


@compiled()
def _auto(spec: Spec, x: jax.Array) -> Range:
    return automatic(x, spec)


@compiled()
def _dynamic(spec: Spec, x: jax.Array) -> Range:
    return dynamic(x, spec)


def percentile(x: jax.Array, spec: Spec, q: jax.Array | float = 99.9, *, skip_zeros: bool = False) -> Range:
    """The range that holds q percent of the magnitudes (symmetric), or of the values on either side (asymmetric).

    Symmetric: high = -low = the q-th percentile of |x|. Asymmetric: low and high are the (100 - q)-th and the q-th
    percentile of x, widened to contain 0. Percentiles are NumPy's 'linear' ones: of n sorted values, the one at
    position (n - 1) q / 100, interpolated between its neighbours. Neighbours are exact, found by bisection on their
    bits; the position is computed in float32, and so is right to one part in 10^7. At one bit (symmetric) a code
    stands for the range, so this is of little use there.

    Args:
      x: floating array.
      spec: which entries share a range.
      q: in [0, 100]; may be traced.
      skip_zeros: whether exact zeros are left out, as pruned weights should be. Of zeros alone the range is 0.

    Returns:
      The `Range`.

    Raises:
      ValueError: as `absmax`, and for `q` outside [0, 100] (unless traced).

    Example:
      >>> x = jnp.arange(11.0)
      >>> float(percentile(x, Spec(8), 95.0).high), float(percentile(x, Spec(8), 50.0, skip_zeros=True).high)
      (9.5, 5.5)
    """
    check_array(x, "x")
    check_spec(spec, jnp.shape(x))
    if isinstance(q, int | float) and not 0 <= q <= 100:
        raise ValueError(f"q must lie in [0, 100], got {q!r}")
    return _percentile(spec, x, q, skip_zeros=skip_zeros)


@compiled("skip_zeros")
def _percentile(spec: Spec, x: jax.Array, q: jax.Array | float, *, skip_zeros: bool) -> Range:
    view = to_groups(x.astype(jnp.float32), spec)
    axes = shared_axes(view.ndim, spec)
    share = divide(jnp.asarray(q, jnp.float32), 100.0)
    zero = jnp.zeros((), jnp.float32)
    if spec.symmetric:
        peak = collect(_quantile(jnp.abs(view), axes, share, skip_zeros), spec)
        return Range(-peak, peak)
    low = _quantile(view, axes, jnp.float32(1) - share, skip_zeros)
    high = _quantile(view, axes, share, skip_zeros)
    return Range(collect(jnp.minimum(low, zero), spec), collect(jnp.maximum(high, zero), spec))


def _quantile(x: jax.Array, axes: tuple[int, ...], rank: jax.Array, skip_zeros: bool) -> jax.Array:
    def count(where: jax.Array) -> jax.Array:
        return jnp.sum(where.astype(jnp.int32), axes, keepdims=True)

    # Counted, not filtered: under jit an array cannot lose its zeros.
    negative, zeros = count(x < 0), count(x == 0)
    if not skip_zeros:
        zeros = jnp.zeros_like(zeros)
    n = count(jnp.ones_like(x, bool)) - zeros
    position = jnp.maximum(n - 1, 0).astype(jnp.float32) * rank
    below = jnp.floor(position)
    k = below.astype(jnp.int32)

    def value(k: jax.Array) -> jax.Array:
        # Zeros that are skipped lie between the negative and the positive values.
        return order_statistic(x, k + jnp.where(k >= negative, zeros, 0), axes)

    first, second = value(k), value(jnp.minimum(k + 1, jnp.maximum(n - 1, 0)))
    gap, share = second - first, position - below
    # The gap between the ends of float32 overflows; the interpolated value does not.
    between = jnp.where(jnp.isinf(gap), first * (1 - share) + second * share, first + gap * share)
    return jnp.where(n > 0, between, jnp.zeros_like(between))


def mse(x: jax.Array, spec: Spec, *, fractions: int = 100) -> Range:
    """The range with the least squared error, sum (fake_quantize(x) - x)^2, among fractions of the full range.

    Each group of entries gets the best of i / fractions, i = 1 to `fractions`, times its `absmax` (asymmetric: its
    `minmax`); of equal ones the widest. Exact zeros have no error, so pruned weights do not count.

    Args:
      x: floating array.
      spec: the Spec to find the range for.
      fractions: how many clipping fractions are tried, at least 1.

    Returns:
      The `Range`.

    Raises:
      ValueError: as `absmax`, and for `fractions` below 1.

    Example:
      >>> x = jnp.concatenate([jnp.linspace(-1.0, 1.0, 101), jnp.array([10.0])])
      >>> round(float(mse(x, Spec(4)).high), 2)
      7.9
    """
    check_array(x, "x")
    check_spec(spec, jnp.shape(x))
    if fractions < 1:
        raise ValueError(f"fractions must be at least 1, got {fractions!r}")
    return _mse(spec, x, fractions=fractions)


@compiled("fractions")
def _mse(spec: Spec, x: jax.Array, *, fractions: int) -> Range:
    view = to_groups(x.astype(jnp.float32), spec)
    axes = shared_axes(view.ndim, spec)
    extremes = dynamic(x, spec)
    ends = spread_fields(extremes, spec)
    # Squares of small numbers underflow and those of large ones overflow, so errors are counted in units of the
    # range. A unit is a power of two, so that products with it are exact and its reciprocal is a normal number.
    peak = jnp.clip(jnp.maximum(-ends.low, ends.high), 2.0**-100, 2.0**100)
    per_unit = lax.bitcast_convert_type(
        _POWERS - (lax.bitcast_convert_type(peak, jnp.int32) & _EXPONENT), jnp.float32
    )

    def error(fraction: jax.Array) -> jax.Array:
        g = grid(spec, Range(ends.low * fraction, ends.high * fraction))
        difference = (decode(encode(view, g), g) - view) * per_unit
        return ordered_sum(difference, axes, of=jnp.square)

    def narrower(best: tuple[jax.Array, jax.Array], fraction: jax.Array):
        least, chosen = best
        e = error(fraction)
        return (jnp.minimum(e, least), jnp.where(e < least, fraction, chosen)), None

    # From wide to narrow, and only a smaller error wins, so that of equal errors the widest range is chosen.
    widths = divide(jnp.arange(fractions, 0, -1, dtype=jnp.float32), float(fractions))
    start = error(widths[0])
    (_, chosen), _ = lax.scan(narrower, (start, jnp.ones_like(start)), widths[1:])
    chosen = collect(chosen, spec)
    return Range(extremes.low * chosen, extremes.high * chosen)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A calibration with numbers in it: the base class, to be called with values and a Spec.

    A subclass is a frozen dataclass whose float fields are traced, as everywhere in a config, and overrides
    `__call__`. A calibration without numbers can be a plain function.
    """

    def __call__(self, values: jax.Array, spec: Spec) -> Range:
        """The range of `values`, of the scales' shape; `jopt.quantize.scale_shape` gives that shape."""
        raise NotImplementedError(f"{type(self).__name__} must say which range values have")

    def of_weights(self, values: jax.Array, spec: Spec) -> Range:
        """The range of a parameter, in which exact zeros may be pruned weights; by default as of any values."""
        return self(values, spec)

    def validate(self, path: str) -> None:
        """Raises `ConfigError` for a field that is not as it must be; `path` is its address, for messages."""
        check_types(self, path)


@dataclasses.dataclass(frozen=True)
class Percentile(Calibration):
    """`jopt.quantize.percentile` as a calibration. Of a parameter it leaves out exact zeros: they may be pruned.

    Attributes:
      percentile: of the magnitudes, or of the values on either side; in (0, 100]; traced.

    Example:
      >>> x = jnp.concatenate([jnp.zeros(9), jnp.arange(1.0, 12.0)])
      >>> float(Percentile(50.0)(x, Spec(8)).high), float(Percentile(50.0).of_weights(x, Spec(8)).high)
      (1.5, 6.0)
    """

    percentile: float = 99.9

    def __call__(self, values: jax.Array, spec: Spec) -> Range:
        """The range that holds so many percent of `values`."""
        return percentile(values, spec, self.percentile)

    def of_weights(self, values: jax.Array, spec: Spec) -> Range:
        """The range that holds so many percent of the values that are not 0."""
        return percentile(values, spec, self.percentile, skip_zeros=True)

    def validate(self, path: str) -> None:
        """Raises `ConfigError` unless the percentile lies in (0, 100]."""
        super().validate(path)
        check_percentile(join_path(path, "percentile"), self.percentile, above=0)


def check_percentile(field: str, value: float, *, above: float) -> None:
    """Raises `ConfigError` unless a percentile is in (above, 100], as a float64 and as the program's float32."""
    good = math.isfinite(value) and all(above < v <= 100 for v in (value, as_traced(value)))
    require(good, field, value, f"a number in ({above}, 100]")


NAMED: dict[str, Choose] = {
    "auto": auto,
    "absmax": unclipped,
    "mse": mse,
    "percentile": Percentile(),
}
"""The calibrations that have a name."""


def calibration_function(
    calibration: str | Choose, field: str = "calibration", names: tuple[str, ...] = ()
) -> Choose:
    """The function behind a name of `NAMED`, a reference ('package.module:name') or a function.

    Args:
      calibration: any of these.
      field: what holds it, for messages.
      names: those accepted; (): all of `NAMED`.

    Raises:
      ConfigError: for anything else.

    Example:
      >>> float(calibration_function("absmax")(jnp.array([-4.0, 1.0]), Spec(8)).high)
      4.0
    """
    names = names or tuple(NAMED)
    if isinstance(calibration, str) and calibration in names:
        return NAMED[calibration]
    if is_reference(calibration):
        calibration = resolve(str(calibration), field)
    # A class is callable, but calling it makes an instance and no range.
    if isinstance(calibration, str | type) or not callable(calibration):
        accepted = f"one of {', '.join(map(repr, names))}, a function, or 'package.module:name' of one"
        raise ConfigError(field, calibration, accepted)
    return calibration


def of_weights(choose: Choose, values: jax.Array, spec: Spec) -> Range:
    """The range of a parameter: by `Calibration.of_weights` where the calibration has it."""
    # A plain function cannot know of pruned zeros; it gets all values.
    return choose.of_weights(values, spec) if isinstance(choose, Calibration) else choose(values, spec)
