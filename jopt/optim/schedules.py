"""Learning-rate schedules as multipliers of a traced base rate: 1 at the peak, pure functions of the step.

Optax's `warmup_cosine_decay_schedule`, `exponential_decay` and the one-cycle schedules look at their numbers in
Python, so refuse traced ones; these accept them all. A step is the number of parameter updates made before: the
first update is step 0.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jopt.config import ConfigError
from jopt.hyper import check_number, known
from jopt.optim.config import SCHEDULES, Config, complete, resolve_kind, validate
from jopt.reference import call
from jopt.typing import Number


def multiplier(
    config: Config, step: ArrayLike, total_steps: Number | None = None, dtype: DTypeLike = jnp.float32
) -> Float[Array, "*steps"]:
    r"""The factor of the peak learning rate at a step.

    With $W$ = warmup_steps, $D$ = decay_steps (or `total_steps`) and the schedule's shape $s$, a function of
    progress $p = \mathrm{clip}((t - W) / (D - W), 0, 1)$,

    $$m(t) = \min(t / W, 1) \, s(p)$$

    so $m(0) = 0$ if $W > 0$, $m(W) = s(0)$ and $m(t) = s(1)$ for $t \ge D$. A run of $D$ updates uses
    $t = 0 \dots D - 1$, as in Optax. $s(0) = 1$ but for one_cycle. A callable in the place of a name
    is $s$; it gets $p$ as an array of `dtype` and must return one of the same shape.

    Args:
      config: the config; its numbers may be traced.
      step: updates made before; an integer or an integer array of any shape. Exact below 2^24 in float32.
      total_steps: where the schedule ends if `decay_steps` is None.
      dtype: float32 or float64.

    Returns:
      An array of `dtype` and of the shape of `step`.

    Raises:
      ConfigError: for a concrete number that `validate` refuses; if the schedule needs an end, and neither
        decay_steps nor total_steps gives one.

    Example:
      >>> config = Config(schedule="cosine", warmup_steps=2, decay_steps=6)
      >>> [f"{m:.2f}" for m in multiplier(config, jnp.arange(8))]
      ['0.00', '0.50', '1.00', '0.85', '0.50', '0.15', '0.00', '0.00']
    """
    validate(known(config), "")
    check_number("total_steps", total_steps, lambda x: x >= 1, "a number of steps, at least 1")
    config = complete(config, dtype)
    step = jnp.asarray(step).astype(dtype)
    # Steps may be traced integers, which strict promotion does not let meet floating point.
    warmup = jnp.asarray(config.warmup_steps).astype(dtype)
    # Both sides of a `where` are computed, so the divisor must not be 0 where there is no warm-up.
    ramp = jnp.where(step < warmup, step / jnp.maximum(warmup, 1), 1.0)
    if config.schedule == "constant":
        return ramp
    require_end(config, total_steps)
    end = jnp.asarray(total_steps if config.decay_steps is None else config.decay_steps).astype(dtype)
    if config.schedule == "step":
        # Its boundaries are fractions of the whole run, so it
        # counts from the first update and not from the warm-up.
        return ramp * staircase(step, end, config.boundaries, config.decay_rate)
    progress = jnp.clip((step - warmup) / jnp.maximum(end - warmup, 1), 0, 1)
    return ramp * _shape(config, progress)


def require_end(config: Config, total_steps: Number | None) -> None:
    """Raises `ConfigError` if the schedule ends, and neither `decay_steps` nor `total_steps` says where.

    Example:
      >>> require_end(Config(schedule="cosine"), total_steps=100)
    """
    if config.schedule != "constant" and config.decay_steps is None and total_steps is None:
        accepted = f"a number of steps, because schedule {config.schedule!r} ends and total_steps is not given"
        raise ConfigError("decay_steps", None, accepted)


def learning_rate(
    config: Config, step: ArrayLike, total_steps: Number | None = None, dtype: DTypeLike = jnp.float32
) -> Float[Array, "*steps"]:
    """The learning rate at a step: `config.learning_rate` times `multiplier`; arguments as there.

    Example:
      >>> learning_rate(Config(learning_rate=0.5, warmup_steps=2), jnp.arange(4)).tolist()
      [0.0, 0.25, 0.5, 0.5]
    """
    return complete(config, dtype).learning_rate * multiplier(config, step, total_steps, dtype)


def _shape(config: Config, progress: Float[Array, "*steps"]) -> Float[Array, "*steps"]:
    shape = resolve_kind(config.schedule, SCHEDULES, "schedule")
    if shape is not None:
        value = jnp.asarray(call(shape, progress, config=config), progress.dtype)
        if value.shape != progress.shape:
            accepted = f"a callable that keeps the shape of progress (of {progress.shape} it made {value.shape})"
            raise ConfigError("schedule", config.schedule, accepted)
        return value
    match config.schedule:
        case "cosine":
            return cosine(progress, config.end_fraction)
        case "linear":
            return polynomial(progress, config.end_fraction, 1.0)
        case "polynomial":
            return polynomial(progress, config.end_fraction, config.power)
        case "exponential":
            return exponential(progress, config.decay_rate)
        case _:
            return one_cycle(progress, config.initial_fraction, config.peak_fraction, config.end_fraction)


def cosine(progress: Float[Array, "*steps"], end: Number) -> Float[Array, "*steps"]:
    r"""$e + (1 - e)(1 + \cos \pi p) / 2$ (Loshchilov and Hutter, 2017, SGDR, equation 5, without restarts).

    Args:
      progress: $p$ in [0, 1], any shape.
      end: $e$, the value at the end.

    Returns:
      An array of the shape and dtype of `progress`.

    Example:
      >>> cosine(jnp.array([0.0, 0.5, 1.0]), 0.5).tolist()
      [1.0, 0.75, 0.5]
    """
    return end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def polynomial(progress: Float[Array, "*steps"], end: Number, power: Number) -> Float[Array, "*steps"]:
    r"""$e + (1 - e)(1 - p)^k$; $k = 1$ is linear.

    Args:
      progress: $p$ in [0, 1], any shape.
      end: $e$, the value at the end.
      power: $k$, above 0.

    Returns:
      An array of the shape and dtype of `progress`.

    Example:
      >>> polynomial(jnp.array([0.0, 0.5, 1.0]), 0.0, 2.0).tolist()
      [1.0, 0.25, 0.0]
    """
    return end + (1 - end) * (1 - progress) ** power


def exponential(progress: Float[Array, "*steps"], rate: Number) -> Float[Array, "*steps"]:
    """$r^p$: the value falls to $r$ at the end. For a factor f every n steps, r = f^((D - W) / n).

    Args:
      progress: $p$ in [0, 1], any shape.
      rate: $r$ in (0, 1].

    Returns:
      An array of the shape and dtype of `progress`.

    Example:
      >>> exponential(jnp.array([0.0, 0.5, 1.0]), 0.25).tolist()
      [1.0, 0.5, 0.25]
    """
    return jnp.power(jnp.asarray(rate, progress.dtype), progress)


def staircase(
    step: Float[Array, "*steps"], end: Number, boundaries: Sequence[Number], rate: Number
) -> Float[Array, "*steps"]:
    r"""$r^n$ with $n$ the number of boundaries $b_i$ with $t \ge \mathrm{round}(b_i D)$.

    Args:
      step: $t$, a floating array of any shape.
      end: $D$.
      boundaries: fractions of $D$. The rounding is half to even.
      rate: $r$, the factor at each boundary.

    Returns:
      An array of the shape and dtype of `step`.

    Example:
      >>> staircase(jnp.arange(5.0), 4, (0.5, 0.75), 0.5).tolist()
      [1.0, 1.0, 0.5, 0.25, 0.25]
    """
    value = jnp.ones_like(step)
    for boundary in boundaries:
        # Rounded, because 0.1 * 30 is a little above 3 in float64 and 3 in float32: the drop is at step 3 in both.
        value = jnp.where(step >= jnp.round(jnp.asarray(boundary * end, step.dtype)), value * rate, value)
    return value


def one_cycle(
    progress: Float[Array, "*steps"], initial: Number, peak: Number, end: Number
) -> Float[Array, "*steps"]:
    r"""Rises from $i$ to 1 while $p < q$, then falls to $e$, each along half a cosine.

    Smith and Topin, 2018, Super-Convergence; with cosines as in `optax.cosine_onecycle_schedule`, which it equals
    for $i$ = 1 / div_factor and $e$ = 1 / (div_factor * final_div_factor). Momentum is left alone.

    Args:
      progress: $p$ in [0, 1], any shape.
      initial: $i$, the first value.
      peak: $q$ in (0, 1), where the peak is.
      end: $e$, the last value.

    Returns:
      An array of the shape and dtype of `progress`.

    Example:
      >>> one_cycle(jnp.array([0.0, 0.25, 0.625, 1.0]), 0.5, 0.25, 0.0).round(3).tolist()
      [0.5, 1.0, 0.5, 0.0]
    """
    rise = 1 - (1 - initial) * 0.5 * (1 + jnp.cos(jnp.pi * progress / peak))
    return jnp.where(progress < peak, rise, cosine((progress - peak) / (1 - peak), end))
