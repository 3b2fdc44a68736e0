"""Which parameter gets how many shared values."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt import rules as path_rules
from jopt.cluster.kmeans import check_clusters

Rules = Sequence[tuple[str, int | None]]


class Row(NamedTuple):
    """What one parameter gets."""

    path: str
    shape: tuple[int, ...]
    what: str


def clusters_by_leaf(params: Any, clusters: int, rules: Rules = (), keep_zero: bool = True) -> list[int | None]:
    """The number of values for each leaf, in leaf order; None leaves it alone.

    Without a matching rule, floating leaves of rank 2 or more share, and others (biases, norms) do not.

    Args:
      params: a pytree of arrays (or shapes, as `jax.eval_shape` gives them).
      clusters: the number of values where no rule says otherwise.
      rules: pairs of a pattern of the whole path, and a number or None.
      keep_zero: whether one of the values is kept for zero.

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
    for given, leaf in zip(path_rules.plan(rules, params, default), jax.tree.leaves(params), strict=True):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        if given.pattern is None:
            out.append(default if floating and len(leaf.shape) >= 2 else None)
        elif given.value is None:
            out.append(None)
        elif not floating:
            raise path_rules.RuleError(
                f"rule {given.pattern!r} shares {given.path!r}, which must be a floating array, got {leaf.dtype}"
            )
        else:
            out.append(check_clusters(given.value, keep_zero, f"clusters of rule {given.pattern!r}"))
    return out


def plan(config: Any, params: Any) -> list[Row]:
    """What each parameter gets from a config, to be printed before a run.

    Args:
      config: a `jopt.cluster.Config`; only its structure is read.
      params: a pytree of arrays (or shapes).

    Returns:
      A `Row` for each leaf, in leaf order.

    Raises:
      RuleError: as `clusters_by_leaf`.

    Example:
      >>> from jopt.cluster import Config
      >>> for row in plan(Config(clusters=4), {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}):
      ...     print(row.path, row.shape, row.what)
      bias (2,) left as it is
      kernel (3, 2) at most 4 values, one of them zero if any weight is, trained
    """
    counts = clusters_by_leaf(params, config.clusters, config.rules, config.keep_zero)
    zero = ", one of them zero if any weight is" if config.keep_zero else ""
    end = f"{zero}, {'trained' if config.trained else 'fixed'}"
    return [
        Row(path, tuple(leaf.shape), "left as it is" if k is None else f"at most {k} values{end}")
        for k, (path, leaf) in zip(counts, path_rules.named_leaves(params), strict=True)
    ]
