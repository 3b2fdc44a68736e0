"""LSQ and PACT: values and gradients by hand, at the bounds too, and against a float64 reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.quantize import Spec, fake_quantize, lsq, lsq_step, pact
from jopt.quantize.grid import Range

pytestmark = pytest.mark.unoptimized

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 3)).astype(np.float32)


def lsq_gradients(x, step, spec, **options):
    f = lambda x, s: lsq(x, s, spec, **options).sum()  # noqa: E731
    return jax.grad(f, argnums=(0, 1))(x, step)


def test_lsq_by_hand_at_and_beyond_the_bounds():
    # Codes -3 to 3, step 0.5: bounds -1.5 and 1.5.
    x = jnp.array([-2.0, -1.5, -0.4, 0.25, 0.3, 1.5, 4.0])
    assert lsq(x, jnp.float32(0.5), Spec(3)).tolist() == [-1.5, -1.5, -0.5, 0.0, 0.5, 1.5, 1.5]
    dx, step = lsq_gradients(x, jnp.float32(0.5), Spec(3), count=3)
    assert dx.tolist() == [0, 1, 1, 1, 1, 1, 0]
    # -3, -3, then round(v) - v of -0.8, 0.5, 0.6, then 3, 3: over sqrt(3 x 3).
    assert float(step) == pytest.approx((-3 - 3 - 0.2 - 0.5 + 0.4 + 3 + 3) / 3, rel=1e-5)


def test_lsq_of_unsigned_codes():
    spec = Spec(2, symmetric=False)
    x = jnp.array([-1.0, 0.0, 0.4, 3.0, 5.0])
    assert lsq(x, jnp.float32(1.0), spec).tolist() == [0.0, 0.0, 0.0, 3.0, 3.0]
    dx, step = lsq_gradients(x, jnp.float32(1.0), spec, count=3)
    assert dx.tolist() == [0, 1, 1, 1, 0]
    assert float(step) == pytest.approx((0 + 0 - 0.4 + 3 + 3) / 3, rel=1e-6)


def test_lsq_at_one_bit_is_the_sign():
    x = jnp.array([-3.0, -0.5, 0.0, 0.25, 2.0])
    assert lsq(x, jnp.float32(2.0), Spec(1)).tolist() == [-2.0, -2.0, 0.0, 2.0, 2.0]
    dx, step = lsq_gradients(x, jnp.float32(2.0), Spec(1), count=1)
    assert dx.tolist() == [0, 1, 1, 1, 1]
    assert float(step) == pytest.approx(-1 + (-1 + 0.25) + 0 + (1 - 0.125) + 1)


@pytest.mark.parametrize("spec", [Spec(4), Spec(4, axis=-1), Spec(3, symmetric=False, axis=-1, group=5)])
def test_lsq_gradients_against_float64(spec):
    shape = lsq_step(X, spec).shape
    step = RNG.uniform(0.1, 0.4, shape).astype(np.float32)
    upstream = RNG.standard_normal(X.shape).astype(np.float32)
    value, back = jax.vjp(lambda x, s: lsq(x, s, spec), jnp.asarray(X), jnp.asarray(step))
    dx, d_step = back(jnp.asarray(upstream))
    wide = np.broadcast_to(step, X.shape) if spec.group is None else np.repeat(step, 5, axis=0)
    low, high = (-7, 7) if spec.symmetric else (0, 7)
    v = X.astype(float) / wide
    code = np.clip(np.round(v), low, high)
    np.testing.assert_allclose(value, code * wide, rtol=1e-6)
    np.testing.assert_array_equal(dx, np.where((v >= low) & (v <= high), upstream, 0))
    slope = np.where(v <= low, low, np.where(v >= high, high, code - v)) * upstream
    count = X.size / step.size
    if spec.group is not None:
        total = slope.reshape(4, 5, 3).sum(1)
    else:
        total = slope.sum() if spec.axis is None else slope.sum(0, keepdims=True)
    assert d_step.shape == step.shape
    np.testing.assert_allclose(d_step, total / np.sqrt(count * high), rtol=1e-4, atol=1e-5)


def test_lsq_learns_the_step_that_a_search_finds():
    x, spec = jnp.asarray(X.ravel()), Spec(3)
    loss = jax.jit(jax.value_and_grad(lambda s: jnp.square(lsq(x, s, spec, count=1) - x).mean()))
    step = lsq_step(x, spec)
    for _ in range(300):
        step = step - 0.02 * loss(step)[1]
    grid = [float(loss(jnp.float32(s))[0]) for s in np.linspace(0.1, 2.0, 96)]
    assert float(loss(step)[0]) <= min(grid) * 1.05 < float(loss(lsq_step(x, spec))[0])


def test_a_step_that_fell_to_zero_gives_no_nan():
    for step in (0.0, -1.0):
        value, back = jax.vjp(lambda x, s: lsq(x, s, Spec(4)), jnp.asarray(X), jnp.float32(step))
        assert np.isfinite(value).all() and all(np.isfinite(g).all() for g in back(value))
    assert float(lsq_step(jnp.zeros(3), Spec(4))) == 1.0


def test_pact_by_hand_at_the_bounds():
    spec = Spec(2, symmetric=False)
    x = jnp.array([-0.5, 0.0, 0.5, 1.0, 1.4, 3.0, 3.5])
    f = lambda x, a: pact(x, a, spec)  # noqa: E731
    assert f(x, jnp.float32(3.0)).tolist() == [0, 0, 0, 1, 1, 3, 3]
    dx, dalpha = jax.grad(lambda x, a: f(x, a).sum(), argnums=(0, 1))(x, jnp.float32(3.0))
    assert dx.tolist() == [0, 1, 1, 1, 1, 1, 0] and float(dalpha) == 2.0


def test_pact_of_a_symmetric_spec_and_of_the_identity():
    x = jnp.array([-3.0, -2.0, 0.6, 2.0, 3.0])
    upstream = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0])
    value, back = jax.vjp(lambda x, a: pact(x, a, Spec(2)), x, jnp.float32(2.0))
    assert value.tolist() == [-2, -2, 0, 2, 2]
    dx, dalpha = back(upstream)
    assert dx.tolist() == [0, 2, 4, 8, 0] and float(dalpha) == 8 + 16 - 1 - 2
    assert pact(x, jnp.float32(2.0), Spec.identity()).tolist() == [-2.0, -2.0, float(jnp.float32(0.6)), 2.0, 2.0]


def test_pact_represents_its_bound_and_keeps_dtype():
    f = jax.jit(lambda x, a, b: pact(x, a, Spec(b, symmetric=False)))
    for alpha in RNG.uniform(0.1, 9.0, 20).astype(np.float32):
        y = f(jnp.array([20.0, -1.0]), alpha, 4)
        assert y.tolist() == [float(alpha), 0.0]
    half = jnp.asarray(X, jnp.bfloat16)
    assert pact(half, jnp.float32(1.0), Spec(4)).dtype == lsq(half, jnp.float32(0.1), Spec(4)).dtype == jnp.bfloat16
    grads = jax.grad(lambda x: pact(x, jnp.float32(1.0), Spec(4)).astype(jnp.float32).sum())(half)
    assert grads.dtype == jnp.bfloat16
    # A bound of 0 lets nothing through, and can grow again.
    f = lambda a: pact(jnp.asarray(X), a, Spec(4, symmetric=False)).sum()  # noqa: E731
    assert float(f(jnp.float32(0.0))) == 0.0 and float(jax.grad(f)(jnp.float32(0.0))) == (X >= 0).sum()


def test_learned_equal_fixed_ranges():
    np.testing.assert_array_equal(
        pact(X, jnp.float32(1.2), Spec(3)),
        fake_quantize(X, Spec(3), Range(-1.2, 1.2)),  # type: ignore[arg-type]
    )
    np.testing.assert_allclose(
        lsq(X, jnp.float32(0.4), Spec(3)),
        fake_quantize(X, Spec(3), Range(-1.2, 1.2)),
        rtol=1e-6,  # type: ignore
    )


def test_traced_widths_compile_once():
    f = jax.jit(jax.grad(lambda x, s, bits: lsq(x, s, Spec(bits)).sum() + pact(x, s, Spec(bits)).sum()))
    for bits in (1, 2, 4, 8):
        f(X, jnp.float32(0.3), jnp.int32(bits))
    assert f._cache_size() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lsq(X, jnp.ones(2), Spec(4, axis=-1)), r"step must broadcast .* \(1, 3\), got shape \(2,\)"),
        (lambda: pact(X, jnp.ones(2), Spec(4)), r"alpha must broadcast to the scales' shape \(\)"),
        (lambda: lsq(X.astype(int), 1.0, Spec(4)), "x must be a floating array"),  # type: ignore[arg-type]
        (lambda: pact(X * np.nan, 1.0, Spec(4)), "60 NaN"),  # type: ignore[arg-type]
        (lambda: lsq_step(X, Spec.identity()), "identity Spec"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
