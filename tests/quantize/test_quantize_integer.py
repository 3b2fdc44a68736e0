"""Codes, scales and zero points: hand-worked cases, NumPy references, properties over all widths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quantize_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.quantize import QTensor, Range, Spec, dequantize, fake_quantize, quantize

BITS = [*range(1, 9), 16]
WIDTHS = jnp.array(BITS)
X = np.random.default_rng(0).standard_normal((60, 7)).astype(np.float32)
X[np.abs(X) < 0.3] = 0.0


def bits_of(x):
    return np.asarray(x).tobytes()


def test_ties_are_rounded_to_the_even_code():
    x = jnp.array([-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 7.0])
    assert quantize(x, Spec(4)).codes.tolist() == [-4, -2, -2, 0, 0, 2, 2, 4, 7]  # absmax 7, so the scale is 1
    x = jnp.array([0.5, 1.5, 2.5, 15.0])
    q = quantize(x, Spec(4, symmetric=False))
    assert q.codes.tolist() == [0, 2, 2, 15] and int(q.zero_point) == 0


def test_asymmetric_by_hand():
    q = quantize(jnp.array([-1.0, 0.0, 0.4, 2.0]), Spec(2, symmetric=False))
    # scale 3 / 3 = 1, zero point 1.
    assert (float(q.scale), int(q.zero_point), q.codes.tolist()) == (1.0, 1, [0, 1, 1, 3])
    assert dequantize(q).tolist() == [-1.0, 0.0, 0.0, 2.0]
    assert q.codes.dtype == jnp.uint8 and q.zero_point.dtype == jnp.int32


def test_the_asymmetric_range_is_widened_to_zero_on_either_side():
    q = quantize(jnp.array([1.0, 3.0]), Spec(2, symmetric=False))
    assert (int(q.zero_point), q.codes.tolist(), dequantize(q).tolist()) == (0, [1, 3], [1.0, 3.0])
    q = quantize(jnp.array([-1.0, -3.0]), Spec(2, symmetric=False))
    assert (int(q.zero_point), q.codes.tolist(), dequantize(q).tolist()) == (3, [2, 0], [-1.0, -3.0])


def test_one_bit_is_the_sign_times_the_mean_of_what_is_not_zero():
    q = quantize(jnp.array([-1.0, 0.0, 2.0, 3.0]), Spec(1))
    assert q.codes.tolist() == [-1, 0, 1, 1] and float(q.scale) == 2.0
    assert dequantize(q).tolist() == [-2.0, 0.0, 2.0, 2.0]


def test_codes_that_are_not_narrow_have_a_step_more_and_a_finer_scale():
    x, clip = jnp.array([-3.0, -1.5, -0.6, 1.0, 2.0]), Range(-1.5, 1.5)  # type: ignore[arg-type]
    q = quantize(x, Spec(2, narrow=False), clip)
    # The scale is 1.5 / (2 - 1/2) = 1, and -1.5 is a tie, which goes to the even code.
    assert float(q.scale) == 1.0 and dequantize(q).tolist() == [-2.0, -2.0, -1.0, 1.0, 1.0]
    assert q.codes.tolist() == [-2, -2, -1, 1, 1]
    narrow = quantize(x, Spec(2), clip)
    assert narrow.codes.tolist() == [-1, -1, 0, 1, 1] and float(narrow.scale) == 1.5
    assert quantize(x, Spec(1, narrow=False), clip).codes.tolist() == [-1, -1, -1, 1, 1]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_that_are_not_narrow_are_those_of_qwix(bits):
    # qarray.quantize of qwix 0.1.8 (jax 0.10.2) with channelwise_axes=(1,), calibration_method="absmax", on CPU.
    codes, scale = {
        2: ([[0, 0], [1, 0], [-1, 0], [1, 1], [-1, -2], [-1, 0]], [0.8693333864212036, 0.8436143398284912]),
        4: ([[1, -1], [4, 1], [-3, 2], [7, 6], [-4, -7], [-4, 0]], [0.17386667430400848, 0.16872288286685944]),
        8: (
            [[12, -13], [63, 11], [-52, 36], [127, 95], [-69, -127], [-61, 4]],
            [0.010227452032268047, 0.0099248755723238],
        ),
    }[bits]
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    q = quantize(jnp.asarray(x), Spec(bits, axis=-1, narrow=False))
    # qwix multiplies by a rounded reciprocal: one step of float32 in the scale, and the tie at the lowest code.
    np.testing.assert_allclose(np.asarray(q.scale)[0], scale, rtol=2**-23)
    tied = np.abs(x) == np.abs(x).max(0)
    np.testing.assert_array_equal(np.where(tied, 0, q.codes), np.where(tied, 0, codes))


@pytest.mark.parametrize("spec", [Spec(b, narrow=False, axis=-1) for b in (1, 2, 3, 7, 8, 16)], ids=str)
def test_codes_that_are_not_narrow_follow_the_formula_also_where_bits_are_traced(spec):
    x = np.random.default_rng(spec.bits).normal(size=(64, 5)).astype(np.float32)
    n = 2 ** (spec.bits - 1)
    peak = np.abs(x).max(0)
    if spec.bits == 1:
        expected = np.sign(x) * np.abs(x).mean(0)
    else:
        scale = (peak / np.float32(n - 0.5)).astype(np.float64)
        expected = np.clip(np.rint(x / scale), -n, n - 1) * scale
    y = np.asarray(fake_quantize(jnp.asarray(x), spec))
    inner = np.abs(x) < peak  # the ends are ties
    np.testing.assert_allclose(np.where(inner, y, 0), np.where(inner, expected, 0), rtol=2e-6)
    if spec.bits > 1:  # an end is half a step from its code
        tolerance = 1e-3 if spec.bits < 16 else 0.1  # of 16 bits of the 24 of a float32
        np.testing.assert_allclose(np.abs(y - x).max(0) * (n - 0.5), 0.5 * peak, rtol=tolerance)
    traced = jax.jit(lambda bits: fake_quantize(jnp.asarray(x), Spec(bits, narrow=False, axis=-1)))(spec.bits)
    assert bits_of(traced) == bits_of(y) == bits_of(dequantize(quantize(jnp.asarray(x), spec)))


@pytest.mark.parametrize("spec", [Spec(8), Spec(1), Spec(8, symmetric=False), Spec(3, axis=-1), Spec(4, group=2)])
def test_zeros_and_tiny_numbers_have_scale_one(spec):
    for value in (0.0, 1e-40, -1e-39):
        q = quantize(jnp.full((4, 2), value), spec)
        assert np.all(np.asarray(q.scale) == 1.0) and np.all(np.asarray(q.codes) == np.asarray(q.zero_point).max())
        assert bits_of(dequantize(q)) == bits_of(np.zeros((4, 2), np.float32))
    # Of a range of 0 nothing is representable but 0.
    clip = Range(jnp.zeros(()), jnp.zeros(()))
    np.testing.assert_array_equal(dequantize(quantize(jnp.full((4, 2), 300.0), spec, clip)), jnp.zeros((4, 2)))


def test_the_smallest_and_largest_floats_are_safe():
    for size in (2e-36, 3e38):
        x = jnp.array([size, -size / 2, 0.0], jnp.float32)
        y = np.asarray(fake_quantize(x, Spec(8)))
        assert np.isfinite(y).all() and y[0] == np.float32(size) and y[2] == 0


def by_width(x, **spec):
    """Codes, scales, zero points and values at every width, from one program."""

    def at(bits):
        q = quantize(x, Spec(bits, **spec))
        return q.codes, q.scale, q.zero_point, dequantize(q)

    return [np.asarray(v) for v in jax.jit(jax.vmap(at))(WIDTHS)]


@pytest.mark.parametrize(("axis", "group"), [(None, None), (-1, None), (-1, 12), (None, 20)])
def test_symmetric_against_numpy(axis, group):
    for bits, codes, scale, zero, values in zip(BITS, *by_width(X, axis=axis, group=group), strict=True):
        expected_codes, expected_scale, expected = reference.symmetric(X, bits, axis, group)
        np.testing.assert_array_equal(codes, expected_codes)
        # The mean's terms are added in another order.
        tolerance = 3e-7 if bits == 1 else 0
        np.testing.assert_allclose(scale.T.ravel(), expected_scale, rtol=tolerance)
        np.testing.assert_allclose(values, expected, rtol=tolerance)
        assert not zero.any()


@pytest.mark.parametrize(("axis", "group"), [(None, None), (-1, 12)])
def test_asymmetric_against_numpy(axis, group):
    x = X + np.float32(0.4)
    batch = by_width(x, symmetric=False, axis=axis, group=group)
    for bits, codes, scale, zero, values in zip(BITS, *batch, strict=True):
        expected_codes, expected_scale, expected_zero, expected = reference.asymmetric(x, bits, axis, group)
        np.testing.assert_array_equal(codes, expected_codes)
        np.testing.assert_array_equal(scale.T.ravel(), expected_scale)
        np.testing.assert_array_equal(zero.T.ravel(), expected_zero)
        np.testing.assert_allclose(values, expected, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 8, 16])
def test_a_constant_width_gives_what_a_traced_one_gives(bits):
    for symmetric in (True, False):
        constant, traced = quantize(X, Spec(bits, symmetric)), quantize(X, Spec(jnp.int32(bits), symmetric))
        dtypes = {jnp.dtype(f"{'' if symmetric else 'u'}int{8 if bits <= 8 else 16}")}
        assert {constant.codes.dtype} == dtypes
        assert traced.codes.dtype == (jnp.int16 if symmetric else jnp.uint16)
        np.testing.assert_array_equal(constant.codes, traced.codes)
        for a, b in zip(constant[1:3], traced[1:3], strict=True):
            assert bits_of(a) == bits_of(b)


def test_a_stored_tensor_without_range_stands_for_the_products():
    q = quantize(X, Spec(5, symmetric=False, axis=-1))
    stored = QTensor(q.codes, q.scale, q.zero_point, q.spec)
    expected = (np.asarray(q.codes, np.float32) - np.asarray(q.zero_point, np.float32)) * np.asarray(q.scale)
    np.testing.assert_array_equal(dequantize(stored), expected)
    np.testing.assert_allclose(dequantize(q), expected, rtol=2e-7)


# One program for each of the properties: hypothesis looks for values, the widths are a batch.
@jax.jit
def everything(x):
    def at(bits):
        spec = Spec(bits)
        q, f = quantize(x, spec), fake_quantize(x, spec)
        return q.codes, q.scale, dequantize(q), f, fake_quantize(f, spec)

    return jax.vmap(at)(WIDTHS)


@jax.jit
def everything_asymmetric(x):
    def at(bits):
        spec = Spec(bits, symmetric=False)
        q = quantize(x, spec)
        return q.codes, q.zero_point, q.scale, dequantize(q), fake_quantize(x, spec)

    return jax.vmap(at)(WIDTHS)


finite = st.floats(-(2.0**100), 2.0**100, width=32).map(lambda v: 0.0 if abs(v) < 1e-30 else v)
arrays = st.lists(finite, min_size=8, max_size=8).map(lambda v: np.array(v, np.float32))


@settings(max_examples=60, deadline=None)
@given(arrays)
def test_symmetric_properties(x):
    codes, scale, back, fake, again = map(np.asarray, everything(x))
    tops = np.array([max(2 ** (b - 1) - 1, 1) for b in BITS])
    assert (np.abs(codes) <= tops[:, None]).all()
    assert bits_of(back) == bits_of(fake)
    assert bits_of(again) == bits_of(fake)
    assert (fake[:, x == 0] == 0).all() and (np.sign(fake) * np.sign(x) >= 0).all()
    peak = np.abs(x).max()
    wide = fake[1:]  # at one bit the scale is the mean
    assert (np.abs(wide).max(1) == peak).all()
    for sign in (1, -1):
        assert (wide[:, x == sign * peak] == sign * peak).all()
    error = np.abs(wide.astype(float) - x)
    assert (error <= scale[1:, None] * 0.5000001 + 1e-30).all()


@settings(max_examples=60, deadline=None)
@given(arrays)
def test_asymmetric_properties(x):
    codes, zero, scale, back, fake = map(np.asarray, everything_asymmetric(x))
    tops = np.array([2**b - 1 for b in BITS])
    assert (codes >= 0).all() and (codes <= tops[:, None]).all()
    assert (zero >= 0).all() and (zero <= tops).all()
    assert bits_of(back) == bits_of(fake)
    assert (codes[:, x == 0] == zero[:, None]).all() and (fake[:, x == 0] == 0).all()
    # Half a step of rounding, and half a step by which rounding the zero point moves the grid.
    assert (np.abs(fake.astype(float) - x) <= scale[:, None] * 1.000001 + 1e-30).all()
