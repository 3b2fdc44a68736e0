"""Calibration against NumPy: percentiles, the least squared error, zeros that do not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quantize_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.quantize import Range, Spec, absmax, fake_quantize, minmax, mse, percentile
from jopt.quantize.arithmetic import divide, order_statistic, ordered_sum
from jopt.quantize.magnitudes import largest_magnitude, mean_magnitude, mean_magnitudes

pytestmark = pytest.mark.unoptimized

X = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)


def test_absmax_and_minmax_by_hand():
    x = jnp.array([[-4.0, 1.0], [2.0, 3.0]])
    assert float(absmax(x, Spec()).high) == 4.0 and float(absmax(x, Spec()).low) == -4.0
    assert absmax(x, Spec(axis=0)).high.tolist() == [[4.0], [3.0]]
    assert absmax(x, Spec(1)).high.tolist() == 2.5
    assert absmax(x, Spec(8, symmetric=False)).low.tolist() == -4.0
    r = minmax(x, Spec(symmetric=False, axis=-1))
    assert r.low.tolist() == [[-4.0, 0.0]] and r.high.tolist() == [[2.0, 3.0]]
    assert absmax(x, Spec(group=2)).high.tolist() == [4.0, 3.0]
    assert float(fake_quantize(x, Spec(), absmax(x, Spec()))[0, 0]) == -4.0


def test_the_mean_of_equal_values_is_their_value():
    mean = jax.jit(lambda x: mean_magnitude(x, (0,)))
    for size in (0.1, 0.7, 1.3e-5, 0.0):
        x = jnp.full(150, size).at[:3].set(0.0)
        assert mean(x).tolist() == [float(jnp.float32(size))]
    # Without the bounds the mean of some would be off by a bit: the test can fail.
    sizes = np.linspace(0.1, 1, 50, dtype=np.float32)
    plain = jax.jit(lambda x: divide(ordered_sum(x, (0,)), 147.0))(jnp.broadcast_to(sizes, (147, 50)))
    assert (np.asarray(plain)[0] != sizes).any()


@jax.jit
def third(x):
    return order_statistic(x, jnp.array([3]), (0,))[0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_subnormal=False), min_size=9, max_size=9))
def test_the_order_statistic_is_exact(values):
    x = np.array(values, np.float32)
    assert float(third(x)) == np.sort(x)[3]


@pytest.mark.parametrize("symmetric", [True, False])
def test_percentile_is_numpys(symmetric):
    program = jax.jit(lambda x, q: percentile(x, Spec(8, symmetric, axis=-1), q))
    for q in (0.0, 50.0, 90.0, 97.3, 99.9, 100.0):
        r = program(X, q)
        values = np.abs(X) if symmetric else X
        high = np.percentile(values.astype(float), q, axis=0)
        low = -high if symmetric else np.minimum(np.percentile(X.astype(float), 100 - q, axis=0), 0)
        # The position is a float32: 2e-6 of the distance between neighbours.
        np.testing.assert_allclose(r.high[0], high if symmetric else np.maximum(high, 0), atol=5e-6)
        np.testing.assert_allclose(r.low[0], low, atol=5e-6)
    assert program._cache_size() == 1
    np.testing.assert_array_equal(program(X, 100.0).high[0], (np.abs(X) if symmetric else X).max(0))


def test_percentile_without_the_zeros():
    x = jnp.zeros((50, 4)).at[10:40].set(X)
    spec = Spec(8, symmetric=False)
    alone, among = percentile(jnp.asarray(X), spec, 90.0), percentile(x, spec, 90.0, skip_zeros=True)
    assert [float(v) for v in alone] == [float(v) for v in among]
    assert float(percentile(x, spec, 90.0).high) < float(among.high)
    nothing = percentile(jnp.zeros((50, 4)), spec, 90.0, skip_zeros=True)
    assert (float(nothing.low), float(nothing.high)) == (0.0, 0.0)


def test_mse_is_the_best_of_the_grid():
    rng = np.random.default_rng(1)
    x = rng.standard_t(3, 400).astype(np.float32)
    for bits in (2, 3, 4):
        found = float(mse(jnp.asarray(x), Spec(bits), fractions=20).high)
        peak = np.abs(x).max()
        top = 2 ** (bits - 1) - 1

        def error(fraction, top=top, peak=peak):
            scale = peak * fraction / top
            return np.sum((np.clip(np.round(x / scale), -top, top) * scale - x) ** 2)

        fractions = np.arange(1, 21) / 20
        best = fractions[np.argmin([error(f) for f in fractions])]
        assert best < 1
        assert found == pytest.approx(peak * best, rel=1e-6)


def test_mse_by_channel_for_asymmetric_codes_and_for_zeros_alone():
    x = jnp.asarray(np.random.default_rng(2).exponential(1.0, (200, 2)).astype(np.float32)).at[:, 1].multiply(7.0)
    spec = Spec(3, symmetric=False, axis=-1)
    r, whole = mse(x, spec), minmax(x, spec)
    assert (np.asarray(r.high) < np.asarray(whole.high)).all() and not np.asarray(r.low).any()

    def error(range):
        return np.square(np.asarray(fake_quantize(x, spec, range)) - np.asarray(x)).sum(0)

    assert (error(r) < error(whole)).all()
    assert float(mse(jnp.zeros(4), Spec(4)).high) == 0.0
    one = mse(x[:, 1], Spec(3, symmetric=False))
    assert float(one.high) == float(r.high[0, 1])


def test_of_equal_errors_the_widest_range_is_chosen():
    assert float(mse(jnp.array([-1.0, 0.0, 1.0]), Spec(2)).high) == 1.0


@pytest.mark.optimized
def test_calibration_is_the_same_eager_jitted_and_in_a_batch():
    xs = jnp.stack([jnp.asarray(X), jnp.asarray(X[::-1])])
    for calibrate in (
        lambda x: mse(x, Spec(3, axis=-1), fractions=10),
        lambda x: percentile(x, Spec(8), 95.0),
    ):
        batch = jax.jit(jax.vmap(calibrate))(xs)
        for i, x in enumerate(xs):
            eager, jitted = calibrate(x), jax.jit(calibrate)(x)
            for a, b, c in zip(eager, jitted, batch, strict=True):
                np.testing.assert_array_equal(a, b)
                np.testing.assert_array_equal(a, c[i])


def test_ranges_of_a_reference_quantizer():
    codes, _, values = reference.symmetric(X, 4)
    np.testing.assert_array_equal(fake_quantize(X, Spec(4), Range(-np.abs(X).max(), 0.0)), values)  # type: ignore
    assert np.abs(codes).max() == 7


@pytest.mark.parametrize("symmetric", [True, False])
def test_mse_of_numbers_of_any_size(symmetric):
    # Powers of two scale exactly: the same fractions, where no square could be kept in float32.
    x = np.random.default_rng(0).laplace(size=(64, 4)).astype(np.float32)
    spec = Spec(3, symmetric=symmetric, axis=-1)
    plain = mse(jnp.asarray(x), spec)
    assert (np.asarray(plain.high) < 0.95 * np.abs(x).max(0)).any()
    for scale in np.float32([2.0**-100, 2.0**-83, 2.0**70, 2.0**124]):
        scaled = mse(jnp.asarray(x * scale), spec)
        np.testing.assert_array_equal(np.asarray(scaled.high) / scale, plain.high)
        np.testing.assert_array_equal(np.asarray(scaled.low) / scale, plain.low)


def test_a_percentile_between_the_ends_of_float32():
    found = percentile(jnp.float32([-3e38, 3e38]), Spec(8, symmetric=False), 75.0)
    np.testing.assert_allclose([found.low, found.high], [-1.5e38, 1.5e38], rtol=1e-6)


def test_the_means_of_several_arrays_are_those_of_each_and_close_to_numpys():
    random = np.random.default_rng(3)
    # Rows that do not fill a lane, rows wider than a part, one number for all, and a convolution's kernel.
    cases = [((300, 7), (0,)), ((3, 1100), (0,)), ((5000,), (0,)), ((3, 3, 4, 8), (0, 1, 2)), ((2, 3), (1,))]
    arrays = [jnp.asarray(random.standard_normal(shape).astype(np.float32)).at[0].set(0.0) for shape, _ in cases]
    axes = [along for _, along in cases]
    largest = [largest_magnitude(x, along) for x, along in zip(arrays, axes, strict=True)]
    together = jax.jit(lambda arrays, largest: mean_magnitudes(arrays, axes, largest))(arrays, largest)
    for x, along, mean in zip(arrays, axes, together, strict=True):
        np.testing.assert_array_equal(mean, jax.jit(lambda x, along=along: mean_magnitude(x, along))(x))
        sizes = np.abs(np.asarray(x, np.float64))
        expected = sizes.sum(along, keepdims=True) / np.maximum((sizes != 0).sum(along, keepdims=True), 1)
        np.testing.assert_allclose(mean, expected, rtol=1e-6)
