"""Clipping of weights to a range: as a projection of what is stored, or as a transform of what the model sees."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jopt import rules as path_rules
from jopt.config import check_types, join_path, require
from jopt.hyper import as_traced, known
from jopt.layers import Layers, PlanRow, parameters
from jopt.transform import ParamTransform

Rules = Sequence[tuple[str, float | None]]


def clip_params(
    params: Any, low: Any = -1.0, high: Any = 1.0, rules: Rules = (), layers: Layers | None = None
) -> Any:
    r"""The nearest parameters in a range, $w \mapsto \min(\max(w, l), h)$.

    To be called on the parameters after each optimizer update. Courbariaux, Bengio and David, 2015, BinaryConnect,
    section 2.4, keep real-valued weights in [-1, 1] this way: beyond, they would grow without effect on the signs.

    Args:
      params: a pytree of arrays.
      low: l, at most 0; may be traced. Rounded to each leaf's dtype, as h is.
      high: h, at least 0; may be traced.
      rules: pairs of a pattern of a parameter's whole path, and a factor above 0 of its range, or None to leave the
        parameter alone. Without one, floating weights are clipped to the range itself.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      A tree of the same structure, shapes and dtypes. Zero stays zero, and NaN stays NaN.

    Raises:
      ValueError: for a range without 0, or a factor that is not above 0.
      RuleError: for a rule that matches no parameter, or one that is not a floating array.

    Example:
      >>> params = {"bias": jnp.array([3.0]), "kernel": jnp.array([[-3.0, 0.25, 1.0]])}
      >>> clip_params(params, -0.5, 1.0)["kernel"].tolist()
      [[-0.5, 0.25, 1.0]]
      >>> clip_params(params, rules=[("bias", 2.0), ("kernel", None)])["bias"].tolist()
      [2.0]
    """
    return _map(_clipped, params, low, high, rules, layers)


def clip(low: Any = -1.0, high: Any = 1.0, rules: Rules = (), layers: Layers | None = None) -> ParamTransform:
    r"""The model sees weights clipped to a range; stored weights are not changed.

    The gradient is straight-through: 1 inside the range, bounds included, and 0 outside, where a weight rests until
    something else (decay) brings it back. Clipping is no linear projection, so gradients and moments are left as
    they are; a loop that wants the stored weights in the range calls `clip_params` after each update.

    Args:
      low: as for `clip_params`.
      high: as for `clip_params`.
      rules: as for `clip_params`.
      layers: as for `clip_params`.

    Returns:
      A `ParamTransform` without state.

    Raises:
      ValueError, RuleError: as `clip_params`; rules that match nothing when it meets parameters.

    Example:
      >>> t = clip(-1.0, 1.0)
      >>> see = lambda w: t.apply((), {"kernel": w})["kernel"].sum()
      >>> jax.grad(see)(jnp.array([[-1.5, -1.0, 0.0, 1.0, 1.5]])).tolist()
      [[0.0, 1.0, 1.0, 1.0, 0.0]]
    """
    _check_range(low, high)

    def init(params):
        _factors(params, rules, layers)
        return ()

    return ParamTransform(
        init=init,
        update=lambda state, params, *, step, grads=None, key=None: state,
        apply=lambda state, params: _map(_seen, params, low, high, rules, layers),
    )


def _map(function: Any, params: Any, low: Any, high: Any, rules: Rules, layers: Layers | None) -> Any:
    _check_range(low, high)
    leaves, structure = jax.tree.flatten(params)
    new = [
        x if factor is None else function(x, _bound(low, factor, x.dtype), _bound(high, factor, x.dtype))
        for x, factor in zip(leaves, _factors(params, rules, layers), strict=True)
    ]
    return jax.tree.unflatten(structure, new)


def _bound(bound: Any, factor: float, dtype: Any) -> jax.Array:
    wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
    return (jnp.asarray(bound).astype(wide) * jnp.asarray(factor).astype(wide)).astype(dtype)


def _clipped(w: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    return jnp.minimum(jnp.maximum(w, low), high)


@jax.custom_vjp
def _seen(w: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    return _clipped(w, low, high)


def _seen_forward(w, low, high):
    return _clipped(w, low, high), (low <= w) & (w <= high)


def _seen_backward(inside, g):
    return jnp.where(inside, g, jnp.zeros((), g.dtype)), None, None


_seen.defvjp(_seen_forward, _seen_backward)


def _check_range(low: Any, high: Any) -> None:
    for name, value, fine, accepted in (
        ("low", low, lambda x: x <= 0, "at most 0"),
        ("high", high, lambda x: x >= 0, "at least 0"),
    ):
        if not isinstance(value, Tracer) and not bool(np.all(fine(np.asarray(value, np.float64)))):
            raise ValueError(f"{name} must be {accepted} (zero stays zero), got {value}")


def _factors(params: Any, rules: Rules, layers: Layers | None) -> list[float | None]:
    """The factor of the range for each leaf, in leaf order; None leaves it alone."""
    out = []
    given_by, known = path_rules.plan(rules, params, 1.0), parameters(params, layers)
    for given, leaf, parameter in zip(given_by, jax.tree.leaves(params), known, strict=True):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        if given.pattern is None:
            out.append(1.0 if floating and parameter.is_weight else None)
        elif given.value is None:
            out.append(None)
        elif not floating:
            raise path_rules.RuleError(
                f"rule {given.pattern!r} clips {given.path!r}, which must be a floating array, got {leaf.dtype}"
            )
        elif not (math.isfinite(given.value) and given.value > 0):
            raise ValueError(f"rule {given.pattern!r} must give a finite factor above 0 or None, got {given.value}")
        else:
            out.append(float(given.value))
    return out


@dataclasses.dataclass
class Config:
    """Clipping of weights to a range.

    Attributes:
      low: the smallest weight, at most 0.
      high: the largest weight, at least 0.
      rules: patterns of paths, and a factor above 0 of the range, or None to leave a parameter alone. Without one,
        weights are clipped to [low, high].

    Example:
      >>> validate(Config(low=-0.5, high=0.5, rules=(("Dense_2/.*", None),)))
    """

    low: float = -1.0
    high: float = 1.0
    rules: tuple[tuple[str, float | None], ...] = ()


def validate(config: Config, path: str = "clip") -> None:
    """Checks a config of plain Python values, before anything compiles.

    Args:
      config: the config.
      path: its place in the experiment, for the message.

    Raises:
      ConfigError: names the field, the value and what would be accepted.

    Example:
      >>> validate(Config(low=0.5))
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: clip.low must be a finite number, at most 0, got 0.5
    """
    check_types(config, path)
    low, high = config.low, config.high
    require(math.isfinite(as_traced(low)) and low <= 0, join_path(path, "low"), low, "a finite number, at most 0")
    accepted = "a finite number, at least 0"
    require(math.isfinite(as_traced(high)) and high >= 0, join_path(path, "high"), high, accepted)
    accepted = f"above low ({low}): else every weight is zero"
    require(as_traced(low) < as_traced(high), join_path(path, "high"), high, accepted)
    for i, (pattern, factor) in enumerate(config.rules):
        field = join_path(path, f"rules[{i}]")
        try:
            re.compile(pattern)
        except re.error as error:
            require(False, field, pattern, f"a regular expression ({error})")
        fine = factor is None or 0 < as_traced(factor) < math.inf
        require(fine, field, factor, "a finite factor above 0, or None")


def build(config: Config, *, begin: Any = 0, steps: Any = 0, layers: Layers | None = None) -> ParamTransform:
    """The transform of a config, whose numbers may be traced; `begin` and `steps` are not needed.

    Raises:
      ConfigError: as `validate`, for concrete numbers.
    """
    del begin, steps
    validate(known(config), "")
    return clip(config.low, config.high, config.rules, layers)


def constrain(config: Config, params: Any, layers: Layers | None = None) -> Any:
    """`clip_params` with a config's numbers, traced or not: for the loop, after each optimizer update.

    Example:
      >>> constrain(Config(high=0.5), {"kernel": jnp.array([[-3.0, 3.0]])})["kernel"].tolist()
      [[-1.0, 0.5]]
    """
    return clip_params(params, config.low, config.high, config.rules, layers)


def plan(config: Config, params: Any, layers: Layers | None = None) -> list[PlanRow]:
    """What each parameter gets from a config, to be printed before a run.

    Args:
      config: the config, of plain numbers.
      params: a pytree of arrays (or shapes).
      layers: as for `clip_params`.

    Returns:
      A `PlanRow` for each leaf, in leaf order.

    Raises:
      RuleError: as `clip_params`.

    Example:
      >>> params = {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}
      >>> [row.what for row in plan(Config(rules=((".*kernel", 0.5),)), params)]
      ['left as it is', 'clipped to [-0.5, 0.5]']
    """
    rows = []
    factors, known = _factors(params, config.rules, layers), parameters(params, layers)
    for (name, leaf), factor, parameter in zip(path_rules.named_leaves(params), factors, known, strict=True):
        what = "left as it is"
        if factor is not None:
            what = f"clipped to [{factor * config.low:g}, {factor * config.high:g}]"
        rows.append(PlanRow(name, tuple(leaf.shape), what, parameter.reason))
    return rows


def check(config: Config, state: Any, seen: Any, layers: Layers | None = None) -> list[str]:
    """What does not hold of the parameters that the model sees: clipped weights must lie in their range.

    Args:
      config: the config, of plain numbers.
      state: not read.
      seen: the parameters as the whole chain gives them.
      layers: as for `clip_params`.

    Returns:
      A sentence for each leaf with weights outside (or NaN); none if all hold.

    Example:
      >>> check(Config(), (), {"kernel": jnp.array([[0.5, 2.0]])})
      ['kernel: 1 of 2 weights lie outside [-1, 1]']
    """
    del state
    out = []
    for factor, (name, leaf) in zip(
        _factors(seen, config.rules, layers), path_rules.named_leaves(seen), strict=True
    ):
        if factor is None:
            continue
        # The bounds as they were used, rounded to the leaf's dtype.
        bounds = [np.asarray(_bound(b, factor, leaf.dtype)).astype(np.float64) for b in (config.low, config.high)]
        values = np.asarray(leaf).astype(np.float64)
        if wrong := int((~((values >= bounds[0]) & (values <= bounds[1]))).sum()):
            out.append(f"{name}: {wrong} of {values.size} weights lie outside [{bounds[0]:g}, {bounds[1]:g}]")
    return out
