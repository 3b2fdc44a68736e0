"""The optimizer's config: the optimizer, its learning rate, clipping, penalties and rules for single parameters."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from jopt.config import ConfigError, check_types, choice, fields, join_path, require
from jopt.hyper import as_traced, swept
from jopt.reference import is_reference, resolve

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
# An entry of their update depends on the gradients of the other entries, so a pruned entry's update is not 0
# although its gradient is: the training step projects their updates once more.
MIXING_NAMES = ("muon",)
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

    **An optimizer of your own** is a callable `make(config) -> optax.GradientTransformation`, given as `name`. It
    returns a direction like Optax's `scale_by_*` functions do: *before* the learning rate, and with the sign of the
    gradient. Clipping, penalties, schedule, accumulation and rules work around it as around ours. `config` is this
    config with its numbers as the program sees them: traced, in the dtype of computation. Numbers that no field
    here stands for belong in a dataclass of your own, given as `custom`: `make` reads them from `config.custom`,
    and its float fields are traced and can be swept as `optimizer.custom.FIELD`. A `make` with a parameter named
    `layers` also gets what the model says about its parameters (`jopt.layers.Layers`, or None). No default is
    filled in for it.

    **A schedule of your own** is a callable `shape(progress) -> multiplier`, given as `schedule`, where progress
    runs from 0, after the warm-up, to 1 at `decay_steps`, and the multiplier is 1 at the peak
    (`jopt.optim.schedules`). One with a parameter named `config` gets this config too.

    Attributes:
      name: one of `NAMES`, a callable, or the reference `package.module:name` of one.
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
      decoupled: whether `weight_decay` is decoupled (True) or an L2 penalty (False); None: as the optimizer has it.
      l1: adds `l1 * sign(w)` to the gradient; at least 0.
      proximal_l1: soft threshold by `learning_rate_t * proximal_l1` after the step, which gives exact zeros; at
        least 0.
      clip_by_global_norm: largest norm of the whole gradient, above 0.
      clip_by_value: largest magnitude of an element of the gradient, above 0.
      adaptive_clip: largest ratio of a unit's gradient norm to its weights' norm, above 0.
      schedule: one of `SCHEDULES`, a callable, or its reference; shapes in `jopt.optim.schedules`.
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
      custom: numbers of an optimizer of your own, an instance of a dataclass; None: it has none.

    Example:
      >>> config = Config("sgd", learning_rate=0.5, weight_decay=0.1)
      >>> validate(config)
    """

    name: str | Callable = "adam"
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
    schedule: str | Callable = "constant"
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
    decoupled: bool | None = None
    custom: object = None


_UNIT = "a number in [0, 1)"
# Field to (whether a number is in range, what the error says is accepted).
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
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
    resolve_kind(config.name, NAMES, join_path(path, "name"))
    choice(join_path(path, "variant"), config.variant, VARIANTS)
    resolve_kind(config.schedule, SCHEDULES, join_path(path, "schedule"))
    # A variant that does not exist is an error, or a sweep over
    # `name` would compare Optax's form and call it the paper's.
    if config.name not in PAPER_NAMES:
        accepted = f"'optax' for {config.name!r} ('paper' exists for {', '.join(map(repr, PAPER_NAMES))})"
        require(config.variant == "optax", join_path(path, "variant"), config.variant, accepted)
    for name, (good, accepted) in _RANGES.items():
        value = getattr(config, name)
        # In the program the number is a float32, where 1 - 1e-12 is 1 and 1e-50 is 0.
        rounded = [value, as_traced(value)] if isinstance(value, float) else [value]
        in_range = value is None or all(math.isfinite(x) and good(x) for x in rounded)
        require(in_range, join_path(path, name), value, accepted)
    _validate_custom(config, path)
    _validate_schedule(config, path, total_steps)
    _validate_rules(config, path)


def resolve_kind(value: object, names: Iterable[str], field: str) -> Callable | None:
    """The callable that `name` or `schedule` gives, or None where it names one of ours.

    Args:
      value: one of `names`, a callable, or the reference of one.
      names: of those that are built in.
      field: the config field, for the message.

    Raises:
      ConfigError: for anything else; for a reference that does not resolve to a callable.

    Example:
      >>> resolve_kind("adam", NAMES, "name"), resolve_kind("jopt.optim:scale_by_adam", NAMES, "name").__name__
      (None, 'scale_by_adam')
    """
    if callable(value):
        return value
    if isinstance(value, str) and is_reference(value):
        target = resolve(value, field)
        if not callable(target):
            raise ConfigError(field, value, f"the reference of a callable (this one is a {type(target).__name__})")
        return target
    names = sorted(names)
    accepted = f"one of {', '.join(map(repr, names))}, or a callable, or its reference 'package.module:name'"
    require(value in names, field, value, accepted)
    return None


def decouples(config: Config) -> bool:
    """Whether `weight_decay` acts on the weights directly, and not through the gradient.

    Example:
      >>> decouples(Config("adamw")), decouples(Config("adam")), decouples(Config("adam", decoupled=True))
      (True, False, True)
    """
    return config.name in DECOUPLED_NAMES if config.decoupled is None else config.decoupled


def mixes_entries(config: Config) -> bool:
    """Whether an entry of the update may depend on the gradients of other entries.

    Where it does, the update of a pruned weight is not 0 although its gradient is, and must be projected. Nothing
    tells how an optimizer from outside works, so it is taken to mix.

    Example:
      >>> [mixes_entries(Config(name)) for name in ("adam", "muon", "jopt.optim:scale_by_adam")]
      [False, True, True]
    """
    return config.name in MIXING_NAMES or config.name not in NAMES


def _validate_custom(config: Config, path: str) -> None:
    custom, field = config.custom, join_path(path, "custom")
    is_instance = dataclasses.is_dataclass(custom) and not isinstance(custom, type)
    require(custom is None or is_instance, field, custom, "of type dataclass (an instance of one), or None")
    # One of ours reads none of these numbers: a sweep over them would compare equal runs.
    unread = f"None: {config.name!r} does not read it, only an optimizer given as a callable or by reference does"
    require(custom is None or config.name not in NAMES, field, custom, unread)
    if is_instance:
        check_types(custom, field)


def _validate_schedule(config: Config, path: str, total_steps: int | None) -> None:
    # They are part of the program's structure, so they are Python numbers and can be compared here.
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
    gradients = config.accumulate_steps or 1
    accepted = f"at most the stage's {total_steps} steps: else no parameter is ever updated"
    require(gradients <= total_steps, join_path(path, "accumulate_steps"), gradients, accepted)
    updates = total_steps // gradients
    if config.schedule == "constant":
        require(warmup <= updates, field, warmup, f"at most the stage's updates ({updates})")
    elif config.decay_steps is None:
        # A schedule that ends with the stage must have at least
        # one update after the warm-up: progress divides by it.
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
    # 0 is not accepted as a multiplier of the rate, because a frozen parameter also leaves its moments alone.
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
    resolve_kind(config.name, NAMES, "name")
    choice("variant", config.variant, VARIANTS if config.name in PAPER_NAMES else VARIANTS[:1])
    resolve_kind(config.schedule, SCHEDULES, "schedule")


def complete(config: Config, dtype: DTypeLike = jnp.float32) -> Config:
    """The config with the optimizer's defaults filled in and its numbers ready for arithmetic in `dtype`.

    Args:
      config: the config; its numbers may be traced.
      dtype: float32 or float64, what the optimizer computes in.

    Returns:
      A new config. Python floats stay as they are, weakly typed, so that the arithmetic on them is Optax's to
      the last bit; arrays become arrays of `dtype`; steps are left alone. So it is with the floats of `custom`.

    Raises:
      ConfigError: for an unknown name, variant or schedule.

    Example:
      >>> complete(Config("lion")).b2
      0.99
    """
    check_names(config)
    defaults = DEFAULTS.get(config.name, {}) if isinstance(config.name, str) else {}
    changes: dict[str, Any] = {name: value for name, value in defaults.items() if getattr(config, name) is None}
    for field, _, value in fields(config):
        # Steps stay integers: in float32 they would be exact only below 2^24.
        if field.name in _RANGES and not field.name.endswith("_steps") and value is not None:
            changes[field.name] = _in_dtype(value, dtype)
    if config.custom is not None:
        changes["custom"] = _custom_in_dtype(config.custom, dtype)
    return dataclasses.replace(config, **changes)


def _in_dtype(value: object, dtype: DTypeLike) -> Any:
    return float(value) if isinstance(value, int | float) else jnp.asarray(value, dtype)


def _custom_in_dtype(custom: Any, dtype: DTypeLike) -> Any:
    """The dataclass with its float fields in `dtype`, nested ones too; whatever else it holds is left alone."""
    changes = {}
    for field, hint, value in fields(custom):
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[field.name] = _custom_in_dtype(value, dtype)
        elif (hint is float or hint == float | None) and value is not None:
            changes[field.name] = _in_dtype(value, dtype)
    return dataclasses.replace(custom, **changes)
