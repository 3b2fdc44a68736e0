"""How many weights are kept, and which: exact counts, deterministic ties, no sort."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jopt.prune.patterns import Pattern, PatternLike, Unstructured, pattern_of
from jopt.prune.search import largest
from jopt.rules import named_leaves
from jopt.typing import Params

MILLION = 10**6
Scalar = jax.Array | np.ndarray | np.floating | np.integer | float | int
"""A number, which may be traced."""


def keep_count(n: int, sparsity: Scalar | None) -> Any:
    r"""$n - \mathrm{round}(s n)$, half to even, and at least 1 (where n is).

    - A Python float, an int or a NumPy float64 is multiplied by n in float64 and rounded, as
      `torch.nn.utils.prune` does: `n - round(sparsity * n)`.
    - Everything else (float32, bfloat16, any JAX array, traced or not) is read to the nearest millionth, m / 10^6,
      and n m / 10^6 is rounded in exact integer arithmetic. As a float32, 0.9 is 0.89999998, which of 25
      million weights would keep one too many.

    For a decimal of up to six digits the two agree, but where $s n$ is exactly a half that float64 misses: at n =
    100 the second prunes 58 for 0.575 (57.5, to even), and the first 57 (57.49999999999999).

    Args:
      n: number of groups, a Python integer below 2**31.
      sparsity: in [0, 1), a scalar that may be traced. Traced values below 0 count as 0; those of 1 and more, and
        NaN, keep one.

    Returns:
      A Python int, or for a JAX value an int32 scalar (of the batch's shape under `vmap`).

    Raises:
      ValueError: for a concrete sparsity outside [0, 1), or n outside [0, 2**31).

    Example:
      >>> keep_count(10, 0.25), keep_count(10, 0.35), keep_count(3, 0.99)
      (8, 6, 1)
      >>> int(keep_count(25_000_000, jnp.float32(0.9)))
      2500000
    """
    if not 0 <= n < 2**31:
        raise ValueError(f"the number of groups must lie in [0, 2**31), got {n}")
    check_sparsity(sparsity)
    if isinstance(sparsity, int | float):  # np.float64 is a float
        return _at_least_one(n, n - round(float(sparsity) * n))
    if isinstance(sparsity, jax.Array):
        # A comparison with NaN is false, so NaN counts as 1 here, as a tracer cannot be refused.
        s = sparsity.astype(jnp.float32)
        s = jnp.where(s < 1, jnp.maximum(s, jnp.zeros_like(s)), jnp.ones_like(s))
        m = jnp.round(s * jnp.float32(MILLION)).astype(jnp.int32)
        return jnp.maximum(n - _rounded_millionths(n, m), min(n, 1))
    m = int(np.round(np.float32(sparsity) * np.float32(MILLION)))
    return _at_least_one(n, n - _rounded_millionths(n, m))


def check_sparsity(sparsity: Scalar | None) -> None:
    """Raises ValueError for a concrete sparsity that is not a number in [0, 1); tracers are passed over."""
    if isinstance(sparsity, Tracer):
        return
    if sparsity is None:
        raise ValueError("sparsity must lie in [0, 1), got None")
    if isinstance(sparsity, bool | str) or np.ndim(sparsity) != 0:
        raise ValueError(f"sparsity must be a number in [0, 1), got {sparsity!r}")
    try:
        value = float(sparsity)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value < 1:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity}")


def _at_least_one(n: int, count: int) -> int:
    return max(count, min(n, 1))


def _rounded_millionths(n: int, m: Any) -> Any:
    """N m / 10^6, half to even, for integers n and 0 <= m <= 10^6; no intermediate reaches 2**31."""
    # JAX has no int64 by default, and n m needs one: the product is taken in two parts of three digits each.
    millions, remaining = divmod(n, MILLION)
    high, low = m // 1000, m % 1000
    product = remaining * high  # thousands of millionths: below 10^9
    remainder = (product % 1000) * 1000 + remaining * low  # millionths: below 1.001 * 10^9
    quotient = millions * m + product // 1000 + remainder // MILLION
    remainder = remainder % MILLION
    half = MILLION // 2
    up = (remainder > half) | ((remainder == half) & (quotient % 2 == 1))
    return quotient + (int(up) if isinstance(up, bool) else up.astype(quotient.dtype))


def top_k_mask(
    scores: jax.Array,
    sparsity: Scalar | None,
    pattern: PatternLike = Unstructured(),  # noqa: B008
) -> jax.Array:
    """Keeps the groups of highest score: exactly n - round(sparsity n) of n groups, and at least 1.

    Among equal scores the lower flat index is kept. -inf marks what is to be kept only if nothing else is left.

    Args:
      scores: floating, any shape; compared as float32.
      sparsity: share of groups to prune, in [0, 1), a scalar that may be traced; see `keep_count` for the
        rounding. For `NM`, None or 1 - n/m.
      pattern: what is kept or pruned together, as for `jopt.prune.patterns.pattern_of`. The scores of a group are
        added up.

    Returns:
      A boolean mask of the shape of `scores`, True where a weight is kept.

    Raises:
      ValueError: for a concrete sparsity outside [0, 1), concrete scores with a NaN, scores that are not
        floating, a pattern that does not divide the shape, or another sparsity than `NM` has. In a trace NaN is the
        lowest score, below -inf.

    Example:
      >>> from jopt.prune import NM, Channel
      >>> top_k_mask(jnp.array([0.1, -3.0, 2.0, 2.0]), 0.5).tolist()
      [False, False, True, True]
      >>> top_k_mask(jnp.array([[1.0, 5.0], [4.0, 2.0]]), 0.5, Channel()).tolist()
      [[False, True], [False, True]]
      >>> top_k_mask(jnp.array([3.0, 1.0, 2.0, 2.0]), None, NM(2, 4)).tolist()
      [True, False, True, False]
    """
    pattern = pattern_of(pattern)
    if pattern.fixed_sparsity is not None:
        _check_fixed_sparsity(sparsity, pattern)
        return pattern.select(_scores(scores))
    return keep_top(scores, keep_count(math.prod(pattern.grid(jnp.shape(scores))), sparsity), pattern)


def keep_top(scores: jax.Array, count: Scalar, pattern: PatternLike = Unstructured()) -> jax.Array:  # noqa: B008
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
    pattern = pattern_of(pattern)
    if pattern.fixed_sparsity is not None:
        raise ValueError(f"{pattern} {pattern.describe()}: a count cannot be given; use top_k_mask")
    scores = _scores(scores)
    count = _count(count, math.prod(pattern.grid(scores.shape)))
    return _keep_top((scores,), count, (pattern,), False)[0]


def keep_top_of_all(scores: Sequence[jax.Array], count: Scalar, patterns: Sequence[Pattern]) -> list[jax.Array]:
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


def global_masks(
    scores_tree: Params,
    sparsity: Scalar | None,
    pattern: PatternLike = Unstructured(),  # noqa: B008
) -> Params:
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
    pattern, leaves, groups = pattern_of(pattern), [], 0
    for path, leaf in named_leaves(scores_tree):
        try:
            leaves.append(_scores(leaf))
            groups += math.prod(pattern.grid(leaves[-1].shape))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if pattern.fixed_sparsity is not None:
        _check_fixed_sparsity(sparsity, pattern)
        masks = [pattern.select(leaf) for leaf in leaves]
    else:
        masks = keep_top_of_all(leaves, keep_count(groups, sparsity), [pattern] * len(leaves))
    return jax.tree.unflatten(jax.tree.structure(scores_tree), masks)


# Compiled once for patterns and shapes; called in a trace it becomes part of the caller's program.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _keep_top(
    scores: Sequence[jax.Array], count: jax.Array, patterns: tuple[Pattern, ...], mean: bool
) -> list[jax.Array]:
    pooled = [pattern.pool(x) for x, pattern in zip(scores, patterns, strict=True)]
    if mean:
        pooled = [
            _mean(p, pattern.group_size(x.shape)) for p, x, pattern in zip(pooled, scores, patterns, strict=True)
        ]
    masks = largest(pooled, count)
    return [pattern.expand(mask, x.shape) for mask, x, pattern in zip(masks, scores, patterns, strict=True)]


def _mean(total: jax.Array, size: int | np.ndarray) -> jax.Array:
    if isinstance(size, np.ndarray):
        return total / jnp.asarray(size, jnp.float32).reshape(total.shape)
    # A division by 1 would cost a pass over memory.
    return total if size <= 1 else total / size


@jax.jit
def _count_nan(scores: jax.Array) -> jax.Array:
    return jnp.sum(jnp.isnan(scores), dtype=jnp.int32)


def _scores(scores: jax.typing.ArrayLike) -> jax.Array:
    scores = jnp.asarray(scores)
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(f"scores must be floating, got dtype {scores.dtype}")
    if not isinstance(scores, Tracer) and (bad := int(_count_nan(scores))):
        raise ValueError(f"scores must be numbers, got NaN in {bad} of {scores.size} entries")
    # A choice has no gradient; without this the search would be differentiated, for nothing.
    return jax.lax.stop_gradient(scores)


def _count(count: Scalar, n: int) -> jax.Array:
    if not isinstance(count, Tracer):
        if not 0 <= int(count) <= n:
            raise ValueError(f"count must lie in [0, {n}], the number of groups, got {count}")
        return jnp.asarray(int(count), jnp.int32)
    return jnp.clip(count.astype(jnp.int32), 0, n)


def _check_fixed_sparsity(sparsity: Scalar | None, pattern: Pattern) -> None:
    if sparsity is None:
        return
    if isinstance(sparsity, Tracer):
        raise ValueError(f"{pattern} fixes its own sparsity: pass None, not a traced one")
    check_sparsity(sparsity)
    fixed = pattern.fixed_sparsity or 0.0
    if abs(float(sparsity) - fixed) > 1e-6:
        raise ValueError(f"{pattern} fixes its sparsity at {fixed:g}: pass None or that, got {sparsity}")
