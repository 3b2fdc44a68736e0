"""The config of sharing: what is refused, what is traced, plan and check."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import ConfigError, RuleError, cluster, hyper
from jopt.config import from_dict, to_dict

PARAMS = {"a": {"kernel": jnp.arange(12.0).reshape(3, 4)}, "b": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}


@pytest.mark.parametrize(
    ("fields", "field", "value"),
    [
        ({"clusters": 1}, "clusters", 1),  # one value is zero
        ({"clusters": 0, "keep_zero": False}, "clusters", 0),
        ({"clusters": 4.0}, "clusters", 4.0),
        ({"start": "random"}, "start", "random"),
        ({"iterations": -1}, "iterations", -1),
        ({"gradient": "max"}, "gradient", "max"),
        ({"gradient": "sum", "trained": False}, "gradient", "sum"),
        *(({"begin": begin}, "begin", begin) for begin in (1.0, -0.1, float("nan"), 1 - 1e-12)),
        ({"rules": (("(", 4),)}, "rules[0]", "("),
        ({"rules": ((".*", None), ("a", 1))}, "rules[1]", 1),
        ({"rules": (("a", "b"),)}, "rules", (("a", "b"),)),
    ],
)
def test_bad_configs_are_refused(fields, field, value):
    with pytest.raises(ConfigError) as error:
        cluster.Share(**fields).validate()
    assert (error.value.field, repr(error.value.value)) == (f"share.{field}", repr(value))


def test_one_value_is_enough_where_zero_is_none_of_them():
    cluster.Share(clusters=1, keep_zero=False).validate()


def test_a_config_survives_json():
    method = cluster.Share(8, "density", rules=(("a/.*", None), (".*", 4)))
    method.validate()
    assert from_dict(cluster.Share, to_dict(method)) == method


def test_numbers_are_traced_and_structure_is_not():
    one, two = cluster.Share(begin=0.25, iterations=5), cluster.Share(begin=0.5, iterations=7)
    assert hyper.split(one)[0] == hyper.split(two)[0] != hyper.split(cluster.Share(8))[0]
    structure, numbers = hyper.split(one)
    assert set(numbers) == {"begin", "iterations"}
    traces = []

    @jax.jit
    def active(numbers, step):
        traces.append(1)
        t = hyper.join(structure, numbers).build(begin=100, steps=10)
        return t.update(t.init(PARAMS), PARAMS, step=step).active

    assert [bool(active(numbers, step)) for step in (101, 102)] == [False, True]  # 2.5 rounds to 2
    assert [bool(active(hyper.split(two)[1], step)) for step in (104, 105)] == [False, True]
    assert len(traces) == 1


def test_the_plan():
    method = cluster.Share(4, keep_zero=False, trained=False, rules=((".*/bias", 2), ("a/.*", None)))
    rows = method.plan(PARAMS)
    assert [tuple(row)[:3] for row in rows] == [
        ("a/kernel", (3, 4), "left as it is"),
        ("b/bias", (2,), "at most 2 values, fixed"),
        ("b/kernel", (2, 2), "at most 4 values, fixed"),
    ]
    with pytest.raises(RuleError, match="matches no parameter"):
        cluster.Share(rules=(("c/.*", 2),)).plan(jax.eval_shape(lambda: PARAMS))


def test_the_check_says_what_is_broken():
    method = cluster.Share(3)
    t = method.build(begin=0, steps=10)
    params = {"w": jnp.array([[0.0, 1.0, 2.0, 9.0]]), "bias": jnp.arange(9.0)}
    state = t.init(params)
    assert method.check(state, params) == ["no codebook was chosen: no update came at or after its begin"]
    state = t.update(state, params, step=0)
    assert method.check(state, jax.tree.map(np.asarray, t.apply(state, params))) == []
    assert method.check(state, {**params, "w": params["w"] + 1}) == [
        "w: 4 distinct values where at most 3 are shared",
        "w: 1 of 1 weights that are kept at zero are not zero",
    ]
