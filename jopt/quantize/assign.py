"""Which parameter gets what: rules first, then the default for weights; the rest is left alone."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt import rules as rules_
from jopt.layers import Layers, Parameter, parameters
from jopt.quantize.spec import OUTPUTS, Spec

Rules = Sequence[tuple[str, Any]]
_DEFAULT = object()


class Assigned(NamedTuple):
    """One parameter: its path, the leaf, what it gets (None: it is left alone), and what is known of it."""

    path: str
    leaf: Any
    value: Any
    parameter: Parameter


def assign(rules: Rules, params: Any, default: Any, layers: Layers | None = None) -> list[Assigned]:
    """What each parameter gets: the first matching rule's value, else `default` for floating weights.

    Args:
      rules: pairs of a pattern (`jopt.rules`) and a value; None leaves alone.
      params: a pytree of arrays (or shapes).
      default: the value for a weight that no rule matches.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      An `Assigned` for every leaf, in leaf order.

    Raises:
      RuleError: if a rule matches nothing.

    Example:
      >>> params = {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}
      >>> [(a.path, a.value) for a in assign([("bias", 16)], params, 8)]
      [('bias', 16), ('kernel', 8)]
    """
    out = []
    given_by, known = rules_.plan(rules, params, _DEFAULT), parameters(params, layers)
    for given, leaf, parameter in zip(given_by, jax.tree.leaves(params), known, strict=True):
        value = given.value
        if value is _DEFAULT:
            value = default if parameter.is_weight and jnp.issubdtype(leaf.dtype, jnp.floating) else None
        out.append(Assigned(given.path, leaf, value, parameter))
    return out


def resolve(spec: Spec, parameter: Parameter, ndim: int) -> Spec:
    """The Spec with the axes of a parameter in the place of 'outputs', and with those over its copies.

    The copies of a stacked layer have scales of their own, whatever the Spec says. What is no weight has no
    channels: along 'outputs' it has one scale (for each copy).

    Args:
      spec: the Spec.
      parameter: what is known of the parameter.
      ndim: its rank.

    Raises:
      LayoutError: for 'outputs' of a weight whose axes are not known, naming its layer.

    Example:
      >>> query = Parameter("query/kernel", "DenseGeneral", "kernel", contract=(1,), outputs=(2, 3), stack=(0,))
      >>> resolve(Spec(8, axis="outputs"), query, 4).axis, resolve(Spec(8), query, 4).axis
      ((0, 2, 3), 0)
    """
    if spec.bits is None:
        return spec
    if spec.axis == OUTPUTS:
        weight = parameter.is_weight
        kept = parameter.require_layout("a scale for each output channel").outputs if weight else ()
    elif parameter.stack:
        kept = spec.kept_axes(ndim)
    else:
        return spec
    axes = tuple(sorted({*kept, *parameter.stack}))
    if axes == (ndim - 1,) and not parameter.stack:
        return dataclasses.replace(spec, axis=-1)
    return dataclasses.replace(spec, axis=None if not axes else axes[0] if len(axes) == 1 else axes)


def change(params: Any, assigned: Sequence[Assigned], function: Callable[[str, Any, Any], Any]) -> Any:
    """The tree with `function(path, leaf, value)` in the place of every leaf whose value is not None.

    Raises:
      ValueError: what `function` raises, with the path before it.
    """
    leaves = []
    for path, leaf, value, _ in assigned:
        try:
            leaves.append(leaf if value is None else function(path, leaf, value))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return jax.tree.unflatten(jax.tree.structure(params), leaves)
