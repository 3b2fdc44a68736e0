"""Clipping, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt import optim

pytestmark = pytest.mark.unoptimized


def step(config, grads, params=None):
    """What sgd with rate 1 subtracts, which is the gradient as the config bounds it."""
    params = jax.tree.map(jnp.zeros_like, grads) if params is None else params
    optimizer = optim.build(config)
    updates, _ = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p))(grads, params)
    return jax.tree.map(lambda u: -u, updates)


def sgd(**changes):
    return optim.Config("sgd", learning_rate=1.0, **changes)


GRADS = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}  # norm 5


@pytest.mark.parametrize(("limit", "a", "b"), [(2.5, 1.5, 2.0), (5.0, 3.0, 4.0), (10.0, 3.0, 4.0)])
def test_global_norm_by_hand(limit, a, b):
    got = step(sgd(clip_by_global_norm=limit), GRADS)
    assert (got["a"].item(), got["b"].item()) == (a, b)


def test_zero_gradient_stays_zero():
    got = step(sgd(clip_by_global_norm=1e-30, clip_by_value=1.0, adaptive_clip=0.1), {"a": jnp.zeros(3)})
    assert got["a"].tolist() == [0.0, 0.0, 0.0]


def test_norm_of_huge_and_of_bfloat16_gradients():
    # The square of 3e30 overflows float32: the step is skipped. 257 is no bfloat16: ones are summed in float32.
    got = step(sgd(clip_by_global_norm=1.0), {"a": jnp.array([3e30, 4e30])})
    np.testing.assert_array_equal(got["a"], [0.0, 0.0])
    assert optim.global_norm({"a": jnp.ones(257**2, jnp.bfloat16)}).item() == 257.0
    assert optim.global_norm({}).item() == 0.0


def test_nan_is_not_hidden():
    for bad in (np.nan, np.inf):
        got = step(sgd(clip_by_global_norm=1.0), {"a": jnp.array([bad, 1.0])})["a"]
        assert np.isnan(got[0])


@jax.jit
def clip(grads, limit):
    return optim.clip_by_global_norm(limit).update(grads, optax.EmptyState())[0]


# Subnormal numbers may count as zero: XLA flushes them on some threads.
NUMBERS = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)


@given(st.lists(NUMBERS, min_size=1, max_size=8), st.floats(2**-6, 2**6, width=32))
@settings(max_examples=50, deadline=None)
def test_global_norm_bounds_and_keeps_direction(values, limit):
    grads = {"a": jnp.array(values, jnp.float32)}
    got = clip(grads, limit)["a"]
    norm = np.linalg.norm(np.array(values, np.float64))
    # norm, division and product round once each in float32: a few times 6e-8.
    np.testing.assert_allclose(got, np.array(values) * min(1, limit / norm) if norm else 0, rtol=1e-6, atol=1e-30)
    if norm < 0.999999 * limit:
        np.testing.assert_array_equal(got, grads["a"])


def test_by_value_comes_before_the_norm():
    got = step(sgd(clip_by_value=1.0, clip_by_global_norm=1.0), {"a": jnp.array([100.0, -100.0, 0.0])})
    np.testing.assert_allclose(got["a"], [0.5**0.5, -(0.5**0.5), 0], rtol=1e-6)
    assert step(sgd(clip_by_value=2.5), GRADS)["b"].item() == 2.5


def test_adaptive_clip_bounds_each_unit_by_its_weights():
    # Units are columns: weights' norms 5 and 0 (taken as 1e-3), gradients' norms 10 and 1.
    params = {"w": jnp.array([[3.0, 0.0], [4.0, 0.0]])}
    grads = {"w": jnp.array([[6.0, 1.0], [8.0, 0.0]])}
    got = step(sgd(adaptive_clip=0.5), grads, params)["w"]
    np.testing.assert_allclose(got, [[1.5, 5e-4], [2.0, 0.0]], rtol=1e-6)
    want, _ = optax.adaptive_grad_clip(0.5).update(grads, optax.EmptyState(), params)
    np.testing.assert_array_equal(got, want["w"])


def test_frozen_gradients_do_not_count_in_the_norm():
    got = step(sgd(clip_by_global_norm=3.0, freeze=("b",)), GRADS)
    assert (got["a"].item(), got["b"].item()) == (3.0, 0.0)
