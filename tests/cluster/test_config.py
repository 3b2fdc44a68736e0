"""The config of sharing: what is refused, what is traced, plan and check."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import ConfigError, RuleError, cluster, hyper
from jopt.config import from_dict, to_dict

PARAMS = {"a": {"kernel": jnp.arange(12.0).reshape(3, 4)}, "b": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"clusters": 1},
            r"share.clusters must be an integer in \[2, 4096\] \(one value is zero: keep_zero\), got 1",
        ),
        ({"clusters": 0, "keep_zero": False}, r"share.clusters must be an integer in \[1, 4096\], got 0"),
        ({"clusters": 4.0}, "share.clusters must be of type int, got 4.0"),
        ({"start": "random"}, "share.start must be one of 'density', 'kmeans\\+\\+', 'linear', got 'random'"),
        ({"iterations": -1}, "share.iterations must be a number of at least 0, got -1"),
        ({"gradient": "max"}, "share.gradient must be one of 'mean', 'sum', got 'max'"),
        ({"gradient": "sum", "trained": False}, "share.gradient must be 'mean' where trained is False"),
        ({"begin": 1.0}, r"share.begin must be a fraction in \[0, 1\), got 1.0"),
        ({"begin": -0.1}, "share.begin must be"),
        ({"begin": float("nan")}, "share.begin must be"),
        ({"begin": 1 - 1e-12}, "share.begin must be"),
        ({"rules": (("(", 4),)}, r"share.rules\[0\] must be a regular expression"),
        ({"rules": ((".*", None), ("a", 1))}, r"share.rules\[1\] must be an integer in \[2, 4096\]"),
        ({"rules": (("a", "b"),)}, "share.rules must be of type"),
    ],
)
def test_bad_configs_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        cluster.validate(cluster.Share(**change))


def test_a_config_survives_json():
    config = cluster.Share(8, "density", rules=(("a/.*", None), (".*", 4)))
    cluster.validate(config)
    assert from_dict(cluster.Config, to_dict(config)) == config


def test_numbers_are_traced_and_structure_is_not():
    one, two = cluster.Share(begin=0.25, iterations=5), cluster.Share(begin=0.5, iterations=7)
    assert hyper.split(one)[0] == hyper.split(two)[0] != hyper.split(cluster.Share(8))[0]
    structure, numbers = hyper.split(one)
    assert set(numbers) == {"begin", "iterations"}
    traces = []

    @jax.jit
    def active(numbers, step):
        traces.append(1)
        t = cluster.build(hyper.join(structure, numbers), begin=100, steps=10)
        return t.update(t.init(PARAMS), PARAMS, step=step).active

    assert [bool(active(numbers, step)) for step in (101, 102)] == [False, True]  # 2.5 rounds to 2
    assert [bool(active(hyper.split(two)[1], step)) for step in (104, 105)] == [False, True]
    assert len(traces) == 1


def test_the_plan():
    rows = cluster.plan(
        cluster.Share(4, keep_zero=False, trained=False, rules=((".*/bias", 2), ("a/.*", None))), PARAMS
    )
    assert [tuple(row)[:3] for row in rows] == [
        ("a/kernel", (3, 4), "left as it is"),
        ("b/bias", (2,), "at most 2 values, fixed"),
        ("b/kernel", (2, 2), "at most 4 values, fixed"),
    ]
    with pytest.raises(RuleError, match="matches no parameter"):
        cluster.plan(cluster.Share(rules=(("c/.*", 2),)), jax.eval_shape(lambda: PARAMS))


def test_the_check_says_what_is_broken():
    config = cluster.Share(3)
    t = cluster.build(config, begin=0, steps=10)
    params = {"w": jnp.array([[0.0, 1.0, 2.0, 9.0]]), "bias": jnp.arange(9.0)}
    state = t.init(params)
    assert cluster.check(config, state, params) == ["no codebook was chosen: no update came at or after its begin"]
    state = t.update(state, params, step=0)
    assert cluster.check(config, state, jax.tree.map(np.asarray, t.apply(state, params))) == []
    assert cluster.check(config, state, {**params, "w": params["w"] + 1}) == [
        "w: 4 distinct values where at most 3 are shared",
        "w: 1 of 1 weights that are kept at zero are not zero",
    ]
