"""From a pruning config to its transform, its plan and its checks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.hyper import known
from jopt.layers import Layers, PlanRow, parameters
from jopt.prune.assign import Pruned, assign, pick
from jopt.prune.config import DEFAULT_END, SCHEDULED, Config, validate
from jopt.prune.dynamic import rigl, set_evolution
from jopt.prune.patterns import NM, Block, Channel, Pattern, Unstructured
from jopt.prune.pools import Pool, alive, pools
from jopt.prune.schedule import step_at
from jopt.prune.state import PruneState
from jopt.prune.transform import gradual, iterative, one_shot
from jopt.rules import named_leaves
from jopt.transform import ParamTransform


def pattern_of(config: Config) -> Pattern:
    """The pattern that a config names.

    Example:
      >>> pattern_of(Config(pattern="nm", n=1))
      NM(n=1, m=4, axis='outputs')
    """
    axis = config.along if config.axis is None else config.axis
    return {
        "unstructured": Unstructured,
        "nm": lambda: NM(config.n, config.m, axis),
        "block": lambda: Block(config.block),
        "channel": lambda: Channel(axis),
    }[config.pattern]()


def build(
    config: Config, *, begin: int, steps: int, last_update: int | None = None, layers: Layers | None = None
) -> ParamTransform:
    """The transform that a config describes, for one stage.

    Args:
      config: the config, whose numbers may be traced; concrete ones are validated.
      begin: the step at which the stage starts.
      steps: its length.
      last_update: the step of the stage's last update, which an `end` of None is not after; None: not known.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      A `ParamTransform` whose state is a `PruneState`, of the same structure for every method.

    Raises:
      ConfigError: as `validate`.

    Example:
      >>> params = {"w": jnp.arange(4.0).reshape(2, 2)}
      >>> pruner = build(Config("one_shot", sparsity=0.5, begin=0.25), begin=100, steps=40)
      >>> state = pruner.init(params)
      >>> [int(pruner.update(state, params, step=t).masks["w"].sum()) for t in (109, 110)]
      [4, 2]
    """
    validate(known(config), "")
    first, last = _span(config, begin, steps, last_update)
    shared: dict[str, Any] = {"begin": first, "budget": config.budget, "rules": config.rules}
    shared["layers"] = layers
    if config.method in ("rigl", "set"):
        make = rigl if config.method == "rigl" else set_evolution
        return make(config.sparsity, end=last, drop_fraction=config.drop_fraction, **shared)
    shared |= {"score": config.score, "pattern": pattern_of(config)}
    if config.method == "one_shot":
        return one_shot(None if config.pattern == "nm" else config.sparsity, **shared)
    if config.method == "gradual":
        return gradual(config.sparsity, initial_sparsity=config.initial_sparsity, end=last, **shared)
    return iterative(config.sparsity, rounds=config.rounds, end=last, **shared)


def _span(config: Config, begin: int, steps: int, last_update: int | None) -> tuple[jax.Array, jax.Array]:
    """The steps `begin` and `end` of a config."""
    first = step_at(config.begin, begin=begin, steps=steps)
    if config.end is not None:
        return first, step_at(config.end, begin=begin, steps=steps)
    last = jnp.maximum(step_at(DEFAULT_END, begin=begin, steps=steps), first)
    if last_update is not None and config.method in SCHEDULED:
        last = jnp.maximum(jnp.minimum(last, last_update), first)
    return first, last


def reached_at(config: Config, *, begin: int, steps: int, last_update: int | None = None) -> int:
    """The step from which on an update leaves the last sparsity.

    Args:
      config: the config, of plain Python numbers.
      begin: the step at which the stage starts.
      steps: its length.
      last_update: as for `build`.

    Example:
      >>> reached_at(Config("gradual"), begin=100, steps=40), reached_at(Config("one_shot"), begin=100, steps=40)
      (130, 100)
      >>> reached_at(Config("gradual"), begin=100, steps=40, last_update=120)
      120
    """
    first, last = _span(config, begin, steps, last_update)
    return int(last if config.method in SCHEDULED else first)


def plan(config: Config, params: Any, layers: Layers | None = None) -> list[PlanRow]:
    """What each parameter gets.

    Args:
      config: the config, of plain Python numbers.
      params: a tree of arrays, or of their shapes.
      layers: as for `build`.

    Returns:
      A `PlanRow` for each leaf, in leaf order.

    Raises:
      RuleError: if a rule matches nothing.
      ValueError: if the pattern does not fit a parameter, naming it, or no parameter is pruned.

    Example:
      >>> params = {"Dense_0": {"bias": jnp.zeros(4), "kernel": jnp.zeros((3, 4))}}
      >>> for row in plan(Config(sparsity=0.75), params):
      ...     print(row.path, row.what, sep=": ")
      Dense_0/bias: left alone
      Dense_0/kernel: keeps 3 of 12 weights, gradual by magnitude
    """
    pruned = assign(params, config.rules, pattern_of(config), layers)
    said = {pruned[i].index: _say(config, pool, pruned[i]) for pool in _last(config, pruned) for i in pool.members}
    rows = enumerate(zip(named_leaves(params), parameters(params, layers), strict=True))
    return [
        PlanRow(path, tuple(jnp.shape(leaf)), said.get(i, "left alone"), known.reason)
        for i, ((path, leaf), known) in rows
    ]


def check(config: Config, state: PruneState, seen: Any, layers: Layers | None = None) -> list[str]:
    """What pruning should have left behind at the end of its stage, and did not.

    Args:
      config: the config, of plain Python numbers.
      state: the state, of concrete arrays.
      seen: the parameters as the model sees them, after every other transform.
      layers: as for `build`.

    Returns:
      A sentence for each pruned weight's parameter that is not zero there, and for each that keeps too many
      weights.

    Example:
      >>> state = PruneState({"w": np.array([[True, False]])}, np.float32(0.5))
      >>> check(Config(sparsity=0.5), state, {"w": np.array([[1.0, 2.0]])})
      ['w: 1 of 1 pruned weights are not zero']
    """
    pattern = pattern_of(config)
    pruned = assign(seen, config.rules, pattern, layers)
    masks = [np.asarray(m) for m in pick(seen, pruned, state.masks)]
    found = []
    for p, mask, x in zip(pruned, masks, pick(seen, pruned, seen), strict=True):
        wrong = int(np.sum(np.asarray(x, np.float32)[~mask] != 0))
        if wrong:
            found.append(f"{p.path}: {wrong} of {int(np.sum(~mask))} pruned weights are not zero")
    for pool in _last(config, pruned):
        names = ", ".join(pruned[i].path for i in pool.members)
        each = [np.asarray(alive(jnp.asarray(masks[i]), pruned[i])) for i in pool.members]
        kept = int(sum(int(n.sum()) for n in each))
        if len(each) == 1 and each[0].ndim and pool.count is not None:
            kept, most = int(each[0].max()), np.broadcast_to(np.asarray(pool.count), each[0].shape)
            if (each[0] > most).any():
                worst = int(np.argmax(each[0] - most))
                found.append(
                    f"{names}: {each[0][worst]} {_unit(config)} of copy {worst} are kept, not {most[worst]}"
                )
            continue
        if pool.count is None and kept:
            found.append(f"{names}: {pruned[pool.members[0]].pattern} has {kept} weights too many")
        elif pool.count is not None and kept > int(pool.count):
            found.append(f"{names}: {kept} {_unit(config)} are kept where {int(pool.count)} are asked for")
    return found


def _last(config: Config, pruned: list[Pruned]) -> list[Pool]:
    """The pools once the last sparsity is reached, as the transform computes them."""
    common = jnp.float32(config.sparsity)
    with jax.ensure_compile_time_eval():
        targets = [common if p.target is None else jnp.float32(p.target) for p in pruned]
        return pools(pruned, targets, config.budget)


def _unit(config: Config) -> str:
    return {"block": "blocks", "channel": "channels"}.get(config.pattern, "weights")


def _say(config: Config, pool: Pool, p: Pruned) -> str:
    how = config.method if config.method in ("rigl", "set") else f"{config.method} by {config.score}"
    if pool.count is None:
        return f"keeps {config.n} of every {config.m} weights, {how}"
    total = int(np.prod(p.copy_pattern.grid(p.copy_shape)))
    each = f" in each of {p.copies} copies" if p.stack else ""
    if len(pool.members) > 1 or (config.budget == "global" and p.target is None):
        total *= p.copies
        return f"{total} {_unit(config)}, of which its share of the {int(pool.count)} kept in all, {how}"
    counts = sorted({int(n) for n in np.ravel(np.asarray(pool.count))})
    kept = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"keeps {kept} of {total} {_unit(config)}{each}, {how}"
