"""Pruning that only ever takes away: at once, gradually, in rounds."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jopt.layers import Layers
from jopt.prune import schedule
from jopt.prune.assign import Rules, assign, check_target, full_masks, pick, rebuild
from jopt.prune.checks import check_name, check_steps, concrete, refuse_nan, switch
from jopt.prune.criteria import NEEDS, SCORES, rank
from jopt.prune.patterns import NM, Pattern, Unstructured
from jopt.prune.pools import BUDGETS, crowded, pools, select
from jopt.prune.state import PruneState, transform
from jopt.transform import LayerStatistics, ParamTransform


def one_shot(
    sparsity: Any = None,
    *,
    begin: Any = 0,
    score: str = "magnitude",
    pattern: Pattern = Unstructured(),  # noqa: B008
    budget: str = "layer",
    rules: Rules = (),
    layers: Layers | None = None,
) -> ParamTransform:
    r"""Prunes once, in the first update at or after `begin`, and holds the masks from then on.

    Each pool of n groups (an entry, a block, a channel) keeps the `keep_count(n, sparsity)` of highest score.
    Pruned weights stay pruned, also those of masks that an earlier stage left behind.

    Args:
      sparsity: the share of groups to prune, in [0, 1); may be traced. None for `NM`, whose sparsity is 1 - n/m.
      begin: the optimizer step from which on it may prune; may be traced.
      score: one of `jopt.prune.SCORES`.
      pattern: what is kept or pruned together.
      budget: 'layer': every parameter has this sparsity. 'global': all parameters without a rule compete for one
        budget. 'erk': these get their shares by `jopt.prune.erk`.
      rules: pairs of a pattern of a parameter's path and its own sparsity, or None to leave it alone; the first
        match wins. By default every floating weight is pruned.
      layers: what the model says about its parameters (`jopt.layers.trace`): which are weights, and along which
        axes channels run. None: what names and shapes say. The copies of a stacked layer have a budget each.

    Returns:
      A `ParamTransform` whose state is a `PruneState`.

    Raises:
      ValueError: for a concrete number out of its range or an unknown name; in `init` and `update`, if the pattern
        does not fit a parameter or no parameter is pruned; in `update`, if what the score reads is missing, or a
        concrete weight or score is NaN.
      RuleError: in `init` and `update`, if a rule matches nothing.

    Paper:
      Han et al. 2015, "Learning both weights and connections", for score 'magnitude'; with 'snip' and `begin=0` Lee
      et al. 2019, "SNIP".

    Example:
      >>> pruner = one_shot(0.5)
      >>> params = {"w": jnp.array([[0.1, -2.0], [3.0, 0.2]])}
      >>> state = pruner.update(pruner.init(params), params, step=0)
      >>> pruner.apply(state, params)["w"].tolist()
      [[0.0, -2.0], [3.0, 0.0]]
    """
    check_steps(begin=begin)

    def target(step: Any, last: jax.Array) -> jax.Array:
        return jnp.where(jnp.asarray(step, jnp.int32) >= jnp.asarray(begin, jnp.int32), last, jnp.float32(0))

    return _pruner(target, sparsity, score, pattern, budget, rules, layers)


def gradual(
    sparsity: Any,
    *,
    begin: Any,
    end: Any,
    initial_sparsity: Any = 0.0,
    score: str = "magnitude",
    pattern: Pattern = Unstructured(),  # noqa: B008
    budget: str = "layer",
    rules: Rules = (),
    layers: Layers | None = None,
) -> ParamTransform:
    r"""Prunes more in every update from `begin` on: $s_t = s_f + (s_i - s_f) (1 - \frac{t - t_0}{t_1 - t_0})^3$.

    The sparsity is exactly `sparsity` in the first update at or after `end`; the masks never change after that.
    Each parameter with a rule follows the same cubic to its own target.

    Args:
      sparsity: the last sparsity $s_f$, in [0, 1); may be traced.
      begin: the step $t_0$ from which on it prunes; may be traced.
      end: the step $t_1$ from which on the target holds, at least `begin`; may be traced.
      initial_sparsity: $s_i$, of an update at `begin`, at most `sparsity`; may be traced. A parameter whose rule
      asks
        for less starts with its own target.
      score: as in `one_shot`; the scores are those of the weights at each update.
      pattern: as in `one_shot`, but not `NM`.
      budget: as in `one_shot`.
      rules: as in `one_shot`.
      layers: as in `one_shot`.

    Returns:
      A `ParamTransform` whose state is a `PruneState`.

    Raises:
      ValueError, RuleError: as `one_shot`.

    Paper:
      Zhu and Gupta 2017, "To prune, or not to prune", equation 1; with score 'movement' Sanh et al. 2020.

    Example:
      >>> pruner = gradual(0.75, begin=0, end=100)
      >>> params = {"w": jnp.array([[0.1, -2.0], [3.0, 0.2]])}
      >>> state = pruner.update(pruner.init(params), params, step=30)     # 0.75 (1 - 0.7^3) = 0.49
      >>> pruner.apply(state, params)["w"].tolist()
      [[0.0, -2.0], [3.0, 0.0]]
      >>> pruner.apply(pruner.update(state, params, step=100), params)["w"].tolist()
      [[0.0, 0.0], [3.0, 0.0]]
    """
    _refuse_nm("gradual", pattern)
    check_steps(begin=begin, end=end)
    check_target(initial_sparsity, " for initial_sparsity", pattern)
    if concrete(sparsity, initial_sparsity) and float(initial_sparsity) > float(sparsity):
        raise ValueError(f"initial_sparsity must be at most sparsity ({sparsity}), got {initial_sparsity}")

    def target(step: Any, last: jax.Array) -> jax.Array:
        first = jnp.minimum(jnp.asarray(initial_sparsity, jnp.float32), last)
        return schedule.cubic(step, sparsity=last, initial_sparsity=first, begin=begin, end=end)

    return _pruner(target, sparsity, score, pattern, budget, rules, layers)


def iterative(
    sparsity: Any,
    *,
    begin: Any,
    end: Any,
    rounds: Any,
    score: str = "magnitude",
    pattern: Pattern = Unstructured(),  # noqa: B008
    budget: str = "layer",
    rules: Rules = (),
    layers: Layers | None = None,
) -> ParamTransform:
    r"""Prunes in R rounds with training between them; after round r the sparsity is $1 - (1 - s_f)^{r/R}$.

    Every round prunes the same share of what is left. The first is at `begin`, the last is done by `end`; rounds
    that fall between two updates are made up for in the later one.

    Args:
      sparsity: the last sparsity $s_f$, in [0, 1); may be traced.
      begin: the step of the first round; may be traced.
      end: the step from which on the target holds, at least `begin`; may be traced.
      rounds: R, at least 1; may be traced.
      score: as in `one_shot`.
      pattern: as in `one_shot`, but not `NM`.
      budget: as in `one_shot`.
      rules: as in `one_shot`.
      layers: as in `one_shot`.

    Returns:
      A `ParamTransform` whose state is a `PruneState`.

    Raises:
      ValueError, RuleError: as `one_shot`.

    Paper:
      Han et al. 2015, "Learning both weights and connections", section 3; Frankle and Carbin 2019, "The lottery
      ticket hypothesis", section 2, without the rewinding.

    Example:
      >>> pruner = iterative(0.75, begin=0, end=100, rounds=2)
      >>> params = {"w": jnp.array([[0.1, -2.0], [3.0, 0.2]])}
      >>> state = pruner.update(pruner.init(params), params, step=0)
      >>> int(state.masks["w"].sum()), int(pruner.update(state, params, step=100).masks["w"].sum())
      (2, 1)
    """
    _refuse_nm("iterative", pattern)
    check_steps(begin=begin, end=end)
    if concrete(rounds) and int(rounds) < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")

    def target(step: Any, last: jax.Array) -> jax.Array:
        return schedule.geometric(step, sparsity=last, begin=begin, end=end, rounds=rounds)

    return _pruner(target, sparsity, score, pattern, budget, rules, layers)


def _pruner(
    target: Callable[[Any, jax.Array], jax.Array],
    sparsity: Any,
    score: str,
    pattern: Pattern,
    budget: str,
    rules: Rules,
    known: Layers | None,
) -> ParamTransform:
    """The transform whose sparsity at a step is `target(step, last sparsity)`, which never falls."""
    check_name("score", score, SCORES)
    check_name("budget", budget, BUDGETS)
    check_target(sparsity, "", pattern)
    if isinstance(pattern, NM) and budget != "layer":
        raise ValueError(f"budget must be 'layer' for {pattern}, which leaves nothing to share out, got {budget!r}")
    last = jnp.asarray(pattern.sparsity if isinstance(pattern, NM) else sparsity, jnp.float32)

    def init(params: Any) -> PruneState:
        pruned = assign(params, rules, pattern, known)
        sums = rebuild(params, pruned, [jnp.zeros(p.shape, jnp.float32) for p in pruned])
        return PruneState(full_masks(params, pruned), jnp.float32(0), sums if score == "movement" else ())

    def update(
        state: PruneState,
        params: Any,
        *,
        step: Any,
        grads: Any = None,
        key: jax.Array | None = None,
        layers: Mapping[str, LayerStatistics] | None = None,
    ) -> PruneState:
        pruned = assign(params, rules, pattern, known)
        of = lambda tree: pick(params, pruned, tree)  # noqa: E731
        masks, weights = of(state.masks), of(params)
        ends = [last if p.target is None else jnp.asarray(p.target, jnp.float32) for p in pruned]
        shared = pools(pruned, [target(step, end) for end in ends], budget)
        due = jnp.stack([crowded(pool, masks, pruned) for pool in shared]).any()
        scores = rank(
            score,
            pruned,
            weights,
            masks,
            movement=of(state.movement) if score == "movement" else None,
            grads=None if grads is None else of(grads),
            key=key,
            layers=layers,
        )
        refuse_nan(due, pruned, weights, scores)

        def choose() -> list[jax.Array]:
            new = dict(
                pair
                for pool in shared
                for pair in zip(pool.members, select(pool, masks, scores, pruned), strict=True)
            )
            return [new[i] for i in range(len(pruned))]

        masks = switch(due.astype(jnp.int32), lambda: masks, choose)
        reached = jnp.maximum(state.sparsity, target(step, last))
        return state._replace(masks=rebuild(params, pruned, masks), sparsity=reached)

    def observe(state: PruneState, params: Any, grads: Any) -> PruneState:
        def add(total: jax.Array | None, w: Any, g: Any) -> jax.Array | None:
            if total is None:
                return None
            # The zero, which XLA cannot know, keeps it from fusing product and difference, which would round once
            # in a compiled program and twice outside of one.
            zero = jax.lax.optimization_barrier(jnp.zeros_like(total))
            return total - (w.astype(jnp.float32) * g.astype(jnp.float32) + zero)

        return state._replace(
            movement=jax.tree.map(add, state.movement, params, grads, is_leaf=lambda x: x is None)
        )

    return transform(init, update, observe=observe if score == "movement" else None, needs=NEEDS[score])


def _refuse_nm(name: str, pattern: Pattern) -> None:
    if isinstance(pattern, NM):
        raise ValueError(f"pattern of {name} must be one whose sparsity can grow, got {pattern}: use one_shot")
