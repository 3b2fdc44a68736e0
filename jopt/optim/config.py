"""The optimizer's config: what moves the parameters, at which rate, bounded and penalized how."""

import dataclasses
import math
import re
from typing import Any

import jax.numpy as jnp

from jopt.config import check_types, choice, fields, join_path, require
from jopt.hyper import as_traced, swept

# What each optimizer reads, and the number that an absent (None) field stands for: Optax's own default.
DEFAULTS: dict[str, dict[str, float]] = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9},
    "adagrad": {"eps": 1e-7},
    "rmsprop": {"decay": 0.9, "eps": 1e-8},
    "adam": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
    "adamw": {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 1e-4},
    "lion": {"b1": 0.9, "b2": 0.99, "weight_decay": 1e-3},
    "muon": {"momentum": 0.95, "b1": 0.9, "b2": 0.999, "eps": 1e-8},
}
NAMES = tuple(DEFAULTS)
VARIANTS = ("optax", "paper")
PAPER_NAMES = ("adagrad", "adam", "rmsprop")
DECOUPLED_NAMES = ("adamw", "lion", "muon")
MIXING_NAMES = ("muon",)  # an entry of their update depends on the gradients of the other entries
SCHEDULES = ("constant", "cosine", "linear", "polynomial", "exponential", "step", "one_cycle")

Rules = tuple[tuple[str, float], ...]


@dataclasses.dataclass
class Config:
    """An optimizer, its schedule, clipping, penalties and rules for single parameters.

    Every number may be a Python number, a JAX array or a tracer: `build` never looks at its value. Where None
    is allowed, it means that the step is absent from the program, or, for `momentum`, `b1`, `b2`, `decay`,
    `eps` and `weight_decay`, the optimizer's own default (`DEFAULTS`). A coefficient that the named optimizer
    does not read is ignored, so that one config can be swept over `name`.

    A rule is a pair of a regular expression, which must match a parameter's whole path such as
    `Dense_0/kernel`, and a value; the first match wins, and a rule that changes nothing is an error
    (`jopt.rules`).

    Attributes:
      name: one of `NAMES`.
      variant: 'optax' for Optax's formula, 'paper' for the source articles' form of adagrad, rmsprop and adam.
      learning_rate: the peak rate, above 0. The schedule multiplies it.
      momentum: velocity's decay, in [0, 1); read by momentum, nesterov and muon.
      b1: first moment's decay, in [0, 1); read by adam, adamw, lion and muon (where it runs Adam).
      b2: second moment's decay, in [0, 1); for lion the momentum's. Read by the same.
      decay: rmsprop's second moment's decay, in [0, 1).
      eps: keeps the denominator from 0; above 0. Inside or outside the root as the variant says.
      bias_correction: whether adam and adamw divide their moments by 1 - b^t. The 'paper' variant never does.
      weight_decay: decay of the weights, at least 0. Decoupled, so scaled by the learning rate alone, for
        adamw, lion and muon; for the others the L2 penalty's gradient `weight_decay * w`. All parameters decay,
        biases too, as in Optax; `weight_decay_rules` excludes.
      l1: adds `l1 * sign(w)` to the gradient; at least 0.
      proximal_l1: soft threshold by `learning_rate_t * proximal_l1` after the step, which gives exact zeros; at
        least 0.
      clip_by_global_norm: largest norm of the whole gradient, above 0.
      clip_by_value: largest magnitude of an element of the gradient, above 0.
      adaptive_clip: largest ratio of a unit's gradient norm to its weights' norm, above 0.
      schedule: one of `SCHEDULES`; shapes in `jopt.optim.schedules`.
      warmup_steps: parameter updates of linear warm-up from 0, before any schedule; part of `decay_steps`.
      decay_steps: the update at which the schedule has ended, counted from the first; None: the whole stage.
      end_fraction: cosine, linear, polynomial, one_cycle: the last rate as a fraction of the peak, in [0, 1].
      power: polynomial's exponent, above 0.
      decay_rate: exponential: the factor reached at `decay_steps`; step: the factor at each boundary. In (0, 1].
      boundaries: step: where the rate drops, as fractions of `decay_steps`, increasing, in (0, 1).
      peak_fraction: one_cycle: the part of the cycle that rises, in (0, 1).
      initial_fraction: one_cycle: the first rate as a fraction of the peak, in [0, 1].
      accumulate_steps: gradients averaged into one parameter update, at least 1. Steps of the schedule then
        count updates, not gradients.
      weight_decay_rules: multipliers, at least 0, of `weight_decay`, `l1` and `proximal_l1`.
      learning_rate_rules: multipliers, above 0, of the learning rate.
      freeze: patterns of parameters that never change, whose gradients count nowhere and whose moments stay as
        they start.

    Example:
      >>> config = Config("sgd", learning_rate=0.5, weight_decay=0.1)
      >>> validate(config)
    """

    name: str = "adam"
    variant: str = "optax"
    learning_rate: float = 1e-3
    momentum: float | None = None
    b1: float | None = None
    b2: float | None = None
    decay: float | None = None
    eps: float | None = None
    bias_correction: bool = True
    weight_decay: float | None = None
    l1: float | None = None
    proximal_l1: float | None = None
    clip_by_global_norm: float | None = None
    clip_by_value: float | None = None
    adaptive_clip: float | None = None
    schedule: str = "constant"
    warmup_steps: int = swept(0)
    decay_steps: int | None = swept(None)
    end_fraction: float = 0.0
    power: float = 2.0
    decay_rate: float = 0.1
    boundaries: tuple[float, ...] = (0.5, 0.75)
    peak_fraction: float = 0.3
    initial_fraction: float = 0.04
    accumulate_steps: int | None = swept(None)
    weight_decay_rules: Rules = ()
    learning_rate_rules: Rules = ()
    freeze: tuple[str, ...] = ()


_UNIT = "a number in [0, 1)"
_RANGES: dict[str, tuple[Any, str]] = {
    "learning_rate": (lambda x: x > 0, "a finite number above 0"),
    **{name: (lambda x: 0 <= x < 1, _UNIT) for name in ("momentum", "b1", "b2", "decay")},
    "eps": (lambda x: x > 0, "a finite number above 0"),
    **{name: (lambda x: x >= 0, "a finite number, at least 0") for name in ("weight_decay", "l1", "proximal_l1")},
    **{
        name: (lambda x: x > 0, "a finite number above 0 (None for no clipping)")
        for name in ("clip_by_global_norm", "clip_by_value", "adaptive_clip")
    },
    "warmup_steps": (lambda x: 0 <= x < 2**31, "a number of steps, at least 0"),
    "decay_steps": (lambda x: 0 < x < 2**31, "a number of steps, at least 1 (None for the whole stage)"),
    "end_fraction": (lambda x: 0 <= x <= 1, "a number in [0, 1]"),
    "power": (lambda x: x > 0, "a finite number above 0"),
    "decay_rate": (lambda x: 0 < x <= 1, "a number in (0, 1]"),
    "peak_fraction": (lambda x: 0 < x < 1, "a number in (0, 1)"),
    "initial_fraction": (lambda x: 0 <= x <= 1, "a number in [0, 1]"),
    "accumulate_steps": (lambda x: 1 <= x < 2**31, "a number of steps, at least 1 (None for no accumulation)"),
}


def validate(config: Config, path: str = "optimizer", total_steps: int | None = None) -> None:
    """Checks a config of plain Python values, once, before anything compiles.

    Whether the rules match parameters is known only with the parameters: `build` raises `RuleError` for that.

    Args:
      config: the config; its numbers are Python numbers.
      path: the config's place in the experiment, for the message.
      total_steps: the number of gradients the stage computes, if known.

    Raises:
      ConfigError: names the field, the value and what would be accepted.

    Example:
      >>> validate(Config(momentum=1.5))
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: optimizer.momentum must be a number in [0, 1), got 1.5
    """
    check_types(config, path)
    choice(join_path(path, "name"), config.name, NAMES)
    choice(join_path(path, "variant"), config.variant, VARIANTS)
    choice(join_path(path, "schedule"), config.schedule, SCHEDULES)
    if config.name not in PAPER_NAMES:
        accepted = f"'optax' for {config.name!r} ('paper' exists for {', '.join(map(repr, PAPER_NAMES))})"
        require(config.variant == "optax", join_path(path, "variant"), config.variant, accepted)
    for name, (good, accepted) in _RANGES.items():
        value = getattr(config, name)
        # In the program the number is a float32, where 1 - 1e-12 is 1 and 1e-50 is 0.
        seen = [value, as_traced(value)] if isinstance(value, float) else [value]
        fine = value is None or all(math.isfinite(x) and good(x) for x in seen)
        require(fine, join_path(path, name), value, accepted)
    _validate_schedule(config, path, total_steps)
    _validate_rules(config, path)


def _validate_schedule(config: Config, path: str, total_steps: int | None) -> None:
    bounds = config.boundaries
    increasing = all(a < b for a, b in zip((0.0, *bounds), (*bounds, 1.0), strict=True))
    require(
        all(map(math.isfinite, bounds)) and increasing,
        join_path(path, "boundaries"),
        bounds,
        "increasing fractions in (0, 1)",
    )
    warmup, field = config.warmup_steps, join_path(path, "warmup_steps")
    if config.decay_steps is not None:
        end = config.decay_steps
        require(warmup < end, field, warmup, f"less than decay_steps ({end})")
    if total_steps is None:
        return
    every = config.accumulate_steps or 1
    accepted = f"at most the stage's {total_steps} steps: else no parameter is ever updated"
    require(every <= total_steps, join_path(path, "accumulate_steps"), every, accepted)
    updates = total_steps // every
    if config.schedule == "constant":
        require(warmup <= updates, field, warmup, f"at most the stage's updates ({updates})")
    elif config.decay_steps is None:
        require(warmup < updates, field, warmup, f"less than the stage's updates ({updates})")


def _validate_rules(config: Config, path: str) -> None:
    for name, good, accepted in (
        ("weight_decay_rules", lambda x: x >= 0, "a finite multiplier, at least 0"),
        ("learning_rate_rules", lambda x: x > 0, "a finite multiplier above 0 ('freeze' is for 0)"),
    ):
        for i, (pattern, value) in enumerate(getattr(config, name)):
            field = f"{join_path(path, name)}[{i}]"
            _validate_pattern(field, pattern)
            require(math.isfinite(value) and good(value), field, value, accepted)
    for i, pattern in enumerate(config.freeze):
        _validate_pattern(f"{join_path(path, 'freeze')}[{i}]", pattern)


def _validate_pattern(field: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        require(False, field, pattern, f"a regular expression ({error})")


def check_names(config: Config) -> None:
    """Raises `ConfigError` for an unknown name, variant or schedule.

    Example:
      >>> check_names(Config("adagrad", "paper"))
    """
    choice("name", config.name, NAMES)
    choice("variant", config.variant, VARIANTS if config.name in PAPER_NAMES else VARIANTS[:1])
    choice("schedule", config.schedule, SCHEDULES)


def complete(config: Config, dtype: Any = jnp.float32) -> Config:
    """The config with the optimizer's defaults filled in and its numbers ready for arithmetic in `dtype`.

    Args:
      config: the config; its numbers may be traced.
      dtype: float32 or float64, what the optimizer computes in.

    Returns:
      A new config. Python floats stay as they are, weakly typed, so that the arithmetic on them is Optax's to
      the last bit; arrays become arrays of `dtype`; steps are left alone.

    Raises:
      ConfigError: for an unknown name, variant or schedule.

    Example:
      >>> complete(Config("lion")).b2
      0.99
    """
    check_names(config)
    changes: dict[str, Any] = {k: v for k, v in DEFAULTS[config.name].items() if getattr(config, k) is None}
    for field, _, value in fields(config):
        if field.name in _RANGES and not field.name.endswith("_steps") and value is not None:
            is_python = isinstance(value, int | float)
            changes[field.name] = float(value) if is_python else jnp.asarray(value, dtype)
    return dataclasses.replace(config, **changes)
