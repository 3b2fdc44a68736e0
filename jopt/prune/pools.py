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

from jopt.prune.assign import Pruned
from jopt.prune.budgets import erk, erk_counts
from jopt.prune.counts import keep_count
from jopt.prune.patterns import NM, Pattern, Unstructured
from jopt.prune.select import global_masks, keep_top, top_k_mask

BUDGETS = ("layer", "global", "erk")


class Pool(NamedTuple):
    """Parameters whose groups of weights compete for places.

    Attributes:
      members: positions in the list of `Pruned`.
      sparsity: float32 [], of the pool.
      count: int32 [], how many groups are kept.
    """

    members: tuple[int, ...]
    sparsity: jax.Array
    count: Any


def pools(pruned: Sequence[Pruned], targets: Sequence[jax.Array], budget: str, pattern: Pattern) -> list[Pool]:
    """Shares the common budget out.

    Args:
      pruned: the parameters.
      targets: float32 [], the sparsity of each at this time; that of those without a rule is the common one.
      budget: 'layer': each parameter has its target. 'global': all those without a rule compete for one budget.
        'erk': `jopt.prune.erk` gives each of these its share.
      pattern: what is kept or pruned together.

    Returns:
      The pools. For `NM`, whose count is fixed, `count` is None.

    Example:
      >>> pruned = [Pruned(0, "a", (2, 5), None), Pruned(1, "b", (3, 5), None)]
      >>> [(p.members, int(p.count)) for p in pools(pruned, [jnp.float32(0.8)] * 2, "global", Unstructured())]
      [((0, 1), 5)]
    """
    sizes = [math.prod(pattern.grid(p.shape)) for p in pruned]
    if isinstance(pattern, NM):
        return [Pool((i,), target, None) for i, target in enumerate(targets)]
    common = tuple(i for i, p in enumerate(pruned) if p.own is None)
    counts = {
        i: keep_count(sizes[i], targets[i]) for i in range(len(pruned)) if budget == "layer" or i not in common
    }
    if common and budget == "erk":
        shapes = [pruned[i].shape for i in common]
        if isinstance(pattern, Unstructured):
            shares = erk_counts(shapes, targets[common[0]])
        else:
            shares = [keep_count(sizes[i], s) for i, s in zip(common, erk(shapes, targets[common[0]]), strict=True)]
        counts |= dict(zip(common, shares, strict=True))
    out = [Pool((i,), targets[i], counts[i]) for i in sorted(counts)]
    if common and budget == "global":
        sparsity = targets[common[0]]
        out.append(Pool(common, sparsity, keep_count(sum(sizes[i] for i in common), sparsity)))
    return out


def alive(mask: jax.Array, pattern: Pattern) -> jax.Array:
    """How many groups still have a kept weight, int32 []; for `NM`, how many weights are kept beyond its n of m.

    Example:
      >>> int(alive(jnp.array([[True, False, True]]), Unstructured()))
      2
    """
    if isinstance(pattern, NM):
        return jnp.sum(mask & ~top_k_mask(mask.astype(jnp.float32), None, pattern), dtype=jnp.int32)
    return jnp.sum(pattern.pool(mask.astype(jnp.float32)) > 0, dtype=jnp.int32)


def crowded(pool: Pool, masks: Sequence[jax.Array], pattern: Pattern) -> jax.Array:
    """Whether the masks of a pool keep more groups than it has places for: bool []."""
    total = sum((alive(masks[i], pattern) for i in pool.members), jnp.int32(0))
    return (total > 0) & (pool.sparsity > 0) if pool.count is None else total > pool.count


def select(
    pool: Pool, masks: Sequence[jax.Array], scores: Sequence[jax.Array], pattern: Pattern
) -> list[jax.Array]:
    """The pool's new masks: of what is still kept, the groups of highest score.

    Args:
      pool: the pool.
      masks: of all pruned parameters, as they are.
      scores: float32, of all pruned parameters.
      pattern: what is kept or pruned together.

    Returns:
      A mask for each member, within the one that it has.
    """
    old = [masks[i] for i in pool.members]
    ranked = [_bury(scores[i], masks[i], pattern) for i in pool.members]
    if isinstance(pattern, NM):
        new = [top_k_mask(s, None, pattern) for s in ranked]
    elif len(ranked) == 1:
        new = [keep_top(ranked[0], pool.count, pattern)]
    else:
        new = global_masks(ranked, pool.sparsity, pattern)
    # Where fewer are left than there are places, what was pruned must not come back to fill them.
    return [n & o for n, o in zip(new, old, strict=True)]


def _bury(scores: jax.Array, mask: jax.Array, pattern: Pattern) -> jax.Array:
    """Scores with -inf in every group of which nothing is left."""
    if not isinstance(pattern, NM):
        mask = pattern.expand(pattern.pool(mask.astype(jnp.float32)) > 0, scores.shape)
    return jnp.where(mask, scores, -jnp.inf)
