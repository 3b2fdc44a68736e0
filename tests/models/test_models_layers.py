"""Dropout with a traced rate, pooling, initializers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from quick import jit

from jopt.models import Dropout
from jopt.models.layers import ACTIVATIONS, kernel_init, max_pool

pytestmark = pytest.mark.unoptimized


@jax.jit
def drop(rate, x, key):
    return Dropout(rate).apply({}, x, train=True, rngs={"dropout": key})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rate_zero_is_the_identity(dtype):
    x = jax.random.normal(jax.random.key(0), (64, 64), dtype)
    y = drop(0.0, x, jax.random.key(1))
    assert y.dtype == dtype
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_expectation_is_kept(rate):
    n = 100_000
    y = np.asarray(drop(rate, jnp.ones(n), jax.random.key(1)))
    # Each element has variance rate / (1 - rate); five standard errors of the mean.
    assert abs(y.mean() - 1) < 5 * np.sqrt(rate / (1 - rate) / n)
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)


def test_off_in_evaluation_and_without_a_rate():
    x = jnp.ones(8)
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x, train=False), x)
    np.testing.assert_array_equal(Dropout(None).apply({}, x, train=True), x)


def test_the_gradient_passes_where_the_mask_does():
    x = jnp.ones(16)
    key = jax.random.key(1)
    np.testing.assert_array_equal(jax.grad(lambda x: drop(0.5, x, key).sum())(x), drop(0.5, x, key))


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 7, 9, 2), (1, 2, 3, 1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_max_pool_equals_flax(shape, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    pooled, flax = jit(max_pool)(x.astype(dtype)), jit(_flax_pool)(x.astype(dtype))
    np.testing.assert_array_equal(pooled, flax)
    weight = rng.normal(size=pooled.shape).astype(np.float32)
    pooled, flax = (jit(jax.grad(lambda x, f=f: (f(x) * weight).sum()))(x) for f in (max_pool, _flax_pool))
    np.testing.assert_array_equal(pooled, flax)


def _flax_pool(x):
    return nn.max_pool(x, (2, 2), (2, 2))


def test_max_pool_splits_ties_evenly_and_allows_forward_mode():
    x = jnp.array([[1.0, 3.0], [3.0, 2.0]]).reshape(1, 2, 2, 1)
    assert jax.grad(lambda x: max_pool(x).sum())(x).ravel().tolist() == [0, 0.5, 0.5, 0]
    assert jax.jvp(max_pool, (x,), (jnp.arange(4.0).reshape(x.shape),))[1].item() == 1.5
    zeros = jnp.zeros((1, 4, 4, 1))
    assert not jax.grad(lambda x: max_pool(nn.relu(x)).sum())(zeros).any()


def test_max_pool_has_no_select_and_scatter():
    x = jnp.ones((2, 4, 4, 3))
    assert "select_and_scatter" not in jax.jit(jax.grad(lambda x: max_pool(x).sum())).lower(x).as_text()


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_initializers_keep_the_variance(name):
    w = kernel_init(name)(jax.random.key(0), (400, 400))
    expected = 1 / 400 if name in ("tanh", "sigmoid", "identity") else 2 / 400
    assert w.dtype == jnp.float32
    np.testing.assert_allclose(w.var(), expected, rtol=0.02)
    assert ACTIVATIONS[name](w.astype(jnp.bfloat16)).dtype == jnp.bfloat16
