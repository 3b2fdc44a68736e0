import math

import jax.numpy as jnp
import numpy as np
import pytest

from jopt.measure import sqnr, sqnr_by_layer

pytestmark = pytest.mark.unoptimized


def test_by_hand():
    x = {"a": np.float32([3, 4]), "b": np.float32([0, 2])}
    q = {"a": np.float32([3, 4.5]), "b": np.float32([0, 2])}
    assert sqnr_by_layer(x, q) == {"a": 20.0, "b": math.inf}
    assert sqnr(x, q) == pytest.approx(10 * math.log10(29 / 0.25), rel=1e-15)


def test_limits():
    zero, one = {"w": np.zeros(3, np.float32)}, {"w": np.ones(3, np.float32)}
    assert sqnr(one, one) == sqnr(zero, zero) == sqnr({}, {}) == math.inf
    assert sqnr(zero, one) == -math.inf
    assert sqnr(one, zero) == 0.0
    assert math.isnan(sqnr({"w": np.float32([np.nan])}, {"w": np.float32([1])}))


def test_each_bit_of_a_uniform_quantizer_gains_six_decibels():
    x = np.random.default_rng(0).uniform(-1, 1, 200_000)
    decibels = [sqnr(x, np.round(x * 2.0**b) / 2.0**b) for b in range(4, 10)]
    assert np.diff(decibels) == pytest.approx(20 * math.log10(2), abs=0.1)
    # Uniform signal over uniform error: (1 / 3) / (step^2 / 12).
    assert decibels[0] == pytest.approx(10 * math.log10((1 / 3) / (2.0**-8 / 12)), abs=0.1)


def test_sums_are_float64_and_bfloat16_goes_in():
    big = np.full(10_000, 1e25, np.float32)  # whose square is no float32
    assert sqnr(big, np.zeros_like(big)) == 0.0
    x = jnp.array([1.0, 2.0], jnp.bfloat16)
    assert sqnr(x, x + jnp.array(0.5, jnp.bfloat16)) == pytest.approx(10 * math.log10(5 / 0.5))
    codes = np.int8([-128, 127])  # whose difference is no int8
    assert sqnr(codes, -(codes + 1)) == pytest.approx(10 * math.log10((128**2 + 127**2) / (255**2 + 255**2)))


def test_different_trees_are_refused():
    with pytest.raises(ValueError, match=r"parameters.* b$"):
        sqnr({"a": np.ones(2)}, {"a": np.ones(2), "b": np.ones(2)})
    with pytest.raises(ValueError, match=r"^a .*\(2,\).*\(1, 2\)"):
        sqnr_by_layer({"a": np.ones(2)}, {"a": np.ones((1, 2))})
