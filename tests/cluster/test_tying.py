"""Tied layers: the mean, its gradient, zeros, groups, and the count of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt import ConfigError, RuleError, cluster, optim

PARAMS = {
    "Dense_0": {"kernel": jnp.array([[1.0, 0.0], [3.0, -4.0]]), "bias": jnp.array([1.0, 2.0])},
    "Dense_1": {"kernel": jnp.array([[3.0, 2.0], [0.1, -4.0]]), "bias": jnp.array([5.0, 2.0])},
    "Dense_2": {"kernel": jnp.array([[8.0]])},
}
GROUPS = ("Dense_[01]/kernel", "Dense_[01]/bias")


def test_by_hand():
    t = cluster.tie(GROUPS)
    seen = t.apply(t.init(PARAMS), PARAMS)
    for layer in ("Dense_0", "Dense_1"):
        np.testing.assert_array_equal(seen[layer]["kernel"], np.array([[2.0, 0.0], [1.55, -4.0]], np.float32))
        assert seen[layer]["bias"].tolist() == [3.0, 2.0]
    assert seen["Dense_2"] == PARAMS["Dense_2"]
    projected = t.project((), PARAMS)
    np.testing.assert_array_equal(projected["Dense_0"]["kernel"], np.array([[2.0, 1.0], [1.55, -4.0]], np.float32))
    assert t.forward((), PARAMS) is PARAMS
    assert t.update((), PARAMS, step=1) == ()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_projecting_twice_changes_no_bit(dtype):
    rng = np.random.default_rng(0)
    params = {c: jnp.asarray(rng.normal(size=(7, 3)), dtype) for c in "abc"}
    t = cluster.tie(["[abc]"])
    once = jax.jit(t.project)((), params)
    twice = t.project((), once)
    for name in "abc":
        assert once[name].dtype == dtype
        assert (
            np.asarray(once[name]).tobytes() == np.asarray(once["a"]).tobytes() == np.asarray(twice[name]).tobytes()
        )
    mean = np.mean([np.float64(np.asarray(x, np.float32)) for x in params.values()], 0)
    np.testing.assert_allclose(
        np.asarray(once["a"], np.float32), mean, rtol=1e-6 if dtype == jnp.float32 else 1e-2, atol=1e-2
    )


def test_the_gradient_is_the_mean_of_the_gradients():
    t = cluster.tie(["[ab]"])
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, 2.0])}
    weights = {"a": jnp.array([1.0, 10.0]), "b": jnp.array([5.0, -4.0])}
    grads = jax.grad(lambda p: sum(jnp.vdot(w, t.apply((), p)[k]) for k, w in weights.items()))(params)
    assert grads["a"].tolist() == grads["b"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_layers_stay_tied(optimizer):
    optimizer = optim.build(optim.Config(optimizer, learning_rate=0.1))
    t = cluster.tie(GROUPS)

    def step(carry, target):
        params, state = carry
        grads = jax.grad(lambda p: sum(jnp.sum((x - target * i) ** 2) for i, x in enumerate(jax.tree.leaves(p))))(
            params
        )
        updates, state = optimizer.update(t.project((), grads), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = t.project((), PARAMS)
    (end, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), jnp.arange(20.0)))(start)
    assert cluster.Tie(GROUPS).check((), end) == []
    assert (end["Dense_0"]["kernel"] != start["Dense_0"]["kernel"]).all()


def test_vmap_is_a_loop():
    t = cluster.tie(GROUPS)
    many = jax.tree.map(lambda x: jnp.stack([x, 3 * x + 1]), PARAMS)
    seen = jax.vmap(lambda p: t.apply((), p))(many)
    for i in range(2):
        one = t.apply((), jax.tree.map(lambda x, i=i: x[i], many))
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), seen, one)


def test_parameters_are_counted_once():
    assert cluster.free_parameters(GROUPS, PARAMS) == 4 + 2 + 1
    assert cluster.free_parameters([], PARAMS) == 13


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["Dense_0/kernel"], "must match two or more parameters, got only Dense_0/kernel float32\\[2, 2\\]"),
        (["Dense_./kernel"], "of one shape and dtype, got .*Dense_2/kernel float32\\[1, 1\\]"),
        (["Conv_./kernel"], "matches no parameter"),
        (["Dense_[01]/bias", "Dense_./bias"], "is hidden behind"),
        (["("], "is not a regular expression"),
    ],
)
def test_bad_groups_are_refused(groups, message):
    with pytest.raises(RuleError, match=message):
        cluster.tie(groups).init(PARAMS)


def test_integers_and_a_bare_string_are_refused():
    with pytest.raises(RuleError, match=r"'\[ab\]'.*floating.*int32"):
        cluster.tie(["[ab]"]).init({"a": jnp.arange(2), "b": jnp.arange(2)})
    with pytest.raises(RuleError, match=r"groups.*sequence.*'ab'"):
        cluster.tie("ab")


def test_the_method():
    method = cluster.Tie(GROUPS)
    method.validate()
    t = method.build(begin=3, steps=7)
    assert method.check((), t.apply((), PARAMS)) == []
    assert method.check((), PARAMS) == [
        "Dense_1/kernel: 3 of 4 tied weights differ from Dense_0/kernel",
        "Dense_1/bias: 1 of 2 tied weights differ from Dense_0/bias",
    ]
    assert [row.what for row in method.plan(PARAMS)][:2] == [
        "tied with Dense_1/bias",
        "tied with Dense_1/kernel",
    ]


@pytest.mark.parametrize(
    ("groups", "field", "value"), [(("a", "("), "groups[1]", "("), ((), "groups", ()), ("Dense", "groups", "Dense")]
)
def test_bad_configs_are_refused(groups, field, value):
    with pytest.raises(ConfigError) as error:
        cluster.Tie(groups).validate("stage.tie")
    assert (error.value.field, error.value.value) == (f"stage.tie.{field}", value)
