"""Attention: rotations know distances alone, shared keys are repeated ones, the past does not see the future."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from jopt.models.attention import Attention, rotate

pytestmark = pytest.mark.unoptimized


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("base", [10000.0, 100.0])
def test_products_of_rotated_vectors_depend_on_the_distance_alone(base):
    q, k = normal(6), normal(6, seed=1)
    rotated_q, rotated_k = (rotate(jnp.tile(v, (1, 9, 1, 1)), base)[0, :, 0] for v in (q, k))
    products = np.asarray(rotated_q @ rotated_k.T)
    for distance in range(-8, 9):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=2e-6)
    # Not the same for all distances, and unrotated at the distance 0.
    assert np.ptp(products[0]) > 0.1
    np.testing.assert_allclose(products[0, 0], q @ k, rtol=1e-5)


def test_a_rotation_turns_pairs_by_their_own_angles():
    """Against complex numbers in float64, far from the start too."""
    x = normal(1, 3000, 2, 6)
    pairs = np.asarray(x, np.float64)[..., :3] + 1j * np.asarray(x, np.float64)[..., 3:]
    angles = np.arange(3000)[:, None] * 10000.0 ** (-2 * np.arange(3) / 6)
    turned = pairs * np.exp(1j * angles)[None, :, None]
    np.testing.assert_allclose(rotate(x), np.concatenate([turned.real, turned.imag], -1), atol=2e-6)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_shared_keys_and_values_are_repeated_ones(kv_heads):
    x = normal(2, 5, 16)
    shared = Attention(4, kv_heads, causal=True, rotary_base=10000.0, use_bias=True)
    shapes = jax.eval_shape(shared.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda p: normal(*p.shape, seed=p.size), shapes)

    def repeated(path, leaf):
        is_shared = path[0].key in ("key", "value")
        return jnp.repeat(leaf, 4 // kv_heads, axis=-2) if is_shared else leaf

    every = jax.tree_util.tree_map_with_path(repeated, params)
    full = shared.clone(kv_heads=4)
    outputs = [quick.jit(m.apply)({"params": p}, x) for m, p in ((shared, params), (full, every))]
    np.testing.assert_allclose(*outputs, atol=1e-5 * np.abs(outputs[0]).max())


def test_only_a_causal_attention_leaves_the_future_out():
    x = normal(1, 6, 8)
    changed = x.at[:, 4:].set(1.0)
    for causal in (True, False):
        attention = Attention(2, 2, causal=causal)
        params = quick.jit(attention.init)(jax.random.key(0), x)
        apply = quick.jit(lambda x, attention=attention, params=params: attention.apply(params, x))
        before, after = apply(x), apply(changed)
        assert np.array_equal(before[:, :4], after[:, :4]) == causal
        assert not np.array_equal(before[:, 4:], after[:, 4:])
