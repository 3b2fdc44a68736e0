"""How many groups of weights each parameter keeps under a budget, and which.

A mask may only lose weights, and does when it keeps more than its pool has places for. So nothing but the masks
decides what is done: held masks stay as they are, and masks of an earlier stage, of whatever pattern, are
respected.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.layers import to_copies
from jopt.layers.copies import from_copies
from jopt.prune.assign import Pruned
from jopt.prune.budgets import erk, erk_counts
from jopt.prune.counts import keep_count
from jopt.prune.patterns import NM, Pattern, Unstructured
from jopt.prune.select import keep_top, keep_top_of_all, top_k_mask

BUDGETS = ("layer", "global", "erk")


class Pool(NamedTuple):
    """Parameters whose groups of weights compete for places.

    Attributes:
      members: positions in the list of `Pruned`.
      sparsity: float32 [], of the pool.
      count: how many groups are kept, int32 []; of a parameter with stacked copies, of each copy: [] or [copies].
        None for `NM`, whose count is fixed.
    """

    members: tuple[int, ...]
    sparsity: jax.Array
    count: Any


def pools(pruned: Sequence[Pruned], targets: Sequence[jax.Array], budget: str) -> list[Pool]:
    """Shares the common budget out. The copies of a stacked layer are layers like any other.

    Args:
      pruned: the parameters.
      targets: float32 [], the sparsity of each at this time; that of those without a rule is the common one.
      budget: 'layer': each layer has its target. 'global': all those without a rule compete for one budget.
        'erk': `jopt.prune.erk` gives each of these its share.

    Returns:
      The pools.

    Raises:
      LayoutError: for 'erk', if the axes of a layer are not known, naming it.

    Example:
      >>> from jopt.prune.assign import assign
      >>> pruned = assign({"a": jnp.zeros((2, 5)), "b": {"kernel": jnp.zeros((3, 5))}})
      >>> [(p.members, int(p.count)) for p in pools(pruned, [jnp.float32(0.8)] * 2, "global")]
      [((0, 1), 5)]
    """
    sizes = [math.prod(p.copy_pattern.grid(p.copy_shape)) for p in pruned]
    if any(isinstance(p.pattern, NM) for p in pruned):
        return [Pool((i,), target, None) for i, target in enumerate(targets)]
    common = tuple(i for i, p in enumerate(pruned) if p.target is None)
    counts = {
        i: keep_count(sizes[i], targets[i]) for i in range(len(pruned)) if budget == "layer" or i not in common
    }
    if common and budget == "erk":
        counts |= _erk_shares(pruned, common, sizes, targets[common[0]])
    out = [Pool((i,), targets[i], counts[i]) for i in sorted(counts)]
    if common and budget == "global":
        sparsity = targets[common[0]]
        total = sum(sizes[i] * pruned[i].copies for i in common)
        out.append(Pool(common, sparsity, keep_count(total, sparsity)))
    return out


def _erk_shares(
    pruned: Sequence[Pruned], common: Sequence[int], sizes: Sequence[int], sparsity: jax.Array
) -> dict[int, Any]:
    """How many groups each of the `common` parameters keeps, of each of its copies."""
    shapes = [_kernel_shape(pruned[i]) for i in common for _ in range(pruned[i].copies)]
    if all(isinstance(pruned[i].pattern, Unstructured) for i in common):
        shares = erk_counts(shapes, sparsity)
    else:
        groups = [sizes[i] for i in common for _ in range(pruned[i].copies)]
        shares = [keep_count(n, s) for n, s in zip(groups, erk(shapes, sparsity), strict=True)]
    out, start = {}, 0
    for i in common:
        own = shares[start : start + pruned[i].copies]
        out[i] = jnp.stack([jnp.asarray(n, jnp.int32) for n in own]) if pruned[i].stack else own[0]
        start += pruned[i].copies
    return out


def _kernel_shape(p: Pruned) -> tuple[int, ...]:
    """[*window, inputs, outputs] of one copy: what `erk` takes for a layer's shape."""
    if len(p.copy_shape) == 2:  # either way round the sum and the product are the same
        return p.copy_shape
    known = p.parameter.require_layout("budget 'erk'")
    sides = (math.prod(p.shape[axis] for axis in side) for side in (known.inputs, known.outputs))
    return (*(p.shape[axis] for axis in known.window), *sides)


def alive(mask: jax.Array, p: Pruned) -> jax.Array:
    """How many groups still have a kept weight, int32 [], or [copies] of a stacked layer.

    For `NM`, how many weights are kept beyond its n of m.

    Example:
      >>> from jopt.prune.assign import assign
      >>> (p,) = assign({"kernel": jnp.zeros((1, 3))})
      >>> int(alive(jnp.array([[True, False, True]]), p))
      2
    """
    if p.stack:
        return jax.vmap(lambda part: _alive(part, p.copy_pattern))(to_copies(mask, p.stack))
    return _alive(mask, p.pattern)


def _alive(mask: jax.Array, pattern: Pattern) -> jax.Array:
    if isinstance(pattern, NM):
        return jnp.sum(mask & ~top_k_mask(mask.astype(jnp.float32), None, pattern), dtype=jnp.int32)
    return jnp.sum(pattern.pool(mask.astype(jnp.float32)) > 0, dtype=jnp.int32)


def crowded(pool: Pool, masks: Sequence[jax.Array], pruned: Sequence[Pruned]) -> jax.Array:
    """Whether the masks of a pool keep more groups than it has places for: bool []."""
    kept = [alive(masks[i], pruned[i]) for i in pool.members]
    total = kept[0] if len(kept) == 1 else sum((jnp.sum(n) for n in kept), jnp.int32(0))
    over = (total > 0) & (pool.sparsity > 0) if pool.count is None else total > pool.count
    return over if over.ndim == 0 else over.any()


def select(
    pool: Pool, masks: Sequence[jax.Array], scores: Sequence[jax.Array], pruned: Sequence[Pruned]
) -> list[jax.Array]:
    """The pool's new masks: of what is still kept, the groups of highest score.

    Args:
      pool: the pool.
      masks: of all pruned parameters, as they are.
      scores: float32, of all pruned parameters.
      pruned: the parameters.

    Returns:
      A mask for each member, within the one that it has.
    """
    members = [pruned[i] for i in pool.members]
    old = [masks[i] for i in pool.members]
    ranked = [_bury(scores[i], masks[i], pruned[i].pattern) for i in pool.members]
    if pool.count is None:
        new = [top_k_mask(s, None, p.pattern) for s, p in zip(ranked, members, strict=True)]
    elif len(ranked) == 1:
        new = [_keep_of_each(ranked[0], pool.count, members[0])]
    else:
        patterns: list[Any] = [p.pattern for p in members]  # no NM: that has no count.
        new = keep_top_of_all(ranked, pool.count, patterns)
    # Where fewer are left than there are places, what was pruned must not come back to fill them.
    return [n & o for n, o in zip(new, old, strict=True)]


def _keep_of_each(scores: jax.Array, count: Any, p: Pruned) -> jax.Array:
    """`keep_top` of each copy of a layer."""
    if not p.stack:
        return keep_top(scores, count, p.copy_pattern)
    counts = jnp.broadcast_to(jnp.asarray(count, jnp.int32), (p.copies,))
    kept = jax.vmap(lambda part, n: keep_top(part, n, p.copy_pattern))(to_copies(scores, p.stack), counts)
    return from_copies(kept, p.stack, [p.shape[axis] for axis in p.stack])


def _bury(scores: jax.Array, mask: jax.Array, pattern: Pattern) -> jax.Array:
    """Scores with -inf in every group of which nothing is left."""
    if not isinstance(pattern, NM):
        mask = pattern.expand(pattern.pool(mask.astype(jnp.float32)) > 0, scores.shape)
    return jnp.where(mask, scores, -jnp.inf)
