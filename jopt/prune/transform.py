"""Pruning that only ever takes away: at once, gradually, in rounds."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jopt.checks import Open, OpenFunction
from jopt.layers import Layers
from jopt.prune import schedule as schedules
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
from jopt.prune.patterns import Pattern, PatternLike, Unstructured, pattern_of
from jopt.prune.scores import needs_of, rank, score_of
from jopt.prune.select import Scalar
from jopt.transform import ParamTransform


def one_shot(
    sparsity: Scalar | None = None,
    *,
    begin: Scalar = 0,
    score: Open = "magnitude",
    pattern: PatternLike = Unstructured(),  # noqa: B008
    budget: Open = "layer",
    rules: Rules = (),
    layers: Layers | None = None,
) -> ParamTransform:
    r"""Prunes once, in the first update at or after `begin`, and holds the masks from then on.

    Each pool of n groups (an entry, a block, a channel) keeps the `keep_count(n, sparsity)` of highest score.
    Pruned weights stay pruned, also those of masks that an earlier stage left behind.

    Args:
      sparsity: the share of groups to prune, in [0, 1); may be traced. None for `NM`, whose sparsity is 1 - n/m.
      begin: the optimizer step from which on it may prune; may be traced.
      score: one of `jopt.prune.SCORES`, a function of some of `jopt.prune.scores.READABLE` by these names, or
        'package.module:name' of one.
      pattern: what is kept or pruned together: a `jopt.prune.Pattern`, or what else `jopt.prune.pattern_of` takes.
      budget: 'layer': every parameter has this sparsity. 'global': all parameters without a rule compete for one
        budget. 'erk': these get their shares by `jopt.prune.erk`. Or a function of some of
        `jopt.prune.budgets.READABLE`, or 'package.module:name' of one.
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

    def target(step: Scalar, last: jax.Array) -> jax.Array:
        return jnp.where(jnp.asarray(step, jnp.int32) >= jnp.asarray(begin, jnp.int32), last, jnp.float32(0))

    return _pruner(target, sparsity, score, pattern, budget, rules, layers)


def gradual(
    sparsity: Scalar,
    *,
    begin: Scalar,
    end: Scalar,
    initial_sparsity: Scalar = 0.0,
    schedule: str | schedules.Curve = "cubic",
    score: Open = "magnitude",
    pattern: PatternLike = Unstructured(),  # noqa: B008
    budget: Open = "layer",
    rules: Rules = (),
    layers: Layers | None = None,
) -> ParamTransform:
    r"""Prunes more in every update from `begin` on: $s_t = s_f + (s_i - s_f) (1 - \frac{t - t_0}{t_1 - t_0})^3$.

    The sparsity is exactly `sparsity` in the first update at or after `end`; the masks never change after that.
    Each parameter with a rule follows the same curve to its own target.

    Args:
      sparsity: the last sparsity $s_f$, in [0, 1); may be traced.
      begin: the step $t_0$ from which on it prunes; may be traced.
      end: the step $t_1$ from which on the target holds, at least `begin`; may be traced.
      initial_sparsity: $s_i$, of an update at `begin`, at most `sparsity`; may be traced. A parameter whose rule
        asks for less starts with its own target.
      schedule: 'cubic' as above, 'linear', a function from the fraction of the time that is done to that of the way
        from $s_i$ to $s_f$, or 'package.module:name' of one; see `jopt.prune.schedule.curve_of`.
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
    pattern, curve = _growing("gradual", pattern), schedules.curve_of(schedule)
    check_steps(begin=begin, end=end)
    check_target(initial_sparsity, " for initial_sparsity", pattern)
    if concrete(sparsity, initial_sparsity) and float(initial_sparsity) > float(sparsity):
        raise ValueError(f"initial_sparsity must be at most sparsity ({sparsity}), got {initial_sparsity}")

    def target(step: Scalar, last: jax.Array) -> jax.Array:
        # A rule may ask for less than the curve starts with.
        first = jnp.minimum(jnp.asarray(initial_sparsity, jnp.float32), last)
        return schedules.ramp(step, curve, sparsity=last, initial_sparsity=first, begin=begin, end=end)

    return _pruner(target, sparsity, score, pattern, budget, rules, layers)


def iterative(
    sparsity: Scalar,
    *,
    begin: Scalar,
    end: Scalar,
    rounds: Scalar,
    score: Open = "magnitude",
    pattern: PatternLike = Unstructured(),  # noqa: B008
    budget: Open = "layer",
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
    pattern = _growing("iterative", pattern)
    check_steps(begin=begin, end=end)
    if concrete(rounds) and int(rounds) < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")

    def target(step: Scalar, last: jax.Array) -> jax.Array:
        return schedules.geometric(step, sparsity=last, begin=begin, end=end, rounds=rounds)

    return _pruner(target, sparsity, score, pattern, budget, rules, layers)


def _pruner(
    target: Callable[[Scalar, jax.Array], jax.Array],
    sparsity: Scalar | None,
    score: Open,
    pattern: PatternLike,
    budget: Open,
    rules: Rules,
    layers: Layers | None,
) -> ParamTransform:
    """The transform whose sparsity at a step is `target(step, last sparsity)`, which never falls."""
    ranked_by, grouping, shared_by = score_of(score), pattern_of(pattern), budget_of(budget)
    fixed = grouping.fixed_sparsity
    check_target(sparsity, "", grouping)
    if fixed is not None and budget != "layer":
        raise ValueError(
            f"budget must be 'layer' for {grouping}, which leaves nothing to share out, got {budget!r}"
        )
    last = jnp.asarray(sparsity if fixed is None else fixed, jnp.float32)

    def decide(now: Moment, reached: jax.Array) -> tuple[Sequence[jax.Array], jax.Array]:
        # A parameter with a rule follows the same curve to its own end.
        masks = _masks(now, [target(now.step, end) for end in now.ends(last)], ranked_by, shared_by)
        # The maximum: where an earlier stage pruned more, nothing grows back.
        return masks, jnp.maximum(reached, target(now.step, last))

    return pruning_transform(
        decide,
        pattern=grouping,
        rules=rules,
        layers=layers,
        needs=needs_of(ranked_by),
        movement="movement" in ranked_by.required,
    )


def _masks(
    now: Moment, targets: Sequence[jax.Array], score: OpenFunction, budget: OpenFunction
) -> Sequence[jax.Array]:
    """The masks, smaller where a pool keeps more than its sparsity allows."""
    shared = pools(now.pruned, targets, budget)
    due = jnp.stack([crowded(pool, now.masks, now.pruned) for pool in shared]).any()
    # Scores are computed outside of the branches: a NaN among them is refused where they are concrete.
    scores = rank(score, now)
    refuse_nan(due, now.pruned, now.weights, scores)

    def choose() -> list[jax.Array]:
        chosen: dict[int, jax.Array] = {}
        for pool in shared:
            chosen |= zip(pool.members, select(pool, now.masks, scores, now.pruned), strict=True)
        return [chosen[i] for i in range(len(now.pruned))]

    return switch(due.astype(jnp.int32), lambda: list(now.masks), choose)


def _growing(name: str, pattern: PatternLike) -> Pattern:
    """The pattern, whose sparsity must be free to grow."""
    grouping = pattern_of(pattern)
    if grouping.fixed_sparsity is not None:
        raise ValueError(f"pattern of {name} must be one whose sparsity can grow, got {grouping}: use one_shot")
    return grouping
