"""Dynamic sparse training: as many weights from start to end, but not the same ones. SET and RigL."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jopt.checks import Open
from jopt.layers import Layers, over_copies
from jopt.prune import schedule
from jopt.prune.budgets import budget_of, crowded, pools, select
from jopt.prune.masks import (
    Moment,
    Rules,
    check_steps,
    check_target,
    concrete,
    pruning_transform,
    refuse_nan,
    switch,
)
from jopt.prune.patterns import PatternLike, Unstructured, pattern_of
from jopt.prune.scores import magnitude, noise, require
from jopt.prune.select import Scalar, keep_top
from jopt.transform import ParamTransform

BUDGETS = ("layer", "erk")
_ENTRIES = Unstructured()


def set_evolution(
    sparsity: Scalar,
    *,
    begin: Scalar = 0,
    end: Scalar,
    drop_fraction: Scalar = 0.3,
    budget: Open = "layer",
    pattern: PatternLike = _ENTRIES,
    rules: Rules = (),
    layers: Layers | None = None,
) -> ParamTransform:
    r"""SET: drops the smallest weights of each layer and grows as many at random.

    The first update at or after `begin` draws random masks. Every later one before `end` drops the
    $\mathrm{round}(\zeta n)$ smallest of a layer's n kept weights, by magnitude, and grows as many of those that
    were pruned before, at random. A layer's n never changes. What was dropped a moment ago does not grow at once,
    as the paper leaves open; so what grows starts at exactly zero, and with zero moments.

    The loop must hold parameters projected (`ParamTransform.project`), else a weight that grows wakes up with its
    old value. It chooses the steps: every update is one round of dropping and growing.

    Args:
      sparsity: the share of weights that are pruned, in [0, 1); may be traced.
      begin: the step from which on the masks hold; may be traced.
      end: the step from which on they no longer change, at least `begin`; may be traced.
      drop_fraction: $\zeta$, in [0, 1); may be traced. 0 keeps the random masks: static sparse training.
      budget: 'layer': every parameter has this sparsity. 'erk': those without a rule share it by `jopt.prune.erk`.
        Or a function as in `one_shot`, without pools.
      pattern: `Unstructured()` only.
      rules: as in `one_shot`.
      layers: as in `one_shot`.

    Returns:
      A `ParamTransform` whose state is a `PruneState`. Its `update` needs `key`.

    Raises:
      ValueError: for a concrete number out of its range or another pattern or budget; in `init` and `update`, if no
        parameter is pruned; in `update`, without `key`, or for a concrete weight that is NaN.
      RuleError: in `init` and `update`, if a rule matches nothing.

    Paper:
      Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity
      inspired by network science", Algorithm 1 (whose drop is per sign, and whose budget is Erdos-Renyi).

    Example:
      >>> pruner = set_evolution(0.5, end=100, drop_fraction=0.25)
      >>> params = {"w": jnp.arange(1.0, 17.0).reshape(4, 4)}
      >>> key = jax.random.key(0)
      >>> first = pruner.update(pruner.init(params), params, step=0, key=key)
      >>> second = pruner.update(first, params, step=10, key=jax.random.key(1))
      >>> a, b = first.masks["w"], second.masks["w"]
      >>> int(a.sum()), int(b.sum()), int((a & ~b).sum())
      (8, 8, 2)
    """

    def share(step: Scalar) -> jax.Array:
        return jnp.asarray(drop_fraction, jnp.float32)

    def growth(now: Moment, key: jax.Array) -> list[jax.Array]:
        # Another stream than that of the first masks, which have the key itself.
        return noise(jax.random.fold_in(key, 1), now)

    return _evolution(
        "SET", share, growth, sparsity, begin, end, drop_fraction, budget, pattern, rules, layers, frozenset()
    )


def rigl(
    sparsity: Scalar,
    *,
    begin: Scalar = 0,
    end: Scalar,
    drop_fraction: Scalar = 0.3,
    budget: Open = "layer",
    pattern: PatternLike = _ENTRIES,
    rules: Rules = (),
    layers: Layers | None = None,
) -> ParamTransform:
    r"""RigL: drops the smallest weights of each layer and grows those of largest gradient.

    As `set_evolution`, but the share that is dropped falls as $f_t = \frac{\alpha}{2} (1 + \cos \frac{\pi (t -
    t_0)}{t_1 - t_0})$, and of the weights that were pruned those grow whose gradient is largest in magnitude. (In
    the paper's Algorithm 1 a weight that has just been dropped may grow back in the same update, and then keeps
    its value; here it may not before the next, so that what grows starts at exactly zero, and with zero moments.)

    Args:
      sparsity: as in `set_evolution`.
      begin: $t_0$, as in `set_evolution`.
      end: $t_1$, the paper's $T_{end}$: three quarters of training there. As in `set_evolution`.
      drop_fraction: $\alpha$, in [0, 1); may be traced.
      budget: as in `set_evolution`.
      pattern: as in `set_evolution`.
      rules: as in `one_shot`.
      layers: as in `one_shot`.

    Returns:
      A `ParamTransform` whose state is a `PruneState`. Its `update` needs `key`, for the first masks, and `grads`:
      the gradients of *all* weights, taken before any projection.

    Raises:
      ValueError, RuleError: as `set_evolution`; without `grads` too.

    Paper:
      Evci et al. 2020, "Rigging the lottery: making all tickets winners", Algorithm 1.

    Example:
      >>> from jopt.prune import PruneState
      >>> pruner = rigl(0.5, end=100, drop_fraction=0.5)
      >>> params, key = {"w": jnp.array([[5.0, 1.0, 0.0, 0.0]])}, jax.random.key(0)
      >>> state = PruneState({"w": jnp.array([[True, True, False, False]])}, jnp.float32(0.5))
      >>> grads = {"w": jnp.array([[0.0, 9.0, 0.1, -0.2]])}
      >>> pruner.update(state, params, step=0, grads=grads, key=key).masks["w"].tolist()
      [[True, False, False, True]]
    """

    def share(step: Scalar) -> jax.Array:
        return schedule.cosine_share(step, drop_fraction=drop_fraction, begin=begin, end=end)

    def growth(now: Moment, key: jax.Array) -> list[jax.Array]:
        del key
        return [magnitude(g) for g in require(now.grads, "rigl", "grads")]

    needs = frozenset({"grads"})
    return _evolution(
        "RigL", share, growth, sparsity, begin, end, drop_fraction, budget, pattern, rules, layers, needs
    )


def _evolution(
    name: str,
    share: Callable[[Scalar], jax.Array],
    growth: Callable[[Moment, jax.Array], list[jax.Array]],
    sparsity: Scalar,
    begin: Scalar,
    end: Scalar,
    drop_fraction: Scalar,
    budget: Open,
    pattern: PatternLike,
    rules: Rules,
    layers: Layers | None,
    needs: frozenset[str],
) -> ParamTransform:
    if pattern_of(pattern) != _ENTRIES:
        raise ValueError(f"pattern of {name} must be {_ENTRIES}: it drops and grows single weights, got {pattern}")
    shared_by = budget_of(budget, names=BUDGETS)
    check_steps(begin, end)
    check_target(sparsity, "", _ENTRIES)
    if concrete(drop_fraction) and not 0 <= float(drop_fraction) < 1:
        raise ValueError(f"drop_fraction must lie in [0, 1), got {drop_fraction}")
    last = jnp.asarray(sparsity, jnp.float32)

    def decide(now: Moment, reached: jax.Array) -> tuple[Sequence[jax.Array], jax.Array]:
        # Also where a caller passes one key to every update, no two of them grow the same positions.
        stream = jax.random.fold_in(require(now.key, name, "key"), jnp.asarray(now.step, jnp.int32))
        t, t0, t1 = (jnp.asarray(x, jnp.int32) for x in (now.step, begin, end))
        # Outside of the branches, where a missing gradient or a NaN is refused in an eager call.
        grown = growth(now, stream)
        shared = pools(now.pruned, now.ends(last), shared_by)
        if any(pool.shared for pool in shared):
            raise ValueError(f"budget of {name} must give each layer its own count, got one with pools: {budget!r}")
        # Crowded masks are those of a stage without pruning, or sparser in another place: they are drawn first.
        fresh = (t >= t0) & jnp.stack([crowded(pool, now.masks, now.pruned) for pool in shared]).any()
        moving = (t >= t0) & (t < t1) & ~fresh
        refuse_nan(moving, now.pruned, now.weights, grown)

        def draw() -> list[jax.Array]:
            chance = noise(stream, now)
            # One pool a parameter, in their order.
            return [select(pool, now.masks, chance, now.pruned)[0] for pool in shared]

        def move() -> list[jax.Array]:
            drop = share(now.step)
            return [
                # Each copy of a stacked layer keeps its own count.
                over_copies(_replace, p.stack)(*columns, drop)
                for p, *columns in zip(now.pruned, now.masks, now.weights, grown, strict=True)
            ]

        case = jnp.where(fresh, 1, jnp.where(moving, 2, 0))
        masks = switch(case, lambda: list(now.masks), draw, move)
        return masks, jnp.where(t >= t0, jnp.maximum(reached, last), reached)

    return pruning_transform(decide, rules=rules, layers=layers, needs=needs)


def _replace(mask: jax.Array, w: jax.Array, growth: jax.Array, share: jax.Array) -> jax.Array:
    """The mask after as many kept weights of least magnitude are dropped as pruned ones of highest score are grown.

    Args:
      mask: bool, what is kept.
      w: the weights.
      growth: float32, the score of pruned weights.
      share: float32 [], the share of kept weights to drop; no more than there are pruned ones.

    Returns:
      A mask of the shape and the count of `mask`.
    """
    count = jnp.sum(mask, dtype=jnp.int32)
    # A layer that is nearly dense has fewer pruned weights to grow than its share to drop.
    moved = jnp.minimum(jnp.round(share * count.astype(jnp.float32)).astype(jnp.int32), mask.size - count)
    stay = keep_top(jnp.where(mask, magnitude(w), -jnp.inf), count - moved)
    # Among the weights that were pruned before, so that what is dropped now does not grow back at once.
    return stay | keep_top(jnp.where(mask, -jnp.inf, growth), moved)
