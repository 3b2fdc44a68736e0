"""Scores: hand-worked numbers, shapes that must not pass, dtypes, traces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import prune
from jopt.prune import scores

pytestmark = pytest.mark.unoptimized

W = np.array([[1.0, -2.0, 0.0], [-0.5, 4.0, -0.0]], np.float32)  # [in 2, out 3]
G = np.array([[-3.0, 0.5, 7.0], [2.0, -1.0, 0.0]], np.float32)

CASES = {
    "magnitude": (lambda w, g: prune.magnitude(w), [[1.0, 2.0, 0.0], [0.5, 4.0, 0.0]]),
    "l2": (lambda w, g: prune.l2(w), [[1.0, 4.0, 0.0], [0.25, 16.0, 0.0]]),
    "saliency": (prune.saliency, [[3.0, 1.0, 0.0], [1.0, 4.0, 0.0]]),
    "snip": (prune.snip, [[3.0, 1.0, 0.0], [1.0, 4.0, 0.0]]),
    "wanda": (lambda w, g: prune.wanda(w, jnp.array([2.0, 10.0], w.dtype)), [[2.0, 4.0, 0.0], [5.0, 40.0, 0.0]]),
    "movement": (lambda w, g: prune.movement(-w * g), [[3.0, 1.0, 0.0], [1.0, 4.0, 0.0]]),
    "activation": (
        lambda w, g: prune.activation(w, jnp.array([0.0, 0.75, 1.0], w.dtype)),
        [[1.0, 0.25, 0.0], [1.0, 0.25, 0.0]],
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_hand_worked(name, dtype):
    score, expected = CASES[name]
    w, g = jnp.asarray(W, dtype), jnp.asarray(G, dtype)
    got = score(w, g)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, np.array(expected, np.float32))
    np.testing.assert_array_equal(got, jax.jit(score)(w, g))


@pytest.mark.parametrize("name", CASES)
def test_vmap_is_a_loop(name):
    score, _ = CASES[name]
    w, g = (jnp.asarray(np.stack([x, 2 * x, -x])) for x in (W, G))
    np.testing.assert_array_equal(
        jax.vmap(score)(w, g), jnp.stack([score(*pair) for pair in zip(w, g, strict=True)])
    )


def test_bfloat16_products_are_computed_in_float32():
    # 1.0078125 squared has 15 significant bits, of which bfloat16 would keep 8.
    w = jnp.array([1.0078125], jnp.bfloat16)
    assert float(prune.l2(w)[0]) == float(prune.saliency(w, w)[0]) == 1.0078125**2


def test_movement_is_low_for_what_descent_shrinks_whatever_its_size():
    # Both weights move by -0.5: the large one towards zero, the small negative one away from it.
    w, g = jnp.array([3.0, -0.25]), jnp.array([0.5, 0.5])
    score = prune.movement(-w * g)
    assert score.tolist() == [-1.5, 0.125]
    assert prune.top_k_mask(score, 0.5).tolist() == [False, True]


def test_saliency_is_the_first_order_change_of_the_loss_when_a_weight_goes():
    x = jnp.array([1.0, -2.0, 0.5])
    w = jnp.array([0.3, 0.2, -0.7])

    def loss(w):
        return jnp.sin(w @ x)

    change = [jax.jvp(loss, (w,), (jnp.zeros(3).at[i].set(-w[i]),))[1] for i in range(3)]
    np.testing.assert_allclose(prune.saliency(w, jax.grad(loss)(w)), np.abs(change), rtol=1e-6)


def test_wanda_of_a_convolution_goes_by_its_input_channel():
    w = jnp.ones((3, 3, 2, 4))
    got = prune.wanda(w, jnp.array([2.0, 5.0]))
    np.testing.assert_array_equal(got[:, :, 0], 2.0)
    np.testing.assert_array_equal(got[:, :, 1], 5.0)


def test_wanda_within_each_output_as_its_docstring_says():
    score = prune.wanda(jnp.array([[1.0, 100.0], [2.0, 300.0]]), jnp.array([10.0, 1.0]))
    mask = jax.vmap(prune.top_k_mask, (1, None), 1)(score, 0.5)
    assert mask.tolist() == [[True, True], [False, False]]


def test_activation_with_channels_prunes_the_neuron_that_never_fires():
    score = prune.activation(jnp.ones((5, 3)), jnp.array([0.2, 1.0, 0.9]))
    assert prune.top_k_mask(score, 0.34, prune.Channel()).all(axis=0).tolist() == [True, False, True]


def test_snip_scores_add_up_to_one_over_the_tree():
    params = {"a": jnp.asarray(W), "b": None, "c": jnp.asarray(W[0])}
    grads = {"a": jnp.asarray(G), "b": None, "c": jnp.asarray(G[0])}
    got = prune.snip_scores(params, grads)
    assert got["b"] is None
    # |w g| adds up to 9 in the matrix and to 4 in its first row.
    np.testing.assert_allclose(got["a"], np.abs(W * G) / 13, rtol=1e-6)
    np.testing.assert_allclose(got["c"], np.abs(W[0] * G[0]) / 13, rtol=1e-6)


def test_snip_scores_of_zero_gradients_are_zero():
    got = prune.snip_scores({"a": jnp.asarray(W)}, {"a": jnp.zeros(W.shape)})
    np.testing.assert_array_equal(got["a"], np.zeros(W.shape))


def test_random_scores_are_the_keys_own_and_uniform():
    w = jnp.zeros((64, 64), jnp.bfloat16)
    a, b = (prune.random(jax.random.key(seed), w) for seed in (0, 1))
    assert a.dtype == jnp.float32
    np.testing.assert_array_equal(a, prune.random(jax.random.key(0), w))
    assert not np.array_equal(a, b)
    assert float(a.min()) >= 0 and float(a.max()) < 1
    # The mean of 4096 uniforms has the standard deviation 1 / sqrt(12 * 4096) = 0.0045.
    assert abs(float(a.mean()) - 0.5) < 5 * 0.0045


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: prune.saliency(jnp.ones((2, 3)), jnp.ones((3, 2))),
            r"grad must have shape \(2, 3\).*got \(3, 2\)",
        ),
        (lambda: prune.snip(jnp.ones(3), jnp.ones(1)), r"grad must have shape \(3,\).*got \(1,\)"),
        (lambda: prune.wanda(jnp.ones((2, 3)), jnp.ones(3)), r"input_norm must .*\(2,\).*got \(3,\)"),
        (
            lambda: prune.wanda(jnp.ones((3, 3, 2, 4)), jnp.ones(18)),
            r"input_norm .*shape \(2,\).*got \(18,\)",
        ),
        (lambda: prune.wanda(jnp.ones(3), jnp.ones(3)), r"weight must be a kernel of 2 or more axes.*\(3,\)"),
        (lambda: prune.activation(jnp.ones((2, 3)), jnp.ones(2)), r"zero_share must have shape \(3,\).*\(2,\)"),
        (lambda: prune.activation(jnp.ones(()), jnp.ones(())), "weight must have an axis of outputs"),
        (lambda: prune.magnitude(jnp.array([1, 2])), "weight must be a floating array, got dtype int32"),
        (lambda: prune.movement(jnp.array([True])), "movement must be a floating array, got dtype bool"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_score_is_tested_by_hand():
    assert set(prune.SCORES) == set(scores.BUILT_IN) == set(CASES) | {"random"}
