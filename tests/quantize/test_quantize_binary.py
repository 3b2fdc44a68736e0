"""Signs and three values: by hand, gradients at the gates, zeros, and NumPy references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.quantize import binarize, binary, ternarize, ternary, xnor

pytestmark = pytest.mark.unoptimized

RNG = np.random.default_rng(0)
W = RNG.standard_normal((50, 6)).astype(np.float32)
W[:20, 0] = 0.0
EPS = np.finfo(np.float32).eps


def test_binaryconnect_by_hand():
    w = jnp.array([-2.0, -1.0 - EPS, -1.0, -1e-30, 0.0, 0.2, 1.0, 1.0 + 2 * EPS])
    assert binarize(w).tolist() == [-1, -1, -1, -1, 0, 1, 1, 1]
    value, back = jax.vjp(binarize, w)
    upstream = jnp.arange(1.0, 9.0)
    assert back(upstream)[0].tolist() == [0, 0, 3, 4, 5, 6, 7, 0]
    assert value.dtype == jnp.float32 and binarize(w.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_xnor_against_numpy_float64():
    wide = W.astype(float)
    count = (W != 0).sum(0)
    alpha = np.abs(wide).sum(0) / count
    np.testing.assert_allclose(xnor(jnp.asarray(W)), np.sign(wide) * alpha, rtol=1e-6)
    upstream = RNG.standard_normal(W.shape).astype(np.float32)
    value, back = jax.vjp(lambda w: xnor(w), jnp.asarray(W))
    expected = upstream * (1 / count + alpha * (np.abs(wide) <= 1))
    np.testing.assert_allclose(back(jnp.asarray(upstream))[0], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        xnor(jnp.asarray(W), axis=None), np.sign(wide) * np.abs(wide).sum() / count.sum(), rtol=1e-6
    )
    assert not np.asarray(value)[:20, 0].any()


def test_xnor_gate_is_closed_above_one():
    g = jax.grad(lambda w: xnor(w).sum())(jnp.array([[-1.0], [1.0 + 2 * EPS], [0.25], [0.75]]))
    alpha = (3.0 + 2 * EPS) / 4
    np.testing.assert_allclose(g.ravel(), [0.25 + alpha, 0.25, 0.25 + alpha, 0.25 + alpha], rtol=1e-6)


def test_a_convolution_has_an_alpha_for_each_output_channel():
    w = RNG.standard_normal((3, 3, 2, 4)).astype(np.float32)
    np.testing.assert_allclose(
        np.abs(xnor(jnp.asarray(w)))[0, 0, 0], np.abs(w.astype(float)).mean((0, 1, 2)), rtol=1e-6
    )


def test_ternary_weights_by_hand():
    # Of what is not 0 the mean magnitude is 1, so the threshold is 0.7, which does not exceed itself.
    w = jnp.array([-1.5, 0.5, 0.7, 0.0, 1.3, 0.0])
    assert float(jnp.abs(w).sum() / 4) == 1.0
    t = ternarize(w, threshold=jnp.float32(0.7))
    np.testing.assert_allclose(t, [-1.4, 0, 0, 0, 1.4, 0], rtol=1e-6)
    assert ternarize(w, threshold=0.0).tolist() == [-1, 1, 1, 0, 1, 0]
    assert jax.grad(lambda w: (ternarize(w) * jnp.arange(6.0)).sum())(w).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("axis", [None, -1])
def test_ternary_against_numpy_float64(axis):
    wide = np.abs(W.astype(float))
    along = None if axis is None else 0
    delta = 0.7 * wide.sum(along) / (W != 0).sum(along)
    large = wide > delta
    alpha = (wide * large).sum(along) / large.sum(along)
    np.testing.assert_allclose(ternarize(jnp.asarray(W), axis), np.sign(W) * large * alpha, rtol=1e-6)


@pytest.mark.optimized
def test_all_are_idempotent_and_the_same_in_a_batch_and_jitted():
    ws = jnp.stack([jnp.asarray(W), 3 * jnp.asarray(W)])
    for f in (binarize, xnor, ternarize):
        once = jax.jit(jax.vmap(f))(ws)
        assert np.asarray(jax.jit(jax.vmap(f))(once)).tobytes() == np.asarray(once).tobytes()
        assert np.asarray(f(ws[1])).tobytes() == np.asarray(once[1]).tobytes()


def test_zeros_alone_stay_zero_and_give_no_nan():
    for f in (binarize, xnor, ternarize):
        value, back = jax.vjp(f, jnp.zeros((3, 2)))
        assert not np.asarray(value).any() and np.isfinite(back(value)[0]).all()


def test_the_transforms_apply_these_functions():
    p = {"bias": jnp.ones(6), "kernel": jnp.asarray(W)}
    for t, f in (
        (binary(), binarize),
        (binary(scaled=True), xnor),
        (ternary(threshold=0.5), lambda w: ternarize(w, threshold=0.5)),
    ):
        seen = t.apply(t.init(p), p)
        np.testing.assert_array_equal(seen["kernel"], f(p["kernel"]))
        assert seen["bias"] is p["bias"]
    left = binary([("kernel", False), ("bias", True)])
    assert left.apply((), p)["kernel"] is p["kernel"] and left.apply((), p)["bias"].tolist() == [1.0] * 6


def test_a_traced_threshold_compiles_once():
    f = jax.jit(lambda w, threshold: ternary(threshold=threshold).apply((), {"kernel": w})["kernel"])
    zeros = [int((np.asarray(f(W, jnp.float32(t))) == 0).sum()) for t in (0.1, 0.7, 1.5)]
    assert f._cache_size() == 1 and zeros == sorted(zeros) and len(set(zeros)) == 3
