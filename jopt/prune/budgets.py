"""Budgets: how a sparsity of the whole network is shared out over its layers, and which groups each then keeps.

A budget is a function of some of `READABLE` that says for each layer its sparsity (a float), how many groups it
keeps (an integer), or the pool in which its groups compete with those of other layers (`Pooled`).

A mask may only lose weights, and does when it keeps more than its pool has room for. So nothing but the masks
decides what is done: frozen masks stay as they are, and masks of an earlier stage, of whatever pattern, are
respected.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.checks import OpenFunction, open_function
from jopt.layers import to_copies
from jopt.layers.copies import from_copies
from jopt.levels import quick_jit
from jopt.prune.masks import Pruned
from jopt.prune.patterns import Pattern
from jopt.prune.select import Scalar, check_sparsity, keep_count, keep_top, keep_top_of_all

Shape = tuple[int, ...]
READABLE = ("sparsity", "groups", "shapes", "parameters")
"""What a budget may read, by parameter names. Lists have an entry for each layer, and each copy of a stacked layer.

- `sparsity`: that of the whole at this step, float32 [], perhaps traced.
- `groups`: how many groups (weights, blocks, channels) each layer has, integers.
- `shapes`: of each layer's kernel, [*window, inputs, outputs].
- `parameters`: the `jopt.layers.Parameter` of each.
"""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["sparsity"], meta_fields=["pool"])
@dataclasses.dataclass(frozen=True)
class Pooled:
    """What a budget says of a layer whose groups compete with those of others.

    Attributes:
      sparsity: of all groups of the pool together.
      pool: its name; layers of one name compete.
    """

    sparsity: Scalar
    pool: str = "all"


Share = Any
"""A sparsity, a count, or a `Pooled`."""


def uniform(groups: Sequence[object], sparsity: Scalar) -> list[Any]:
    """Budget 'layer': every layer has the sparsity of the whole.

    Args:
      groups: one entry for each layer.
      sparsity: in [0, 1), a scalar that may be traced.

    Returns:
      `sparsity`, once for each layer.

    Raises:
      ValueError: for a concrete sparsity outside [0, 1).

    Example:
      >>> uniform([19200, 3000], 0.9)
      [0.9, 0.9]
    """
    check_sparsity(sparsity)
    return [sparsity] * len(groups)


def one_pool(groups: Sequence[int], sparsity: Scalar) -> list[Pooled]:
    """Budget 'global': the groups of all layers compete.

    Example:
      >>> one_pool([19200, 3000], 0.9)
      [Pooled(sparsity=0.9, pool='all'), Pooled(sparsity=0.9, pool='all')]
    """
    return [Pooled(sparsity)] * len(groups)


def erdos_renyi_kernel(shapes: Sequence[Shape], groups: Sequence[int], sparsity: Scalar) -> list[Any]:
    """Budget 'erk': `erk_counts` where every weight is a group, else `erk`.

    Example:
      >>> erdos_renyi_kernel([(10, 10), (20, 80)], [100, 1600], 0.8)
      [57, 283]
    """
    weights = all(math.prod(shape) == n for shape, n in zip(shapes, groups, strict=True))
    return erk_counts(shapes, sparsity) if weights else erk(shapes, sparsity)


def erk(shapes: Sequence[Shape], sparsity: Scalar, *, kernel: bool = True) -> list[Any]:
    r"""Erdos-Renyi-Kernel: layer l has density $\epsilon \sum_i d_{l,i} / \prod_i d_{l,i}$, at most 1.

    $\epsilon$ is what gives the whole its density: $\sum_l n_l (1 - s_l) = (1 - s) \sum_l n_l$. A layer whose
    density would exceed 1 is left dense, and the others share what is left of the budget, until none exceeds it.

    Evci, Gale, Menick, Castro and Elsen, 2020, Rigging the lottery, section 3 (ERK); Mocanu et al., 2018,
    Scalable training of artificial neural networks with adaptive sparse connectivity, equation 1 (`kernel=False`:
    only the axes of inputs and outputs count).

    Args:
      shapes: of the layers' kernels, [in, out] or [*window, in, out].
      sparsity: s, in [0, 1), a scalar that may be traced.
      kernel: whether the window's axes count.

    Returns:
      The layers' sparsities: Python floats, or float32 scalars if `sparsity` is a JAX value.

    Raises:
      ValueError: for a concrete sparsity outside [0, 1), or a shape without entries.

    Example:
      >>> [round(s, 4) for s in erk([(10, 10), (20, 80)], 0.8)]
      [0.4333, 0.8229]
    """
    xp, real, _ = _arithmetic(sparsity)
    sizes = _sizes(shapes)
    sparsities = xp.maximum(1 - _densities(sizes, _weights(shapes, kernel), sparsity), real(0))
    return [float(s) for s in sparsities] if xp is np else list(sparsities)


def erk_counts(shapes: Sequence[Shape], sparsity: Scalar, *, kernel: bool = True) -> list[Any]:
    """How many weights each layer keeps under `erk`: whole numbers, whose sum is exact.

    The layers take turns, first to last; each takes its share of what is left, rounded half to even. It keeps at
    least 1 and at most all of its weights.

    Args:
      shapes: as in `erk`.
      sparsity: as in `erk`.
      kernel: as in `erk`.

    Returns:
      Counts for `keep_top`, whose sum is `keep_count` of all weights, or one a layer where that is more: Python
      ints, or int32 scalars if `sparsity` is a JAX value.

    Raises:
      ValueError: as `erk` does, and for 2**31 weights or more.

    Example:
      >>> erk_counts([(10, 10), (20, 80)], 0.8)
      [57, 283]
    """
    xp, real, integer = _arithmetic(sparsity)
    sizes = _sizes(shapes)
    shares = _densities(sizes, _weights(shapes, kernel), sparsity) * xp.asarray(sizes, real)
    # Each layer's part of what is left for it and those after it, so that rounding errors do not add up.
    tails = xp.flip(xp.cumsum(xp.flip(shares)))
    remaining = xp.maximum(xp.asarray(keep_count(sum(sizes), sparsity), integer), integer(len(sizes)))
    counts = []
    for i, n in enumerate(sizes):
        share = xp.round(remaining.astype(real) * (shares[i] / tails[i])).astype(integer)
        # The layers that follow must be able to take what this one leaves, and to keep one weight each.
        at_least = xp.maximum(remaining - sum(sizes[i + 1 :]), 1)
        at_most = xp.minimum(remaining - (len(sizes) - i - 1), n)
        counts.append(xp.clip(share, at_least, at_most))
        remaining = remaining - counts[-1]
    return [int(c) for c in counts] if xp is np else counts


def _densities(sizes: Sequence[int], weights: Sequence[float], sparsity: Scalar) -> Any:
    """What the docstring of `erk` says; [layers]."""
    check_sparsity(sparsity)
    xp, real, _ = _arithmetic(sparsity)
    n, w = xp.asarray(sizes, real), xp.asarray(weights, real)
    budget = (1 - xp.asarray(sparsity, real)) * xp.sum(n)
    dense = xp.zeros(len(sizes), bool)
    density = xp.ones(len(sizes), real)
    # Each round finds a layer to be left dense, or changes nothing; so this many always do, for any sparsity.
    for _ in range(len(sizes) + 1):
        remaining = budget - xp.sum(xp.where(dense, n, real(0)))
        total = xp.sum(xp.where(dense, real(0), w * n))
        # Where all layers are dense the total is 0, and the quotient, which is then not read, must not be NaN.
        density = xp.where(dense, real(1), w * (remaining / xp.where(total > 0, total, real(1))))
        dense = dense | (density > 1)
    return density


def _arithmetic(sparsity: Scalar) -> tuple[Any, Any, Any]:
    """float64 on the host for a Python or NumPy number, float32 in the program for a JAX value."""
    # A traced sparsity has float32 and int32 only; a plan on the host need not lose bits for that.
    if isinstance(sparsity, jax.Array):
        return jnp, jnp.float32, jnp.int32
    return np, np.float64, np.int64


def _sizes(shapes: Sequence[Shape]) -> list[int]:
    for shape in shapes:
        if not shape or not math.prod(shape):
            raise ValueError(f"a layer's shape must have axes, none of size 0, got {tuple(shape)}")
    return [math.prod(shape) for shape in shapes]


def _weights(shapes: Sequence[Shape], kernel: bool) -> list[float]:
    """A density for each layer, but for epsilon."""
    axes = shapes if kernel else [shape[-2:] for shape in shapes]
    return [sum(axis) / math.prod(axis) for axis in axes]


BUILT_IN: dict[str, Callable[..., Sequence[Share]]] = {
    "layer": uniform,
    "global": one_pool,
    "erk": erdos_renyi_kernel,
}
BUDGETS = tuple(BUILT_IN)


def budget_of(
    budget: str | Callable[..., Sequence[Share]], field: str = "budget", names: Sequence[str] = BUDGETS
) -> OpenFunction:
    """The budget that a config's field or a function's argument says.

    Args:
      budget: one of `names`, a function of some of `READABLE`, or 'package.module:name' of one.
      field: its path, for the message.
      names: the built-in budgets that are accepted.

    Raises:
      ConfigError: for anything else.
    """
    return open_function(field, budget, {name: BUILT_IN[name] for name in names}, READABLE)


class Pool(NamedTuple):
    """Parameters whose groups of weights compete.

    Attributes:
      members: positions in the list of `Pruned`.
      sparsity: float32 [], of the pool.
      count: how many groups are kept, int32 []; of a parameter with stacked copies that compete with no other, of
        each copy: [] or [copies]. None for a pattern with a fixed sparsity.
      shared: whether a budget says that these parameters, and all copies of each, compete.
    """

    members: tuple[int, ...]
    sparsity: Scalar
    count: Scalar | None
    shared: bool = False


def pools(pruned: Sequence[Pruned], targets: Sequence[Scalar], budget: OpenFunction) -> list[Pool]:
    """Shares the common budget out. The copies of a stacked layer are layers like any other.

    Args:
      pruned: the parameters.
      targets: float32 [], the sparsity of each at this time; that of those without a rule is the common one. All
        of JAX, or all of NumPy: then the counts are concrete.
      budget: shares the common one out over those without a rule.

    Returns:
      The pools.

    Raises:
      LayoutError: if the budget reads shapes, and the axes of a layer are not known, naming it.
      ValueError: if the budget does not say one thing for each layer.

    Example:
      >>> from jopt.prune.masks import assign
      >>> pruned = assign({"a": jnp.zeros((2, 5)), "b": {"kernel": jnp.zeros((3, 5))}})
      >>> [(p.members, int(p.count)) for p in pools(pruned, [jnp.float32(0.8)] * 2, budget_of("global"))]
      [((0, 1), 5)]
    """
    # A fixed sparsity leaves nothing to share out; all parameters have the same pattern.
    if any(p.pattern.fixed_sparsity is not None for p in pruned):
        return [Pool((i,), target, None) for i, target in enumerate(targets)]
    common = [i for i, p in enumerate(pruned) if p.target is None]
    alone = {i: keep_count(p.groups, targets[i]) for i, p in enumerate(pruned) if p.target is not None}
    competing: dict[str, list[int]] = {}
    sparsities: dict[str, Scalar] = {}
    for i, shares in zip(common, _shares(budget, [pruned[i] for i in common], targets, common), strict=True):
        if isinstance(shares[0], Pooled):
            name = shares[0].pool
            competing.setdefault(name, []).append(i)
            sparsities.setdefault(name, shares[0].sparsity)
        else:
            alone[i] = _counts(budget, shares, pruned[i])
    singles = [Pool((i,), targets[i], alone[i]) for i in sorted(alone)]
    for name, members in competing.items():
        total = sum(pruned[i].groups * pruned[i].copies for i in members)
        count = keep_count(total, sparsities[name])
        singles.append(Pool(tuple(members), targets[members[0]], count, shared=True))
    return singles


def _shares(
    budget: OpenFunction, pruned: Sequence[Pruned], targets: Sequence[Scalar], common: Sequence[int]
) -> list[list[Share]]:
    """What the budget says of each copy of each parameter."""
    if not pruned:
        return []
    layers = [p for p in pruned for _ in range(p.copies)]
    values: dict[str, Any] = {
        "sparsity": targets[common[0]],
        "groups": [p.groups for p in layers],
        "parameters": [p.parameter for p in layers],
    }
    # Only where they are read: shapes need the layers' axes, which nothing may say.
    if "shapes" in budget.required:
        values["shapes"] = [_kernel_shape(p, budget.name) for p in layers]
    shares = _call(budget, values)
    if len(shares) != len(layers):
        raise ValueError(
            f"budget {budget.name!r} must say what each of {len(layers)} layers gets, got {len(shares)}"
        )
    split, start = [], 0
    for p in pruned:
        split.append(shares[start : start + p.copies])
        start += p.copies
        names = {share.pool if isinstance(share, Pooled) else None for share in split[-1]}
        if len(names) > 1:
            raise ValueError(f"{p.path}: budget {budget.name!r} must put all copies of a layer into one pool")
    return split


def _call(budget: OpenFunction, values: dict[str, Any]) -> list[Share]:
    """What the budget says; for a concrete sparsity in concrete numbers, computed by one program."""
    sparsity = values["sparsity"]
    if isinstance(sparsity, jax.Array):
        return list(budget.call(values))
    fixed = tuple((name, tuple(value)) for name, value in values.items() if name != "sparsity")
    return jax.tree.map(lambda share: share[()], jax.device_get(_concrete(sparsity, budget=budget, fixed=fixed)))


@functools.partial(quick_jit, static=("budget", "fixed"))
def _concrete(
    sparsity: Scalar, *, budget: OpenFunction, fixed: tuple[tuple[str, tuple[Any, ...]], ...]
) -> list[Share]:
    # A budget is dozens of operations on scalars: in one program, not in one for each.
    lists = {name: list(value) for name, value in fixed}
    return list(budget.call({"sparsity": jnp.asarray(sparsity, jnp.float32), **lists}))


def _counts(budget: OpenFunction, shares: Sequence[Share], p: Pruned) -> Any:
    """How many groups are kept: of each copy, or one number for all where the budget says one thing of all."""

    def count(share: Share) -> Any:
        if jnp.issubdtype(jnp.result_type(share), jnp.integer):
            return share
        try:
            return keep_count(p.groups, share)
        except ValueError as error:
            raise ValueError(f"{p.path}: of budget {budget.name!r}: {error}") from error

    # One number serves all copies where it can: a program must not grow with their number.
    first = shares[0]
    if all(share is first or (isinstance(first, np.generic) and share == first) for share in shares):
        return count(shares[0])
    return jnp.stack([jnp.asarray(count(share), jnp.int32) for share in shares])


def _kernel_shape(p: Pruned, budget: str) -> Shape:
    """[*window, inputs, outputs] of one copy."""
    if len(p.copy_shape) == 2:  # either way round the sum and the product are the same
        return p.copy_shape
    # Heads and features of an attention's projection are one side: ERK's sum is over sides, not over axes.
    parameter = p.parameter.require_layout(f"budget {budget!r}")
    sides = (math.prod(p.shape[axis] for axis in side) for side in (parameter.inputs, parameter.outputs))
    return (*(p.shape[axis] for axis in parameter.window), *sides)


def alive(mask: jax.Array, p: Pruned) -> jax.Array:
    """How many groups still have a kept weight, int32 [], or [copies] of a stacked layer.

    For a pattern with a fixed sparsity, how many weights are kept beyond what it selects.

    Example:
      >>> from jopt.prune.masks import assign
      >>> (p,) = assign({"kernel": jnp.zeros((1, 3))})
      >>> int(alive(jnp.array([[True, False, True]]), p))
      2
    """
    if p.stack:
        return jax.vmap(lambda part: _alive(part, p.copy_pattern))(to_copies(mask, p.stack))
    return _alive(mask, p.pattern)


def _alive(mask: jax.Array, pattern: Pattern) -> jax.Array:
    # Of a mask as scores, a pattern selects as many kept weights as it has room for.
    if pattern.fixed_sparsity is not None:
        return jnp.sum(mask & ~pattern.select(mask.astype(jnp.float32)), dtype=jnp.int32)
    return jnp.sum(pattern.pool(mask.astype(jnp.float32)) > 0, dtype=jnp.int32)


def crowded(pool: Pool, masks: Sequence[jax.Array], pruned: Sequence[Pruned]) -> jax.Array:
    """Whether the masks of a pool keep more groups than it has room for: bool []."""
    numbers = [alive(masks[i], pruned[i]) for i in pool.members]
    # In a shared pool the copies of a layer compete too; alone, each copy has a count of its own.
    total = sum((jnp.sum(n) for n in numbers), jnp.int32(0)) if pool.shared else numbers[0]
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
        new = [p.pattern.select(s) for s, p in zip(ranked, members, strict=True)]
    elif len(members) > 1 or (pool.shared and members[0].stack):
        new = keep_top_of_all(ranked, pool.count, [p.pattern for p in members])
    else:
        # By sums, not by means as above: these would round the scores of groups of one size, and make ties.
        new = [_keep_of_each(ranked[0], pool.count, members[0])]
    # Where fewer are left than there is room for, what was pruned must not come back to fill it.
    return [n & o for n, o in zip(new, old, strict=True)]


def _keep_of_each(scores: jax.Array, count: Scalar, p: Pruned) -> jax.Array:
    """`keep_top` of each copy of a layer."""
    if not p.stack:
        return keep_top(scores, count, p.copy_pattern)
    counts = jnp.broadcast_to(jnp.asarray(count, jnp.int32), (p.copies,))
    masks = jax.vmap(lambda part, n: keep_top(part, n, p.copy_pattern))(to_copies(scores, p.stack), counts)
    return from_copies(masks, p.stack, [p.shape[axis] for axis in p.stack])


def _bury(scores: jax.Array, mask: jax.Array, pattern: Pattern) -> jax.Array:
    """Scores with -inf in every group of which nothing is left."""
    # Within a group that lives, a pruned entry keeps its score of 0: -inf would bury the whole group in the sum.
    if pattern.fixed_sparsity is None:
        mask = pattern.expand(pattern.pool(mask.astype(jnp.float32)) > 0, scores.shape)
    return jnp.where(mask, scores, -jnp.inf)
