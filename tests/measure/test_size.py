import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.measure import Layer, Size, layers, size

PARAMS = {
    "Conv_0": {"kernel": jnp.zeros((3, 3, 1, 2)).at[0, 0, 0, 0].set(1.0)},
    "Dense_0": {"bias": jnp.ones(4, jnp.bfloat16), "kernel": np.eye(4, dtype=np.int8)},
}


def test_layers():
    assert layers(PARAMS) == [
        Layer("Conv_0/kernel", (3, 3, 1, 2), "float32", 18, 1, 72),
        Layer("Dense_0/bias", (4,), "bfloat16", 4, 4, 8),
        Layer("Dense_0/kernel", (4, 4), "int8", 16, 4, 16),
    ]


def test_size():
    assert size(PARAMS) == Size(38, 9, 29 / 38, 96)
    assert all(type(v) is int for v in (*size(PARAMS)[:2], size(PARAMS).bytes))


def test_empty_and_scalars():
    assert size({}) == Size(0, 0, 0.0, 0)
    assert size({"a": np.float32(0.0), "b": np.zeros((0, 3), np.float32)}) == Size(1, 0, 1.0, 4)


def test_what_counts_as_zero():
    assert size(np.array([0.0, -0.0, np.nan, np.inf, 1e-45], np.float32)).nonzero_parameters == 3


def test_shapes_without_values_are_refused():
    with pytest.raises(TypeError, match=r"a/b.*concrete"):
        size({"a": {"b": jax.ShapeDtypeStruct((2,), jnp.float32)}})
    with pytest.raises(TypeError, match="concrete"):
        jax.jit(size)(jnp.ones(2))
