"""Decay, L1 and its proximal step, by hand; and accumulation, where they meet."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt import optim

from .cases import ALL, cast, jit, random, train

pytestmark = pytest.mark.unoptimized


def after(config, params, grads, **kwargs):
    optimizer = optim.build(config, **kwargs)
    updates, _ = jit(lambda g, p: optimizer.update(g, optimizer.init(p), p))(grads, params)
    return optax.apply_updates(params, updates)


W = {"w": jnp.array([2.0, -1.0, 0.0])}
ZERO = {"w": jnp.zeros(3)}


def test_l2_is_in_the_gradient_and_decoupled_decay_is_not():
    # sgd moves by rate * decay * w, and so does adamw; adam's first step has length rate whatever the gradient.
    assert after(optim.Config("sgd", learning_rate=0.5, weight_decay=0.5), W, ZERO)["w"].tolist() == [1.5, -0.75, 0]
    adam = after(optim.Config("adam", learning_rate=0.5, weight_decay=0.5), W, ZERO)["w"]
    np.testing.assert_allclose(adam, [1.5, -0.5, 0.0], rtol=1e-5)
    adamw = after(optim.Config("adamw", learning_rate=0.5, weight_decay=0.5), W, ZERO)["w"]
    assert adamw.tolist() == [1.5, -0.75, 0.0]
    muon = after(optim.Config("muon", learning_rate=0.5, weight_decay=0.5), W, ZERO)["w"]
    assert muon.tolist() == [1.5, -0.75, 0.0]


def test_l2_comes_after_the_clip():
    config = optim.Config("sgd", learning_rate=1.0, weight_decay=0.5, clip_by_value=0.25)
    assert after(config, W, {"w": jnp.ones(3)})["w"].tolist() == [0.75, -0.75, -0.25]


def test_l1_adds_the_sign():
    config = optim.Config("sgd", learning_rate=0.5, l1=0.5)
    assert after(config, W, ZERO)["w"].tolist() == [1.75, -0.75, 0.0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("name", "variant"), ALL)
def test_soft_threshold_gives_exact_zeros(name, variant, dtype):
    params = {"w": jnp.array([2.0, -3.0, 0.3, -0.1, 0.0], dtype)}
    config = optim.Config(name, variant, learning_rate=0.5, proximal_l1=1.0)
    got = np.asarray(after(config, params, {"w": jnp.zeros(5, dtype)})["w"], np.float32)
    assert (got[2:] == 0).all()
    np.testing.assert_allclose(got[:2], [1.5, -2.5], rtol=0.01 if dtype == jnp.bfloat16 else 1e-3)


def test_soft_threshold_at_the_boundary():
    config = optim.Config("sgd", learning_rate=0.5, proximal_l1=2.0)
    got = after(config, {"w": jnp.array([1.0, 1.25, -1.0])}, ZERO)["w"]
    assert got.tolist() == [0.0, 0.25, 0.0]


def test_soft_threshold_follows_the_schedule_and_the_rules():
    # Update 1 of a warm-up of 2 has half the rate; the rule takes half of that: threshold 0.5 * 0.5 * 0.5 * 1.
    config = optim.Config(
        "sgd", learning_rate=0.5, proximal_l1=1.0, warmup_steps=2, learning_rate_rules=(("w", 0.5),)
    )
    grads = jax.tree.map(lambda x: jnp.stack([x, x]), ZERO)
    assert train(optim.build(config), W, grads)[0]["w"].tolist() == [1.875, -0.875, 0.0]


@pytest.mark.parametrize(
    ("name", "variant"), [("nesterov", "optax"), ("adagrad", "paper"), ("adamw", "optax"), ("muon", "optax")]
)
def test_accumulation_is_a_step_on_the_mean(name, variant):
    params, grads = cast(random(7, steps=6), jnp.float32)
    changes = {"clip_by_global_norm": 0.5, "l1": 0.1, "warmup_steps": 1}
    mean = jax.tree.map(lambda g: g.reshape(2, 3, *g.shape[1:]).mean(1), grads)

    @jit
    def both(params, grads, mean):
        accumulating = optim.build(optim.Config(name, variant, accumulate_steps=3, **changes))
        plain = optim.build(optim.Config(name, variant, **changes))
        return train(accumulating, params, grads)[0], train(plain, params, mean)[0]

    accumulated, want = both(params, grads, mean)
    # The running mean rounds otherwise than the mean: a few 6e-8 of gradients of order 1.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), accumulated, want)


def test_accumulation_leaves_parameters_alone_in_between():
    params, grads = cast(random(8, steps=2), jnp.float32)
    config = optim.Config("adamw", accumulate_steps=3, proximal_l1=0.1)
    end = train(optim.build(config), params, grads)[0]
    jax.tree.map(np.testing.assert_array_equal, end, params)


def test_total_steps_count_gradients_and_the_schedule_updates():
    # 8 gradients, 2 an update, so 4 updates at 1, 3/4, 1/2, 1/4 of the rate.
    config = optim.Config("sgd", learning_rate=1.0, schedule="linear", accumulate_steps=2)
    grads = {"w": jnp.ones((8, 1))}
    end = train(optim.build(config, total_steps=8), {"w": jnp.zeros(1)}, grads)[0]
    assert end["w"].item() == -2.5
