"""Which parameter gets how many shared values."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jopt import rules as path_rules
from jopt.cluster.kmeans import check_clusters
from jopt.layers import Layers, PlanRow, parameters

Rules = Sequence[tuple[str, int | None]]


def clusters_by_leaf(
    params: Any, clusters: int, rules: Rules = (), keep_zero: bool = True, layers: Layers | None = None
) -> list[int | None]:
    """The number of values for each leaf, in leaf order; None leaves it alone.

    Without a matching rule, floating weights share, and others (biases, norms) do not: what is a weight is said by
    its role (`jopt.layers`). Each copy of a stacked layer has as many values of its own.

    Args:
      params: a pytree of arrays (or shapes, as `jax.eval_shape` gives them).
      clusters: the number of values where no rule says otherwise.
      rules: pairs of a pattern of the whole path, and a number or None.
      keep_zero: whether one of the values is kept for zero.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      A number or None for each leaf.

    Raises:
      RuleError: for a rule that matches no parameter, or one that is not a floating array.
      ValueError: for a number of clusters that is none.

    Example:
      >>> params = {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}
      >>> clusters_by_leaf(params, 16), clusters_by_leaf(params, 16, ((".*", 4),))
      ([None, 16], [4, 4])
    """
    default = check_clusters(clusters, keep_zero, "clusters")
    out = []
    given_by, known = path_rules.plan(rules, params, default), parameters(params, layers)
    for given, leaf, parameter in zip(given_by, jax.tree.leaves(params), known, strict=True):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        if given.pattern is None:
            out.append(default if floating and parameter.is_weight else None)
        elif given.value is None:
            out.append(None)
        elif not floating:
            raise path_rules.RuleError(
                f"rule {given.pattern!r} shares {given.path!r}, which must be a floating array, got {leaf.dtype}"
            )
        else:
            out.append(check_clusters(given.value, keep_zero, f"clusters of rule {given.pattern!r}"))
    return out


def plan(config: Any, params: Any, layers: Layers | None = None) -> list[PlanRow]:
    """What each parameter gets from a config, to be printed before a run.

    Args:
      config: a `jopt.cluster.Share`; only its structure is read.
      params: a pytree of arrays (or shapes).
      layers: as for `clusters_by_leaf`.

    Returns:
      A `PlanRow` for each leaf, in leaf order.

    Raises:
      RuleError: as `clusters_by_leaf`.

    Example:
      >>> from jopt.cluster import Share
      >>> for row in plan(Share(clusters=4), {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}):
      ...     print(row.path, row.shape, row.what)
      bias (2,) left as it is
      kernel (3, 2) at most 4 values, one of them zero if any weight is, trained
    """
    counts = clusters_by_leaf(params, config.clusters, config.rules, config.keep_zero, layers)
    zero = ", one of them zero if any weight is" if config.keep_zero else ""
    end = f"{zero}, {'trained' if config.trained else 'fixed'}"
    rows = []
    named, known = path_rules.named_leaves(params), parameters(params, layers)
    for k, (path, leaf), parameter in zip(counts, named, known, strict=True):
        copies = math.prod(leaf.shape[axis] for axis in parameter.stack)
        each = f" in each of {copies} copies" if parameter.stack else ""
        what = "left as it is" if k is None else f"at most {k} values{each}{end}"
        rows.append(PlanRow(path, tuple(leaf.shape), what, parameter.reason))
    return rows
