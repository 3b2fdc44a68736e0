"""What the rules give each parameter: learning rate, decay, frozen. Printed before a run, and read by `build`."""

from typing import Any, NamedTuple

import jax

from jopt import rules
from jopt.optim.config import Config


class ParameterPlan(NamedTuple):
    """What one parameter gets from a config's rules."""

    path: str
    shape: tuple[int, ...]
    learning_rate: float  # multiplier of the learning rate.
    weight_decay: float  # multiplier of weight_decay, l1 and proximal_l1.
    frozen: bool


def plan(config: Config, params: Any) -> list[ParameterPlan]:
    """Resolves the config's rules over the parameters.

    Args:
      config: the config; only its rules are read.
      params: a pytree of arrays (or shapes, as `jax.eval_shape` gives them).

    Returns:
      A `ParameterPlan` for each leaf, in leaf order.

    Raises:
      RuleError: if a rule matches no parameter, or is hidden behind those before it.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"Dense_0": {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}}
      >>> for p in plan(Config(weight_decay_rules=((".*bias", 0.0),), freeze=(".*kernel",)), params):
      ...     print(p)
      ParameterPlan(path='Dense_0/bias', shape=(2,), learning_rate=1.0, weight_decay=0.0, frozen=False)
      ParameterPlan(path='Dense_0/kernel', shape=(3, 2), learning_rate=1.0, weight_decay=1.0, frozen=True)
    """
    rates = _resolve("learning_rate_rules", config.learning_rate_rules, params, 1.0)
    decays = _resolve("weight_decay_rules", config.weight_decay_rules, params, 1.0)
    frozen = _resolve("freeze", [(pattern, True) for pattern in config.freeze], params, False)
    leaves = jax.tree.leaves(params)
    return [
        ParameterPlan(rate.path, tuple(leaf.shape), rate.value, decay.value, freeze.value)
        for leaf, rate, decay, freeze in zip(leaves, rates, decays, frozen, strict=True)
    ]


def _resolve(field: str, given: Any, params: Any, default: Any) -> list[rules.Assignment[Any]]:
    try:
        return rules.plan(given, params, default)
    except rules.RuleError as error:
        raise rules.RuleError(f"{field}: {error}") from error


def describe(config: Config, params: Any) -> str:
    """The plan as a table to print.

    Args:
      config: the config; only its rules are read.
      params: a pytree of arrays.

    Returns:
      A line for each parameter, under a heading.

    Raises:
      RuleError: as `plan`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(describe(Config(learning_rate_rules=(("w", 0.1),)), {"b": jnp.zeros(2), "w": jnp.zeros((3, 2))}))
      parameter  shape  learning rate  decay
      b          2      x1             x1
      w          3x2    x0.1           x1
    """
    rows: list[tuple[str, ...]] = [("parameter", "shape", "learning rate", "decay")]
    for p in plan(config, params):
        shape = "x".join(map(str, p.shape)) or "scalar"
        cells = ("frozen", "") if p.frozen else (f"x{p.learning_rate:g}", f"x{p.weight_decay:g}")
        rows.append((p.path, shape, *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
