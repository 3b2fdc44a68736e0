"""Clipping of weights to a range: as a projection of what is stored, or as a transform of what the model sees."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jopt import rules as path_rules
from jopt.checks import check_rules
from jopt.config import check_types, join_path, require
from jopt.hyper import as_traced, known
from jopt.layers import Layers, PlanRow, parameters
from jopt.method import Method
from jopt.transform import Params, ParamTransform, State, identity
from jopt.typing import Number

Rules = Sequence[tuple[str, float | None]]


def clip_params(
    params: Params, low: Number = -1.0, high: Number = 1.0, rules: Rules = (), layers: Layers | None = None
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


def clip(low: Number = -1.0, high: Number = 1.0, rules: Rules = (), layers: Layers | None = None) -> ParamTransform:
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


def _map(function: Any, params: Params, low: Number, high: Number, rules: Rules, layers: Layers | None) -> Any:
    _check_range(low, high)
    leaves, structure = jax.tree.flatten(params)
    new = [
        x if factor is None else function(x, _bound(low, factor, x.dtype), _bound(high, factor, x.dtype))
        for x, factor in zip(leaves, _factors(params, rules, layers), strict=True)
    ]
    return jax.tree.unflatten(structure, new)


def _bound(bound: Number, factor: float, dtype: Any) -> jax.Array:
    # The product is rounded to the leaf's dtype once: two roundings could put a bound beyond the range that was
    # asked for.
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


def _check_range(low: Number, high: Number) -> None:
    for name, value, fine, accepted in (
        ("low", low, lambda x: x <= 0, "at most 0"),
        ("high", high, lambda x: x >= 0, "at least 0"),
    ):
        if not isinstance(value, Tracer) and not bool(np.all(fine(np.asarray(value, np.float64)))):
            raise ValueError(f"{name} must be {accepted} (zero stays zero), got {value}")


def _factors(params: Params, rules: Rules, layers: Layers | None) -> list[float | None]:
    """The factor of the range for each leaf, in leaf order; None leaves it alone."""
    factors = []
    assignments, descriptions = path_rules.plan(rules, params, 1.0), parameters(params, layers)
    for assigned, leaf, parameter in zip(assignments, jax.tree.leaves(params), descriptions, strict=True):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        if assigned.pattern is None:
            factors.append(1.0 if floating and parameter.is_weight else None)
        elif assigned.value is None:
            factors.append(None)
        elif not floating:
            pattern, path = assigned.pattern, assigned.path
            raise path_rules.RuleError(
                f"rule {pattern!r} clips {path!r}, which must be a floating array, got {leaf.dtype}"
            )
        elif not (math.isfinite(assigned.value) and assigned.value > 0):
            raise ValueError(
                f"rule {assigned.pattern!r} must give a finite factor above 0 or None, got {assigned.value}"
            )
        else:
            factors.append(float(assigned.value))
    return factors


def outside(
    params: Params, low: float = -1.0, high: float = 1.0, rules: Rules = (), layers: Layers | None = None
) -> list[str]:
    """A sentence for each leaf with weights, NaN included, that `clip_params` with the same arguments would change.

    No stage calls this at its end: what the model sees there may lie outside, such as the signs of small weights.

    Example:
      >>> outside({"kernel": jnp.array([[0.5, 2.0]])})
      ['kernel: 1 of 2 weights lie outside [-1, 1]']
    """
    problems = []
    for factor, (name, leaf) in zip(_factors(params, rules, layers), path_rules.named_leaves(params), strict=True):
        if factor is None:
            continue
        # The bounds as they were used, rounded to the leaf's dtype.
        least, most = (float(_bound(bound, factor, leaf.dtype)) for bound in (low, high))
        weights = np.asarray(leaf).astype(np.float64)
        if wrong := int((~((weights >= least) & (weights <= most))).sum()):
            problems.append(f"{name}: {wrong} of {weights.size} weights lie outside [{least:g}, {most:g}]")
    return problems


@dataclasses.dataclass(frozen=True)
class Range(Method):
    """Weights are kept in a range: after every optimizer step they are clipped to it (`clip_params`).

    Attributes:
      low: the smallest weight, at most 0.
      high: the largest weight, at least 0.
      rules: patterns of paths, and a factor above 0 of the range, or None to leave a parameter alone. Without one,
        weights are clipped to [low, high].

    Example:
      >>> Range(low=-0.5, high=0.5, rules=(("Dense_2/.*", None),)).validate()
      >>> Range(low=0.5).validate()
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: clip.low must be a finite number, at most 0, got 0.5
      >>> transform = Range(high=0.5).build()
      >>> transform.constrain((), {"kernel": jnp.array([[-3.0, 3.0]])})["kernel"].tolist()
      [[-1.0, 0.5]]
    """

    name: ClassVar[str] = "clip"
    rank: ClassVar[int] = 50
    chooses: ClassVar[bool] = False

    low: float = -1.0
    high: float = 1.0
    rules: tuple[tuple[str, float | None], ...] = ()

    def validate(self, path: str = "clip") -> None:
        """Raises `ConfigError` for a range without 0 or without width, or a factor that is not above 0."""
        check_types(self, path)
        low, high = self.low, self.high
        accepted = "a finite number, at most 0"
        require(math.isfinite(as_traced(low)) and low <= 0, join_path(path, "low"), low, accepted)
        accepted = "a finite number, at least 0"
        require(math.isfinite(as_traced(high)) and high >= 0, join_path(path, "high"), high, accepted)
        accepted = f"above low ({low}): else every weight is zero"
        require(as_traced(low) < as_traced(high), join_path(path, "high"), high, accepted)

        def factor(field: str, value: float | None) -> None:
            good = value is None or 0 < as_traced(value) < math.inf
            require(good, field, value, "a finite factor above 0, or None")

        check_rules(self.rules, join_path(path, "rules"), factor)

    def build(
        self, *, begin: int = 0, steps: int = 0, last_update: int | None = None, layers: Layers | None = None
    ) -> ParamTransform:
        """The transform whose `constrain` is `clip_params`."""
        del begin, steps, last_update
        known(self).validate("")

        # On the stored weights after each step, as in BinaryConnect: clipping only what the model sees would let a
        # weight grow on, and it could not change its sign again for as many steps.
        def constrain(state: State, params: Params) -> Params:
            del state
            return clip_params(params, self.low, self.high, self.rules, layers)

        return identity()._replace(constrain=constrain)

    def plan(self, params: Params, layers: Layers | None = None) -> list[PlanRow]:
        """What each parameter gets.

        Example:
          >>> params = {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}
          >>> [row.what for row in Range(rules=((".*kernel", 0.5),)).plan(params)]
          ['left as it is', 'clipped to [-0.5, 0.5]']
        """
        rows = []
        factors, roles = _factors(params, self.rules, layers), parameters(params, layers)
        for (name, leaf), factor, parameter in zip(path_rules.named_leaves(params), factors, roles, strict=True):
            text = "left as it is"
            if factor is not None:
                text = f"clipped to [{factor * self.low:g}, {factor * self.high:g}]"
            rows.append(PlanRow(name, tuple(leaf.shape), text, parameter.reason))
        return rows
