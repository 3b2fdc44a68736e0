"""Clipping weights to a range: values, gradient at the bounds, zero, rules, config."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt import ConfigError, RuleError, clip, hyper

PARAMS = {"bias": jnp.array([9.0]), "kernel": jnp.array([[-3.0, -0.5, 0.0, 0.25, 0.5, 2.0]])}


def test_values_by_hand():
    seen = clip.clip_params(PARAMS, -0.5, 0.5)
    assert seen["kernel"].tolist() == [[-0.5, -0.5, 0.0, 0.25, 0.5, 0.5]]
    assert seen["bias"] is PARAMS["bias"]
    t = clip.clip(-0.5, 0.5)
    assert t.apply(t.init(PARAMS), PARAMS)["kernel"].tolist() == seen["kernel"].tolist()
    assert t.project is None and t.forward is None, "clipping is not linear"
    held = clip.Range(-0.5, 0.5).build().constrain((), PARAMS)
    assert held["kernel"].tolist() == seen["kernel"].tolist()


def test_the_gradient_is_one_inside_bounds_included_and_zero_outside():
    t = clip.clip(-0.5, 0.5)
    grads = jax.grad(lambda p: (3 * t.apply((), p)["kernel"]).sum() + t.apply((), p)["bias"].sum())(PARAMS)
    assert grads["kernel"].tolist() == [[0.0, 3.0, 3.0, 3.0, 3.0, 0.0]]
    assert grads["bias"].tolist() == [1.0]


def test_nan_stays_nan():
    assert np.isnan(clip.clip_params({"w": jnp.full((1, 1), jnp.nan)})["w"]).all()


@settings(max_examples=30, deadline=None)
@given(
    w=st.lists(st.floats(width=32, allow_nan=False, allow_subnormal=False), min_size=8, max_size=8),
    low=st.floats(-10, 0, width=32, allow_subnormal=False),
    high=st.floats(0, 10, width=32, allow_subnormal=False),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
)
def test_a_projection_on_the_range(w, low, high, dtype):
    params = {"w": jnp.asarray(np.array(w, np.float32).reshape(2, 4)).astype(dtype)}
    once = clip.clip_params(params, low, high)
    twice = clip.clip_params(once, low, high)
    assert once["w"].dtype == dtype
    np.testing.assert_array_equal(np.asarray(once["w"]), np.asarray(twice["w"]))
    before, after = np.asarray(params["w"], np.float32), np.asarray(once["w"], np.float32)
    bounds = np.asarray(jnp.asarray([low, high]).astype(dtype), np.float32)
    np.testing.assert_array_equal(after, np.clip(before, *bounds))
    assert not after[before == 0].any()


def test_rules_scale_the_range():
    rules = (("bias", 2.0), (".*", None))
    seen = clip.clip_params(PARAMS, -1.0, 3.0, rules)
    assert seen["bias"].tolist() == [6.0] and seen["kernel"] is PARAMS["kernel"]
    rows = clip.Range(-1.0, 3.0, rules).plan(PARAMS)
    assert [tuple(row)[:3] for row in rows] == [
        ("bias", (1,), "clipped to [-2, 6]"),
        ("kernel", (1, 6), "left as it is"),
    ]


def test_weights_stay_in_the_range_during_training():
    optimizer = optax.sgd(0.5, momentum=0.9)
    constrain = clip.Range(-0.25, 0.5).build().constrain

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.tree.map(lambda x: jnp.cos(5 * x), params), state, params)
        params = constrain((), optax.apply_updates(params, updates))
        return (params, state), jnp.stack([params["kernel"].min(), params["kernel"].max()])

    _, range_ = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=30))(PARAMS)
    assert range_.min() == -0.25 and range_.max() == 0.5


def test_traced_bounds_do_not_recompile_and_bits_are_the_same():
    traces = []

    def see(low, high, params):
        traces.append(1)
        return clip.clip(low, high).apply((), params)

    jitted = jax.jit(see)
    for low, high in ((-1.0, 0.1), (-0.3, 1 / 3), (0.0, 7.0)):
        jax.tree.map(
            np.testing.assert_array_equal, jitted(low, high, PARAMS), clip.clip(low, high).apply((), PARAMS)
        )
    assert len(traces) == 1
    bounds = (jnp.array([-1.0, -0.3]), jnp.array([0.1, 0.4]))
    lifted = jax.vmap(see, (0, 0, None))(*bounds, PARAMS)
    for i, pair in enumerate(zip(*bounds, strict=True)):
        np.testing.assert_array_equal(lifted["kernel"][i], see(*pair, PARAMS)["kernel"])


def test_the_config_is_swept_in_its_bounds():
    structure, numbers = hyper.split(clip.Range(-0.5, 0.5))
    assert set(numbers) == {"low", "high"} and structure == hyper.split(clip.Range())[0]
    t = jax.jit(lambda n, p: hyper.join(structure, n).build(begin=3, steps=5).constrain((), p))
    assert t(numbers, PARAMS)["kernel"].max() == 0.5


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (clip.Range(low=0.1), "clip.low", 0.1),
        (clip.Range(low=float("-inf")), "clip.low", float("-inf")),
        (clip.Range(high=-0.1), "clip.high", -0.1),
        (clip.Range(high=float("nan")), "clip.high", float("nan")),
        (clip.Range(0.0, 0.0), "clip.high", 0.0),
        (clip.Range(rules=(("(", 1.0),)), "clip.rules[0]", "("),
        (clip.Range(rules=(("a", None), ("b", 0.0))), "clip.rules[1]", 0.0),
        (clip.Range(low="a"), "clip.low", "a"),  # type: ignore[arg-type]
    ],
)
def test_bad_configs_are_refused(config, field, value):
    with pytest.raises(ConfigError) as error:
        config.validate()
    assert (error.value.field, repr(error.value.value)) == (field, repr(value))


@pytest.mark.parametrize(
    ("error", "named", "arguments"),
    [
        (ValueError, r"^low .*0\.5$", (0.5, 1.0)),
        (ValueError, "^high ", (-1.0, jnp.float32(-0.5))),
        (ValueError, "^low .*nan$", (float("nan"), 1.0)),
        (ValueError, r"'bias'.*-1\.0$", (-1.0, 1.0, [("bias", -1.0)])),
        (RuleError, "'kernels'", (-1.0, 1.0, [("kernels", 1.0)])),
    ],
)
def test_bad_input_is_refused(error, named, arguments):
    with pytest.raises(error, match=named):
        clip.clip_params(PARAMS, *arguments)
    with pytest.raises(error, match=named):
        clip.clip(*arguments).init(PARAMS)


def test_integers_are_left_alone_and_a_rule_for_them_is_an_error():
    params = {"n": jnp.full((2, 2), 7)}
    assert clip.clip_params(params)["n"] is params["n"]
    with pytest.raises(RuleError, match=r"'n'.*int32"):
        clip.clip_params(params, rules=[("n", 1.0)])


def test_what_lies_outside_is_counted():
    for dtype in (jnp.float32, jnp.bfloat16):  # in bfloat16, 0.1 is a little more than 0.1
        params = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), PARAMS)
        assert clip.outside(clip.clip_params(params, -0.1, 0.1), -0.1, 0.1) == []
    assert clip.outside({"w": np.array([[0.0, 0.2, np.nan]], np.float32)}, -0.1, 0.1) == [
        "w: 2 of 3 weights lie outside [-0.1, 0.1]"
    ]
