"""Which parameter gets what: rules first, then the default for kernels; the rest is left alone."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jopt import rules as rules_

Rules = Sequence[tuple[str, Any]]
_DEFAULT = object()


def assign(rules: Rules, params: Any, default: Any) -> list[tuple[str, Any, Any]]:
    """What each parameter gets: the first matching rule's value, else `default` for floating leaves of rank >= 2.

    Args:
      rules: pairs of a pattern (`jopt.rules`) and a value; None leaves alone.
      params: a pytree of arrays (or shapes).
      default: the value for a kernel that no rule matches.

    Returns:
      `(path, leaf, value)` of every leaf, in leaf order; the value is None where the leaf is left alone.

    Raises:
      RuleError: if a rule matches nothing.

    Example:
      >>> params = {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}
      >>> [(path, value) for path, _, value in assign([("bias", 16)], params, 8)]
      [('bias', 16), ('kernel', 8)]
    """
    out = []
    for found, leaf in zip(rules_.plan(rules, params, _DEFAULT), jax.tree.leaves(params), strict=True):
        value = found.value
        if value is _DEFAULT:
            kernel = jnp.issubdtype(leaf.dtype, jnp.floating) and len(leaf.shape) >= 2
            value = default if kernel else None
        out.append((found.path, leaf, value))
    return out


def change(params: Any, assigned: list[tuple[str, Any, Any]], function: Callable[[str, Any, Any], Any]) -> Any:
    """The tree with `function(path, leaf, value)` in the place of every leaf whose value is not None.

    Raises:
      ValueError: what `function` raises, with the path before it.
    """
    leaves = []
    for path, leaf, value in assigned:
        try:
            leaves.append(leaf if value is None else function(path, leaf, value))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return jax.tree.unflatten(jax.tree.structure(params), leaves)
