"""Kernels of several output axes, each output with a scale: attention's projections in integers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax import linen as nn

from jopt import codec
from jopt.models import from_linen
from jopt.quantize import (
    Activations,
    QTensor,
    Spec,
    activations,
    calibrate,
    dequantize,
    integer,
    quantize,
)
from jopt.rules import named_leaves

RNG = np.random.default_rng(5)
X = RNG.normal(size=(12, 5, 6)).astype(np.float32)


@pytest.fixture(autouse=True)
def compiled_quickly():
    with quick.compilation():
        yield


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.MultiHeadDotProductAttention(2, qkv_features=8)(x)
        return nn.DenseGeneral(3, axis=(-2, -1))(nn.relu(nn.DenseGeneral((2, 4))(y)).mean(1))


OUTPUTS = {"query": (1, 2), "key": (1, 2), "value": (1, 2), "DenseGeneral_1": (1, 2)}


def start():
    model = from_linen(Attention())
    params, state = jax.eval_shape(model.init, jax.random.key(0), X)
    draw = lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape) * 0.5, jnp.float32)  # noqa: E731
    return model, jax.tree.map(draw, params), state


def codes(params, bits, symmetric=True, axes=OUTPUTS):
    def spec(path):
        return Spec(bits, symmetric=symmetric, axis=axes.get(path.split("/")[-2], -1))

    return {path: quantize(w, spec(path)) for path, w in named_leaves(params) if path.endswith("kernel")}


def simulated(model, params, state, weights, config):
    leaves = [dequantize(weights[path]) if path in weights else leaf for path, leaf in named_leaves(params)]
    seen = jax.tree.unflatten(jax.tree.structure(params), leaves)
    return functools.partial(activations(model, config).apply, train=False)(seen, state, X)[0]


@pytest.mark.parametrize(
    ("bits", "inputs", "symmetric"), [(8, 8, False), pytest.param(4, 8, True, marks=pytest.mark.slow), (1, 1, True)]
)
def test_every_output_of_an_attention_has_its_scale(bits, inputs, symmetric):
    model, params, state = start()
    config, weights = Activations(calibration="absmax", bits=inputs), codes(params, bits, symmetric)
    assert weights["MultiHeadDotProductAttention_0/query/kernel"].scale.shape == (1, 2, 4)
    assert weights["MultiHeadDotProductAttention_0/out/kernel"].scale.shape == (1, 1, 6)
    params, state = calibrate(model, config, params, state, X)
    run = jax.jit(integer.network(model, params, state, weights, config))
    wanted = simulated(model, params, state, weights, config)
    np.testing.assert_allclose(run(X), wanted, atol=1e-5 * float(jnp.abs(wanted).max()))
    found = integer.contractions(run, X)
    # The products of queries with keys, and of their softmax with values, are no layers'.
    assert [c.is_integer for c in found].count(True) == 6 and [c.is_integer for c in found].count(False) == 2


def test_sums_are_int64_arithmetic_with_scales_of_two_axes():
    x, w = RNG.integers(0, 256, (5, 7)), RNG.integers(0, 256, (7, 2, 3))
    scale, zero = RNG.random((1, 2, 3)).astype(np.float32), RNG.integers(0, 256, (1, 2, 3))
    spec = Spec(8, symmetric=False, axis=(1, 2))
    left = QTensor(jnp.uint8(x), jnp.float32(0.5), jnp.int32(131), Spec(8, symmetric=False))
    sums = integer.dense(left, QTensor(jnp.uint8(w), jnp.asarray(scale), jnp.int32(zero), spec))
    exact = np.einsum("bi,ihd->bhd", np.int64(x) - 131, np.int64(w) - zero)
    np.testing.assert_array_equal(sums.values, exact)
    bias = RNG.normal(size=(2, 3)).astype(np.float32)
    np.testing.assert_allclose(integer.rescale(sums, bias), exact * (0.5 * scale) + bias, rtol=1e-6, atol=1e-5)


def test_scales_along_an_axis_that_is_summed_over_are_refused_by_name():
    model, params, state = start()
    config, weights = Activations(calibration="absmax"), codes(params, 8, axes={**OUTPUTS, "key": (0, 2)})
    params, state = calibrate(model, config, params, state, X)
    with pytest.raises(ValueError, match=r"scales.*/key/kernel.*\(1, 2\)"):
        integer.network(model, params, state, weights, config)(X)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((6, 2, 4), (1, 2)), ((2, 4, 6), -1), ((3, 6, 4), (0, 2)), ((3, 6, 2, 4), (0, 2, 3))],
    ids=str,
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_files_hold_their_integers(shape, axis, symmetric):
    q = quantize(jnp.asarray(RNG.normal(size=shape), jnp.float32), Spec(4, symmetric=symmetric, axis=axis))
    seen = np.asarray(dequantize(q))
    ranges = {"w": q.range}
    for given in (ranges, None) if symmetric else (ranges,):
        packed = codec.encode({"w": seen}, specs={"w": q.spec}, ranges=given)
        file = codec.decode(packed.data)
        assert file.params["w"].tobytes() == seen.tobytes()
        np.testing.assert_array_equal(file.integers["w"].codes, q.codes)
        np.testing.assert_array_equal(file.integers["w"].scale, q.scale)
        assert file.integers["w"].spec.axis == axis
        (entry,) = (entry for entry in packed.ledger.entries if entry.path.endswith("w"))
        assert "4-bit integers" in entry.encoding
