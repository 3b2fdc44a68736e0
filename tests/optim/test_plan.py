"""Rules: multipliers, exclusions and freezing, and the plan that shows them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt import optim
from jopt.rules import RuleError

from .cases import ALL, cast, jit, random, train

pytestmark = pytest.mark.unoptimized

PARAMS = {"Dense_0": {"bias": jnp.ones(2), "kernel": jnp.ones((3, 2))}, "Dense_1": {"kernel": jnp.ones((2, 1))}}
ONES = jax.tree.map(jnp.ones_like, PARAMS)


def moved(config, grads=ONES):
    optimizer = optim.build(config)
    updates, _ = jit(lambda g, p: optimizer.update(g, optimizer.init(p), p))(grads, PARAMS)
    return {p.path: -u.ravel()[0].item() for p, u in zip(optim.plan(config, PARAMS), jax.tree.leaves(updates))}  # noqa: B905


def test_learning_rate_rules_first_match_wins():
    rules = ((".*bias", 2.0), ("Dense_0/.*", 0.5))
    config = optim.Config("sgd", learning_rate=1.0, learning_rate_rules=rules)
    assert moved(config) == {"Dense_0/bias": 2.0, "Dense_0/kernel": 0.5, "Dense_1/kernel": 1.0}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_rules_exclude_and_biases_decay_by_default(name):
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    config = optim.Config(name, learning_rate=1.0, weight_decay=0.5)
    assert set(moved(config, zero).values()) == {0.5}
    config.weight_decay_rules = ((".*bias", 0.0), ("Dense_1/.*", 0.5))
    assert moved(config, zero) == {"Dense_0/bias": 0.0, "Dense_0/kernel": 0.5, "Dense_1/kernel": 0.25}


@pytest.mark.parametrize("field", ["l1", "proximal_l1"])
def test_decay_rules_hold_for_l1(field):
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    config = optim.Config("sgd", learning_rate=1.0, weight_decay_rules=((".*bias", 0.0),), **{field: 0.25})
    assert moved(config, zero) == {"Dense_0/bias": 0.0, "Dense_0/kernel": 0.25, "Dense_1/kernel": 0.25}


@pytest.mark.parametrize("accumulate", [None, 2])
@pytest.mark.parametrize(("name", "variant"), ALL)
def test_frozen_parameters_keep_their_bits_and_moments(name, variant, accumulate):
    params, grads = cast(random(9, steps=4), jnp.float32)
    config = optim.Config(
        name,
        variant,
        weight_decay=0.1,
        l1=0.1,
        proximal_l1=0.1,
        freeze=("m.*",),
        accumulate_steps=accumulate,
    )
    optimizer = optim.build(config)
    start = jax.device_get(jit(optimizer.init)(params))
    end, state = jax.device_get(jit(lambda p, g: train(optimizer, p, g))(params, grads))
    params = jax.device_get(params)
    for key in params:
        same = bool((end[key] == params[key]).all())
        assert same == (key == "matrix"), key
    only = {k: np.full_like(v, k == "matrix") for k, v in params.items()}
    untouched = lambda s: optax.tree.map_params(optimizer, lambda x, m: x * m, s, only)  # noqa: E731
    moments = lambda s: [x for x in jax.tree.leaves(untouched(s)) if x.ndim]  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, moments(state), moments(start))
    if name != "adagrad" or variant == "paper":  # Optax's accumulator starts at 0.1
        assert not any(x.any() for x in moments(state))


def test_a_frozen_parameter_ignores_a_nan_gradient():
    config = optim.Config("sgd", freeze=("Dense_0/bias",), clip_by_global_norm=1.0)
    grads = {**ONES, "Dense_0": {**ONES["Dense_0"], "bias": jnp.full(2, jnp.nan)}}
    got = moved(config, grads)
    assert got["Dense_0/bias"] == 0.0
    assert all(map(np.isfinite, got.values()))


@pytest.mark.parametrize(
    "changes",
    [{"freeze": ("Dens_0.*",)}, {"learning_rate_rules": (("x", 0.1),)}, {"weight_decay_rules": (("x", 0.1),)}],
)
def test_a_rule_that_does_nothing_is_an_error(changes):
    with pytest.raises(RuleError, match=r"no parameter.*Dense_0/bias"):
        optim.build(optim.Config(**changes)).init(PARAMS)


def test_the_plan_shows_what_build_does():
    config = optim.Config(learning_rate_rules=((".*/kernel", 0.1),), freeze=("Dense_1/.*",))
    assert optim.plan(config, PARAMS)[1] == ("Dense_0/kernel", (3, 2), 0.1, 1.0, False)
    table = optim.describe(config, PARAMS).splitlines()
    assert table[1].split() == ["Dense_0/bias", "2", "x1", "x1"]
    assert table[3].split() == ["Dense_1/kernel", "2x1", "frozen"]
