"""Bias correction: the statistics and mean outputs that it promises to keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jopt.quantize import Spec, correct_biases, fake_quantize, match_statistics, output_shift

pytestmark = pytest.mark.unoptimized

RNG = np.random.default_rng(0)


def test_match_statistics_keeps_mean_and_deviation_of_each_channel():
    w = RNG.standard_normal((3, 3, 4, 5)).astype(np.float32) * np.arange(1, 6, dtype=np.float32) + 0.5
    q = np.asarray(fake_quantize(jnp.asarray(w), Spec(3, axis=-1)))
    matched = np.asarray(match_statistics(jnp.asarray(w), jnp.asarray(q))).astype(float)
    axes = (0, 1, 2)
    assert (np.abs(q.mean(axes) - w.mean(axes)) > 1e-3).any()
    np.testing.assert_allclose(matched.mean(axes), w.astype(float).mean(axes), atol=1e-5)
    np.testing.assert_allclose(matched.std(axes), w.astype(float).std(axes), rtol=1e-5)
    # An affine function of the codes of each channel: as many values as there were.
    for c in range(5):
        assert len(np.unique(matched[..., c])) == len(np.unique(q[..., c]))


def test_match_statistics_leaves_pruned_weights_at_zero():
    w = RNG.standard_normal((40, 3)).astype(np.float32)
    w[:30, 0] = 0.0
    matched = np.asarray(match_statistics(jnp.asarray(w), fake_quantize(jnp.asarray(w), Spec(2))))
    assert not matched[:30, 0].any()
    np.testing.assert_allclose(matched[30:, 0].mean(), w[30:, 0].mean(), atol=1e-6)
    np.testing.assert_allclose(matched[30:, 0].std(), w[30:, 0].std(), rtol=1e-5)


def test_match_statistics_of_equal_values_only_moves():
    w = jnp.array([[1.0, 0.0], [2.0, 0.0]])
    assert match_statistics(w, jnp.full((2, 2), 3.0)).tolist() == [[1.5, 0.0], [1.5, 0.0]]
    assert match_statistics(w.astype(jnp.bfloat16), w.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_the_mean_output_of_a_dense_layer_is_restored():
    x = RNG.exponential(1.0, (500, 12)).astype(np.float32)
    layer = nn.Dense(7)
    params = {"Dense_0": layer.init(jax.random.key(0), x)["params"]}
    seen = {"Dense_0": {**params["Dense_0"], "kernel": fake_quantize(params["Dense_0"]["kernel"], Spec(2))}}
    corrected = correct_biases(params, seen, {"Dense_0": jnp.asarray(x.mean(0))})
    mean = lambda p: np.asarray(layer.apply({"params": p["Dense_0"]}, x), float).mean(0)  # noqa: E731
    with_bias = {"Dense_0": {"kernel": seen["Dense_0"]["kernel"], "bias": corrected["Dense_0"]["bias"]}}
    assert np.abs(mean(seen) - mean(params)).max() > 0.05
    np.testing.assert_allclose(mean(with_bias), mean(params), atol=1e-5)
    np.testing.assert_array_equal(corrected["Dense_0"]["kernel"], params["Dense_0"]["kernel"])


def test_the_mean_output_of_a_grouped_convolution_of_constant_channels_is_restored():
    # Constant channels and no padding: every window sees the mean.
    x = np.broadcast_to(np.float32([1.0, -2.0, 3.0, 0.5]), (1, 3, 3, 4))
    layer = nn.Conv(8, (3, 3), padding="VALID", feature_group_count=2)
    params = layer.init(jax.random.key(0), x)["params"]
    kernel = fake_quantize(params["kernel"], Spec(3))
    shift = output_shift(params["kernel"], kernel, jnp.asarray(x.mean((0, 1, 2))))
    apply = jax.jit(lambda params: layer.apply({"params": params}, x))
    difference = apply({**params, "kernel": kernel}) - apply(params)
    np.testing.assert_allclose(np.asarray(difference).mean((0, 1, 2)), shift, atol=1e-5)
    assert np.abs(shift).max() > 0.01


K = jnp.ones((3, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: match_statistics(K, K[:2]), r"kernel's shape \(3, 2\), got \(2, 2\)"),
        (lambda: output_shift(K, K[:2], jnp.ones(3)), r"kernels of one shape, got \(3, 2\) and \(2, 2\)"),
        (lambda: output_shift(K[0], K[0], jnp.ones(3)), r"kernels of one shape, got \(2,\)"),
        (lambda: output_shift(K, K, jnp.ones(4)), r"each input feature of the kernel \(3, 2\), got shape \(4,\)"),
        (
            lambda: correct_biases({"a": {"kernel": K}}, {"a": {"kernel": K}}, {"a": jnp.ones(3)}),
            "'a' must have a kernel",
        ),
        (
            lambda: correct_biases(*[{"a": {"bias": K[0], "kernel": K}}] * 2, {"a": jnp.ones(4)}),
            "a: mean_input must have one entry",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
