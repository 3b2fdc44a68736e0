"""Linen and NNX modules as pairs of pure functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jopt.models import Model, from_linen, from_nnx

pytestmark = pytest.mark.unoptimized

X = jax.random.normal(jax.random.key(7), (8, 4))


class Norm(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(3)(x))


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)])
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(nnx.relu(self.norm(self.layers[0](x)))))


def test_batch_statistics_move_in_training_only():
    model = from_linen(Norm())
    params, state = model.init(jax.random.key(0), X)
    assert list(state) == ["batch_stats"]
    _, same = model.apply(params, state, X, train=False)
    jax.tree.map(np.testing.assert_array_equal, state, same)
    _, moved = model.apply(params, state, X, train=True)
    h = X @ params["Dense_0"]["kernel"]
    np.testing.assert_allclose(moved["batch_stats"]["BatchNorm_0"]["mean"], 0.1 * h.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved["batch_stats"]["BatchNorm_0"]["var"], 0.9 + 0.1 * h.var(0), rtol=1e-4)
    assert jax.tree.structure(moved) == jax.tree.structure(state)


def test_a_module_that_knows_no_train_works():
    model = from_linen(nn.Sequential([nn.Dense(3), nn.relu]))
    params, state = model.init(jax.random.key(0), X)
    assert model.apply(params, state, X, train=True)[0].shape == (8, 3)


def test_params_are_plain_dictionaries_of_named_leaves():
    for model in (from_linen(Norm()), from_nnx(NNXNet)):
        params, state = model.init(jax.random.key(0), X)
        for tree in (params, state):
            names = [
                jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree.leaves_with_path(tree)
            ]
            assert type(tree) is dict and all(isinstance(n, str) for n in names)
    assert "layers/0/kernel" in [
        jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree.leaves_with_path(params)
    ]


def test_nnx_equals_its_own_call_with_batch_norm():
    model = from_nnx(NNXNet)
    params, state = model.init(jax.random.key(3), X)
    module = NNXNet(nnx.Rngs(jax.random.key(3)))
    module.eval()
    np.testing.assert_array_equal(model.apply(params, state, X, train=False)[0], module(X))
    module.train()
    module(X)
    _, moved = model.apply(params, state, X, train=True, key=jax.random.key(0))
    np.testing.assert_array_equal(moved["norm"]["mean"], module.norm.mean[...])
    np.testing.assert_array_equal(moved["norm"]["var"], module.norm.var[...])
    assert not np.array_equal(moved["norm"]["mean"], state["norm"]["mean"])
    assert jax.tree.structure(moved) == jax.tree.structure(state)


def test_nnx_dropout_is_a_function_of_the_key():
    model = from_nnx(NNXNet)
    params, state = model.init(jax.random.key(3), X)
    outputs = [model.apply(params, state, X, train=True, key=jax.random.key(k))[0] for k in (0, 0, 1)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


def test_nnx_trains_under_jit_scan_and_vmap():
    model = from_nnx(NNXNet)

    def run(key):
        params, state = model.init(key, X)

        def step(carry, step_key):
            params, state = carry

            def loss(params):
                logits, new = model.apply(params, state, X, train=True, key=step_key)
                return (logits**2).mean(), new

            (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params)
            return (jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), state), value

        return jax.lax.scan(step, (params, state), jax.random.split(key, 20))[1]

    losses = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 3))
    assert losses.shape == (3, 20) and bool((losses[:, -5:].mean(1) < losses[:, :5].mean(1)).all())


def test_apply_needs_no_init_first():
    params, state = from_nnx(NNXNet).init(jax.random.key(3), X)
    assert from_nnx(NNXNet).apply(params, state, X, train=False)[0].shape == (8, 3)


def test_a_pair_of_functions_is_a_model():
    model = Model(lambda key, x: ({"w": jnp.ones((4, 2))}, {}), lambda p, s, x, *, train, key=None: (x @ p["w"], s))
    params, state = model.init(jax.random.key(0), X)
    assert model.apply(params, state, X, train=False)[0].shape == (8, 2)


@pytest.mark.parametrize("train", [False, True])
def test_logits_are_float32(train):
    model = from_linen(nn.Dense(3, dtype=jnp.bfloat16))
    params, state = model.init(jax.random.key(0), X)
    assert model.apply(params, state, X, train=train)[0].dtype == jnp.float32
