"""How sparse at which step: any curve, Zhu and Gupta's cubic, geometric rounds, RigL's decaying share.

Every argument may be traced. Steps are optimizer steps since the start of the run, int32. Weights are pruned
between segments only, at whatever steps these end, so each function is right at *every* step and not only where a
round begins.
"""

import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jopt.checks import choose
from jopt.config import ConfigError, require
from jopt.hyper import array_module, check_number
from jopt.prune.select import Scalar

Curve = Callable[[jax.Array], jax.Array]
"""float32 [] -> float32 []."""


def cubic_remaining(remaining: jax.Array) -> jax.Array:
    """Schedule 'cubic': a third of the way to the end of the time, 8/27 of the sparsity is still to come.

    Example:
      >>> float(cubic_remaining(jnp.float32(0.5)))
      0.125
    """
    return remaining * remaining * remaining


def linear_remaining(remaining: jax.Array) -> jax.Array:
    """Schedule 'linear': the sparsity grows evenly.

    Example:
      >>> float(linear_remaining(jnp.float32(0.25)))
      0.25
    """
    return remaining


BUILT_IN: dict[str, Curve] = {"cubic": cubic_remaining, "linear": linear_remaining}
SCHEDULES = tuple(BUILT_IN)


def curve_of(schedule: str | Curve, field: str = "schedule") -> Curve:
    """The curve that a config's field or a function's argument says: from the time left to the sparsity left.

    Args:
      schedule: one of `SCHEDULES`, a function of one number in [0, 1], or 'package.module:name' of one. A function
        gets the fraction of the time that is done and gives the fraction of the way that is done. One whose
        parameter is named `remaining` gets and gives what is left instead, which is exact near the end.
      field: its path, for the message.

    Raises:
      ConfigError: for anything else.

    Example:
      >>> float(curve_of(lambda fraction: fraction**2)(jnp.float32(0.5)))
      0.75
    """
    function = choose(field, schedule, BUILT_IN)
    accepted = "a function of one number, the fraction of the time that is done"
    require(callable(function), field, schedule, accepted)
    try:
        signature = inspect.signature(function)
        signature.bind(0.5)
    except (ValueError, TypeError) as error:
        raise ConfigError(field, schedule, f"{accepted} ({error})") from error
    if next(iter(signature.parameters)) == "remaining":
        return function
    # Near the end 1 - fraction has lost the last bits of what remains, which a cubic shows in the last sparsity.
    return lambda remaining: 1 - jnp.asarray(function(1 - remaining), jnp.float32)


def step_at(fraction: Scalar, *, begin: Scalar, steps: Scalar) -> Scalar:
    """The step at which a fraction of a stage is done: `begin + round(fraction * steps)`, half to even.

    Args:
      fraction: in [0, 1], taken as float32.
      begin: the step at which the stage begins.
      steps: the stage's length.

    Returns:
      int32 []: of NumPy, if no argument is of JAX.

    Example:
      >>> int(step_at(0.75, begin=100, steps=10))
      108
    """
    check_number("fraction", fraction, lambda x: (x >= 0) & (x <= 1), "a number in [0, 1]")
    check_number("steps", steps, lambda x: x >= 0, "a number of steps, at least 0")
    # Single operations of float32, which NumPy rounds as XLA does.
    xp = array_module(fraction, begin, steps)
    length = xp.asarray(steps, xp.float32)
    return xp.asarray(begin, xp.int32) + xp.round(xp.asarray(fraction, xp.float32) * length).astype(xp.int32)


def cubic(
    step: Scalar, *, sparsity: Scalar, initial_sparsity: Scalar = 0.0, begin: Scalar, end: Scalar
) -> jax.Array:
    """Sparsity at `step`: `s_f + (s_i - s_f) (1 - (t - t0) / (t1 - t0))^3`.

    It is 0 before `begin`, exactly `initial_sparsity` at it, and exactly `sparsity` from `end` on.

    Args:
      step: the step t.
      sparsity: the last sparsity s_f, in [0, 1).
      initial_sparsity: the first sparsity s_i, in [0, s_f].
      begin: the first step t0.
      end: the last step t1, at least `begin`; equal to it, everything is pruned at once.

    Returns:
      float32 [].

    Paper:
      Zhu and Gupta 2017, "To prune, or not to prune", equation 1.

    Example:
      >>> [float(cubic(t, sparsity=0.875, begin=2, end=6)) for t in (1, 2, 4, 6, 9)]
      [0.0, 0.0, 0.765625, 0.875, 0.875]
    """
    return ramp(step, cubic_remaining, sparsity=sparsity, initial_sparsity=initial_sparsity, begin=begin, end=end)


def ramp(
    step: Scalar,
    curve: Curve,
    *,
    sparsity: Scalar,
    initial_sparsity: Scalar = 0.0,
    begin: Scalar,
    end: Scalar,
) -> jax.Array:
    """Sparsity at `step` on the way from s_i to s_f: `s_f - (s_f - s_i) curve(remaining)`.

    Args:
      step: as for `cubic`.
      curve: from the fraction of the time that is left to that of the way, as `curve_of` gives.
      sparsity: as for `cubic`.
      initial_sparsity: as for `cubic`.
      begin: as for `cubic`.
      end: as for `cubic`.

    Returns:
      float32 [].

    Example:
      >>> [float(ramp(t, linear_remaining, sparsity=0.75, begin=2, end=6)) for t in (1, 2, 4, 6)]
      [0.0, 0.0, 0.375, 0.75]
    """
    check_number("sparsity", sparsity, lambda x: (x >= 0) & (x < 1), "a number in [0, 1)")
    check_number("initial_sparsity", initial_sparsity, lambda x: (x >= 0) & (x < 1), "a number in [0, 1)")
    _check_steps(begin, end)
    t, t0, t1 = (jnp.asarray(x, jnp.int32) for x in (step, begin, end))
    last, first = jnp.asarray(sparsity, jnp.float32), jnp.asarray(initial_sparsity, jnp.float32)
    remaining = _share(t1 - t, t - t0)
    # The maximum changes nothing, but keeps the compiler from fusing product and difference, which would round once
    # in a compiled program and twice outside of one.
    missing = jnp.maximum((last - first) * jnp.asarray(curve(remaining), jnp.float32), jnp.float32(0))
    between = jnp.where(t <= t0, first, last - missing)
    # The last sparsity is selected, not computed, so that it is exact, whatever the curve gives at its end.
    return jnp.where(t >= t1, last, jnp.where(t < t0, jnp.float32(0), between))


def geometric(step: Scalar, *, sparsity: Scalar, begin: Scalar, end: Scalar, rounds: Scalar) -> jax.Array:
    """Sparsity at `step` of iterative pruning: after round r of R it is `1 - (1 - s_f)^(r / R)`.

    Every round prunes the same share of the weights that are left. Round 1 is at `begin`, the others follow every
    `(end - begin) // (R - 1)` steps, and the last is done by `end`: from there on it is exactly `sparsity`. R = 1
    prunes everything at `begin`.

    Args:
      step: the step.
      sparsity: the last sparsity s_f, in [0, 1).
      begin: the step of the first round.
      end: the step of the last round.
      rounds: how many rounds R, at least 1.

    Returns:
      float32 []; 0 before `begin`.

    Paper:
      Han et al. 2015, "Learning both weights and connections"; the rounds of Frankle and Carbin 2019, section 2.

    Example:
      >>> [float(geometric(t, sparsity=0.875, begin=10, end=30, rounds=3)) for t in (9, 10, 19, 20, 30)]
      [0.0, 0.5, 0.5, 0.75, 0.875]
    """
    check_number("sparsity", sparsity, lambda x: (x >= 0) & (x < 1), "a number in [0, 1)")
    check_number("rounds", rounds, lambda x: x >= 1, "an integer, at least 1")
    _check_steps(begin, end)
    t, t0, t1, count = (jnp.asarray(x, jnp.int32) for x in (step, begin, end, rounds))
    last = jnp.asarray(sparsity, jnp.float32)
    every = jnp.maximum((t1 - t0) // jnp.maximum(count - 1, 1), 1)
    done = jnp.minimum(jnp.maximum(t - t0, 0) // every + 1, count)
    # Rounds need not divide the steps: from the end on all of them are done.
    done = jnp.where(t >= t1, count, done)
    remaining = jnp.power(1 - last, _share(done, count - done))
    return jnp.where(t < t0, jnp.float32(0), jnp.where(done == count, last, 1 - remaining))


def cosine_share(step: Scalar, *, drop_fraction: Scalar, begin: Scalar, end: Scalar) -> jax.Array:
    """The share of a layer's connections that RigL replaces: `alpha / 2 (1 + cos(pi (t - t0) / (t1 - t0)))`.

    Args:
      step: the step t.
      drop_fraction: the first share alpha, in [0, 1).
      begin: t0; the paper's is 0.
      end: t1, the paper's T_end, from where on the share is 0.

    Returns:
      float32 []; 0 outside [`begin`, `end`).

    Paper:
      Evci et al. 2020, "Rigging the lottery", section 3, f_decay.

    Example:
      >>> [round(float(cosine_share(t, drop_fraction=0.3, begin=0, end=100)), 6) for t in (0, 50, 100)]
      [0.3, 0.15, 0.0]
    """
    check_number("drop_fraction", drop_fraction, lambda x: (x >= 0) & (x < 1), "a number in [0, 1)")
    _check_steps(begin, end)
    t, t0, t1 = (jnp.asarray(x, jnp.int32) for x in (step, begin, end))
    alpha = jnp.asarray(drop_fraction, jnp.float32)
    share = alpha / 2 * (1 + jnp.cos(jnp.float32(jnp.pi) * _share(t - t0, t1 - t)))
    return jnp.where((t >= t0) & (t < t1), share, jnp.float32(0))


def _check_steps(begin: Scalar, end: Scalar) -> None:
    if not isinstance(begin, Tracer):
        least = np.asarray(begin)
        check_number("end", end, lambda x: x >= least, f"a step, at least begin ({begin})")


def _share(part: jax.Array, others: jax.Array) -> jax.Array:
    """`part / (part + others)` in float32.

    Added up here, since the compiler would make a product of a division by a constant, with another last bit.
    """
    a, b = part.astype(jnp.float32), others.astype(jnp.float32)
    return a / jnp.maximum(a + b, jnp.float32(1))
