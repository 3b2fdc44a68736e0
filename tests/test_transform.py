"""ParamTransform and its composition, on any pytree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jopt
from jopt.transform import ParamTransform


def clip_to_quantile() -> ParamTransform:
    """Clips each leaf at half of its largest magnitude, as it was at the last update."""

    def init(params):
        return jax.tree.map(lambda x: jnp.abs(x).max() / 2, params)

    def update(state, params, *, step, grads=None, key=None):
        del state, step, grads, key
        return init(params)

    return ParamTransform(init, update, lambda s, p: jax.tree.map(lambda m, x: jnp.clip(x, -m, m), s, p))


def noise() -> ParamTransform:
    """Adds a number drawn at the last update."""
    return ParamTransform(
        init=lambda params: jnp.float32(0),
        update=lambda state, params, *, step, grads=None, key=None: jax.random.normal(key),
        apply=lambda state, params: jax.tree.map(lambda x: x + state, params),
    )


PARAMS = {"a": jnp.array([4.0, -2.0, 1.0]), "b": [jnp.array([[8.0]])]}


def test_each_transform_sees_what_the_ones_before_it_make():
    t = jopt.chain(clip_to_quantile(), clip_to_quantile())
    state = t.init(PARAMS)
    assert state[0]["a"] == 2 and state[1]["a"] == 1
    np.testing.assert_array_equal(t.apply(state, PARAMS)["a"], [1.0, -1.0, 1.0])
    grown = jax.tree.map(lambda x: 3 * x, PARAMS)
    state = t.update(state, grown, step=1)
    assert state[0]["a"] == 6 and state[1]["a"] == 3


def test_each_transform_has_a_key_of_its_own():
    key = jax.random.key(3)
    t = jopt.chain(noise(), noise())
    state = t.update(t.init(PARAMS), PARAMS, step=0, key=key)
    assert [float(s) for s in state] == [float(jax.random.normal(jax.random.fold_in(key, i))) for i in range(2)]


def test_jit_grad_and_vmap_pass_through():
    t = jopt.chain(jopt.identity(), clip_to_quantile())
    state = t.init(PARAMS)
    grads = jax.jit(jax.grad(lambda p: t.apply(state, p)["a"].sum()))(PARAMS)
    np.testing.assert_array_equal(grads["a"], [0.0, 0.5, 1.0])  # -2 lies on the bound: jnp.clip splits the tie
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), PARAMS)
    states = jax.vmap(t.init)(many)
    np.testing.assert_array_equal(jax.vmap(t.apply)(states, many)["a"][1], [4.0, -4.0, 2.0])


def test_no_transforms_are_the_identity():
    t = jopt.chain()
    assert t.apply(t.init(PARAMS), PARAMS) is PARAMS


def test_a_state_of_another_chain_is_refused():
    with pytest.raises(ValueError, match=r"chain.* 1 .* 2 "):
        jopt.chain(noise()).apply((1, 2), PARAMS)
