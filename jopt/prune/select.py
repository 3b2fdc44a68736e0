"""Which weights are kept: exact counts, deterministic ties, no sort."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jopt.prune.counts import check_sparsity, keep_count
from jopt.prune.patterns import NM, Block, Channel, Pattern, Unstructured, along, group_size
from jopt.prune.search import largest, order_keys
from jopt.rules import named_leaves

Groups = Unstructured | Block | Channel


def top_k_mask(scores: jax.Array, sparsity: Any, pattern: Pattern = Unstructured()) -> jax.Array:  # noqa: B008
    """Keeps the groups of highest score: exactly n - round(sparsity n) of n groups, and at least 1.

    Among equal scores the lower flat index is kept. -inf marks what is to be kept only if nothing else is left.

    Args:
      scores: floating, any shape; compared as float32.
      sparsity: share of groups to prune, in [0, 1), a scalar that may be traced; see `keep_count` for the
        rounding. For `NM`, None or 1 - n/m.
      pattern: what is kept or pruned together. `Block` and `Channel` add the scores of a group up.

    Returns:
      A boolean mask of the shape of `scores`, True where a weight is kept.

    Raises:
      ValueError: for a concrete sparsity outside [0, 1), concrete scores with a NaN, scores that are not
        floating, a pattern that does not divide the shape, or another sparsity than `NM` has. In a trace NaN is the
        lowest score, below -inf.

    Example:
      >>> top_k_mask(jnp.array([0.1, -3.0, 2.0, 2.0]), 0.5).tolist()
      [False, False, True, True]
      >>> top_k_mask(jnp.array([[1.0, 5.0], [4.0, 2.0]]), 0.5, Channel()).tolist()
      [[False, True], [False, True]]
      >>> top_k_mask(jnp.array([3.0, 1.0, 2.0, 2.0]), None, NM(2, 4)).tolist()
      [True, False, True, False]
    """
    if isinstance(pattern, NM):
        _check_nm_sparsity(sparsity, pattern)
        return _n_of_m(_scores(scores), pattern)
    return keep_top(scores, keep_count(math.prod(pattern.grid(jnp.shape(scores))), sparsity), pattern)


def keep_top(scores: jax.Array, count: Any, pattern: Groups = Unstructured()) -> jax.Array:  # noqa: B008
    """Keeps the `count` groups of highest score: `top_k_mask` for a number of groups.

    Args:
      scores: floating, any shape; compared as float32.
      count: how many groups are kept, an integer scalar that may be traced; clipped to [0, number of groups] in a
        trace.
      pattern: what is kept or pruned together; not `NM`, which has its own count.

    Returns:
      A boolean mask of the shape of `scores`.

    Raises:
      ValueError: for a concrete count outside [0, number of groups], and as `top_k_mask` does.

    Example:
      >>> keep_top(jnp.array([1.0, 3.0, 2.0]), 1).tolist()
      [False, True, False]
    """
    if isinstance(pattern, NM):
        raise ValueError(f"{pattern} keeps {pattern.n} of {pattern.m}: a count cannot be given; use top_k_mask")
    scores = _scores(scores)
    count = _count(count, math.prod(pattern.grid(scores.shape)))
    return _keep_top((scores,), count, (pattern,), False)[0]


def keep_top_of_all(scores: Sequence[jax.Array], count: Any, patterns: Sequence[Groups]) -> list[jax.Array]:
    """Keeps the `count` groups of highest mean score among those of several tensors.

    Args:
      scores: float32, of any shapes.
      count: how many groups are kept in all, an integer scalar that may be traced.
      patterns: what is kept or pruned together, of each.

    Returns:
      A boolean mask for each.

    Example:
      >>> masks = keep_top_of_all([jnp.array([1.0, 4.0]), jnp.array([3.0])], 2, [Unstructured(), Unstructured()])
      >>> [mask.tolist() for mask in masks]
      [[False, True], [True]]
    """
    return _keep_top(scores, jnp.asarray(count, jnp.int32), tuple(patterns), True)


def global_masks(scores_tree: Any, sparsity: Any, pattern: Pattern = Unstructured()) -> Any:  # noqa: B008
    """One budget over a whole tree: the groups of all leaves compete.

    The groups of `Block` and `Channel` compete by their *mean* score an entry, since a sum would favour the
    layers with the larger groups; the budget counts groups. Ties go by leaf order, then flat index. A leaf may
    lose all its entries. `NM` has no budget to share: each leaf keeps n of every m.

    Args:
      scores_tree: a tree of floating arrays; None leaves pass through.
      sparsity: share of the groups of all leaves to prune, as in `top_k_mask`.
      pattern: what is kept or pruned together, in every leaf.

    Returns:
      A tree of boolean masks.

    Raises:
      ValueError: as `top_k_mask` does, naming the leaf.

    Example:
      >>> masks = global_masks({"a": jnp.array([1.0, 4.0]), "b": jnp.array([3.0, 2.0]), "c": None}, 0.5)
      >>> {name: mask if mask is None else mask.tolist() for name, mask in masks.items()}
      {'a': [False, True], 'b': [True, False], 'c': None}
    """
    leaves, groups = [], 0
    for path, leaf in named_leaves(scores_tree):
        try:
            leaves.append(_scores(leaf))
            groups += math.prod(pattern.grid(leaves[-1].shape))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if isinstance(pattern, NM):
        _check_nm_sparsity(sparsity, pattern)
        masks = [_n_of_m(leaf, pattern) for leaf in leaves]
    else:
        masks = keep_top_of_all(leaves, keep_count(groups, sparsity), [pattern] * len(leaves))
    return jax.tree.unflatten(jax.tree.structure(scores_tree), masks)


# Compiled once for patterns and shapes; called in a trace it becomes part of the caller's program.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _keep_top(
    scores: Sequence[jax.Array], count: jax.Array, patterns: tuple[Groups, ...], mean: bool
) -> list[jax.Array]:
    pooled = [pattern.pool(x) for x, pattern in zip(scores, patterns, strict=True)]
    if mean:
        pooled = [
            p if isinstance(pattern, Unstructured) else p / max(1, group_size(pattern, x.shape))
            for p, x, pattern in zip(pooled, scores, patterns, strict=True)
        ]
    kept = largest(pooled, count)
    return [pattern.expand(mask, x.shape) for mask, x, pattern in zip(kept, scores, patterns, strict=True)]


@functools.partial(jax.jit, static_argnums=1)
def _n_of_m(scores: jax.Array, pattern: NM) -> jax.Array:
    """An entry's rank among its m is the number of those that come before it."""
    axis, *others = axes = along(pattern, scores.shape)
    if others:  # joined, at the end.
        end = tuple(range(-len(axes), 0))
        moved = jnp.moveaxis(scores, axes, end)
        flat = moved.reshape(*moved.shape[: -len(axes)], -1)
        mask = _n_of_m(flat, dataclasses.replace(pattern, axis=-1))
        return jnp.moveaxis(mask.reshape(moved.shape), end, axes)
    grid, m = pattern.grid(scores.shape), pattern.m
    keys = order_keys(scores).reshape(*grid[: axis + 1], m, *grid[axis + 1 :])
    place = jax.lax.broadcasted_iota(jnp.int32, keys.shape, axis + 1)
    rank = jnp.zeros(keys.shape, jnp.int32)
    for j in range(m):
        other = jax.lax.slice_in_dim(keys, j, j + 1, axis=axis + 1)
        rank += ((other > keys) | ((other == keys) & (j < place))).astype(jnp.int32)
    return (rank < pattern.n).reshape(scores.shape)


@jax.jit
def _count_nan(scores: jax.Array) -> jax.Array:
    return jnp.sum(jnp.isnan(scores), dtype=jnp.int32)


def _scores(scores: Any) -> jax.Array:
    scores = jnp.asarray(scores)
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(f"scores must be floating, got dtype {scores.dtype}")
    if not isinstance(scores, Tracer) and (bad := int(_count_nan(scores))):
        raise ValueError(f"scores must be numbers, got NaN in {bad} of {scores.size} entries")
    return jax.lax.stop_gradient(scores)


def _count(count: Any, n: int) -> jax.Array:
    if not isinstance(count, Tracer):
        if not 0 <= int(count) <= n:
            raise ValueError(f"count must lie in [0, {n}], the number of groups, got {count}")
        return jnp.asarray(int(count), jnp.int32)
    return jnp.clip(count.astype(jnp.int32), 0, n)


def _check_nm_sparsity(sparsity: Any, pattern: NM) -> None:
    if sparsity is None:
        return
    if isinstance(sparsity, Tracer):
        raise ValueError(f"{pattern} fixes its own sparsity: pass None, not a traced one")
    check_sparsity(sparsity)
    if abs(float(sparsity) - pattern.sparsity) > 1e-6:
        raise ValueError(f"{pattern} fixes its sparsity at {pattern.sparsity:g}: pass None or that, got {sparsity}")
