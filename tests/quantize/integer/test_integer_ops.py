"""Layers on codes against int64 arithmetic in NumPy, at every width, with zero points on both sides."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jopt.quantize import QTensor, Range, Spec, integer, quantize

RNG = np.random.default_rng(3)


def of_codes(codes, bits, symmetric=True, scale=1.0, zero_point=0):
    """A QTensor of given codes."""
    dtype = jnp.int8 if symmetric else jnp.uint8
    shape = np.shape(scale)
    return QTensor(
        jnp.asarray(codes, dtype),
        jnp.asarray(scale, jnp.float32),
        jnp.asarray(np.broadcast_to(zero_point, shape), jnp.int32),
        Spec(bits, symmetric, -1 if shape else None),
    )


def any_codes(shape, bits, symmetric, scale=1.0, zero_point=None):
    """All codes of a width, the outermost among them, and a zero point that is not in the middle."""
    top = 2 ** (bits - 1) - 1 if bits > 1 else 1
    low, high = (-top, top) if symmetric else (0, 2**bits - 1)
    codes = RNG.integers(low, high + 1, shape)
    codes.flat[:2] = low, high
    if zero_point is None:
        zero_point = 0 if symmetric else RNG.integers(low, high + 1, np.shape(scale))
    return of_codes(codes, bits, symmetric, scale, zero_point)


def counted(q):
    """Codes from the zero point, int64."""
    return np.int64(q.codes) - np.int64(q.zero_point)


WIDTHS = [(8, 8), (4, 4), (2, 2), (8, 2), (1, 8), (3, 5)]


@pytest.mark.parametrize("bits", WIDTHS, ids=str)
def test_dense_is_int64_arithmetic(bits):
    for x_symmetric, w_symmetric, channels in [(False, True, True), (True, False, False), (False, False, True)]:
        x = any_codes((6, 33), bits[0], x_symmetric, scale=0.5)
        scale = np.float32([[0.25, 3.0, 1.0, 2.0, 0.125]]) if channels else 0.25
        w = any_codes((33, 5), bits[1], w_symmetric, scale)
        sums = integer.dense(x, w)
        assert sums.values.dtype == jnp.int32
        np.testing.assert_array_equal(sums.values, counted(x) @ counted(w))
        np.testing.assert_array_equal(sums.scale, np.squeeze(np.float32(0.5) * np.float32(scale)))
        bias = jnp.arange(5.0)
        right = counted(x) @ counted(w) * (0.5 * scale) + np.arange(5.0)
        np.testing.assert_allclose(integer.rescale(sums, bias), right, rtol=1e-6, atol=1e-6)


def numpy_conv(x, w, strides, padding, stretch, dilation, groups):
    """Loops, in int64; x and w counted from their zero points, so that padding is 0."""
    n, height, width, channels = x.shape
    wide = np.zeros((n, (height - 1) * stretch[0] + 1, (width - 1) * stretch[1] + 1, channels), np.int64)
    wide[:, :: stretch[0], :: stretch[1]] = x
    wide = np.pad(wide, ((0, 0), *padding, (0, 0)))
    extent = [(k - 1) * d + 1 for k, d in zip(w.shape, dilation, strict=False)]
    out = [(s - e) // t + 1 for s, e, t in zip(wide.shape[1:3], extent, strides, strict=True)]
    y = np.zeros((n, *out, w.shape[-1]), np.int64)
    per_in, per_out = w.shape[2], w.shape[3] // groups
    for i, j in itertools.product(range(out[0]), range(out[1])):
        a, b = i * strides[0], j * strides[1]
        seen = wide[:, a : a + extent[0] : dilation[0], b : b + extent[1] : dilation[1]]
        for g in range(groups):
            part = seen[..., g * per_in : (g + 1) * per_in].reshape(n, -1)
            own = slice(g * per_out, (g + 1) * per_out)
            y[:, i, j, own] = part @ w[..., own].reshape(-1, per_out)
    return y


@pytest.mark.parametrize(
    ("bits", "geometry"),
    [
        (8, ((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)),
        (4, ((2, 1), ((0, 2), (1, 0)), (1, 1), (1, 1), 1)),
        (2, ((1, 1), ((1, 1), (2, 2)), (2, 1), (1, 2), 1)),
        (8, ((1, 2), ((1, 1), (1, 1)), (1, 1), (1, 1), 2)),
    ],
    ids=["same", "strided", "dilated", "grouped"],
)
def test_convolution_is_int64_arithmetic(bits, geometry):
    strides, padding, stretch, dilation, groups = geometry
    for w_symmetric in (True, False):
        x = any_codes((2, 6, 5, 4), bits, False)
        w = any_codes((3, 2, 4 // groups, 6), bits, w_symmetric, np.full((1, 1, 1, 6), 0.5, np.float32))
        sums = integer.conv(x, w, strides, padding, stretch, dilation, groups)
        np.testing.assert_array_equal(sums.values, numpy_conv(counted(x), counted(w), *geometry))
        assert sums.values.dtype == jnp.int32 and sums.scale.shape == (6,)


def test_padding_stands_for_zero():
    x = of_codes(np.full((1, 1, 1, 1), 200), 8, symmetric=False, zero_point=200)  # the value 0
    w = of_codes(np.full((3, 3, 1, 1), 127), 8)
    assert integer.conv(x, w, padding="SAME").values.tolist() == [[[[0]]]]
    x = of_codes(np.full((1, 1, 1, 1), 201), 8, symmetric=False, zero_point=200)
    assert integer.conv(x, w, padding=((1, 1), (1, 1))).values.tolist() == [[[[127]]]]


def test_sums_are_exact_where_float32_is_not():
    codes = np.full((1200, 1), 127)
    codes[0] = 126
    x, w = of_codes(np.r_[1, np.full(1199, 127)][None], 8), of_codes(codes, 8)
    exact = 126 + 127 * 127 * 1199
    assert int(integer.dense(x, w).values[0, 0]) == exact and int(np.float32(exact)) != exact


def test_pooling_and_relu_on_codes_are_those_of_what_they_stand_for():
    x = any_codes((2, 5, 6, 3), 4, False, scale=0.5)
    codes = integer.operand(x)
    values = counted(x) * 0.5
    np.testing.assert_array_equal(integer.values_of(codes), values)
    np.testing.assert_array_equal(integer.values_of(integer.relu(x)), np.maximum(values, 0))
    blocks = values[:, :4].reshape(2, 2, 2, 3, 2, 3)
    np.testing.assert_array_equal(integer.values_of(integer.max_pool(x, (2, 2))), blocks.max((2, 4)))
    means = integer.average_pool(x, (2, 2))
    assert means.values.dtype == jnp.int32
    np.testing.assert_array_equal(integer.rescale(means), blocks.mean((2, 4)))


def test_codes_of_an_input_are_those_that_quantize_gives():
    x = jnp.asarray(RNG.normal(size=(40,)).astype(np.float32))
    for spec in (Spec(8, symmetric=False), Spec(4), Spec(1), Spec(2, narrow=False)):
        clip = Range(jnp.float32(-0.7), jnp.float32(1.1))
        q = quantize(x, spec, clip)
        codes = integer.requantize(integer.Sums(jnp.zeros((40,), jnp.int32), jnp.float32(1)), spec, clip, x)
        np.testing.assert_array_equal(counted(q), counted(codes) if codes.zero_point is not None else codes.codes)


def test_codes_are_held_in_few_bits():
    for bits, dtype in ((8, "int8"), (4, "int4"), (3, "int4"), (2, "int2"), (1, "int2")):
        for symmetric in (True, False):
            q = any_codes((7,), bits, symmetric)
            codes = integer.operand(q)
            assert codes.codes.dtype.name == dtype
            zero = 0 if codes.zero_point is None else np.int64(codes.zero_point)
            np.testing.assert_array_equal(np.int64(codes.codes) - zero, counted(q))


def test_what_integers_cannot_do_is_refused():
    x, w = any_codes((2, 4), 8, False), any_codes((4, 3), 8, True)
    with pytest.raises(ValueError, match=r"bits.*codes.*16"):
        integer.operand(quantize(jnp.ones(3), Spec(16)))
    with pytest.raises(ValueError, match=r"group.*codes.*None"):
        integer.operand(quantize(jnp.ones((4, 2)), Spec(8, axis=-1, group=2)))
    with pytest.raises(ValueError, match=r"scales.*\(4, 1\).*\(0,\)"):
        integer.dense(x, quantize(jnp.ones((4, 3)), Spec(8, axis=0)))
    with pytest.raises(ValueError, match=r"65793.*int32.*70000"):
        integer.dense(of_codes(np.zeros((1, 70_000)), 8, False), of_codes(np.zeros((70_000, 1)), 8))
    with pytest.raises(ValueError, match=r"dimension_numbers.*batch"):
        integer.dense(x, w, (((1,), (0,)), ((0,), (1,))))
