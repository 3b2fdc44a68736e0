"""32 bits: the unquantized control as a number in the program of the other widths."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_reference import activation_method, symmetric

from jopt import models
from jopt.quantize import (
    Percentile,
    Range,
    Spec,
    Weights,
    activations,
    calibrate,
    fake_quantize,
    lsq,
    lsq_step,
    mse,
    pact,
    percentile,
    quantize,
)

RNG = np.random.default_rng(0)
# Signed zeros, the largest and the smallest numbers: what arithmetic would change.
X = RNG.standard_normal((6, 4)).astype(np.float32)
X[:2] = [[0.0, -0.0, 3e38, -3e38], [1e-40, 1.1754944e-38, -1e30, 1.0000001]]
MIXED = jnp.array([32, 2, 32, 1, 16])
CLIP = Range(jnp.float32(-0.5), jnp.float32(0.25))
UPSTREAM = RNG.standard_normal(X.shape).astype(np.float32)


def bits_of(x):
    return np.asarray(x).tobytes()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "spec",
    [Spec(), Spec(axis=-1, narrow=False), Spec(symmetric=False, group=4)],
    ids=["tensor", "channel", "group"],
)
@pytest.mark.parametrize("range", [None, CLIP], ids=["whole", "clipped"])
def test_a_batch_of_widths_holds_the_very_values_and_their_gradient(dtype, spec, range):
    x, upstream = jnp.asarray(X, dtype), jnp.asarray(UPSTREAM, dtype)

    @jax.jit
    @jax.vmap
    def program(bits):
        own = Spec(bits, spec.symmetric, spec.axis, spec.narrow, spec.group)
        y, back = jax.vjp(lambda x: fake_quantize(x, own, range), x)
        return y, back(upstream)[0]

    y, gradient = program(MIXED)
    assert y.dtype == dtype
    for i in (0, 2):
        assert bits_of(y[i]) == bits_of(x) and bits_of(gradient[i]) == bits_of(upstream)
    # The others are what they are without it, so the test can fail.
    alone = fake_quantize(x, Spec(2, spec.symmetric, spec.axis, spec.narrow, spec.group), range)
    assert bits_of(y[1]) == bits_of(alone) != bits_of(x)
    assert (bits_of(gradient[1]) == bits_of(upstream)) == (range is None)


def test_an_ordinary_width_in_the_batch_matches_numpy():
    x = RNG.standard_normal((8, 3)).astype(np.float32)
    y = jax.vmap(lambda bits: fake_quantize(jnp.asarray(x), Spec(bits, axis=-1)))(jnp.array([32, 4]))
    np.testing.assert_allclose(y[1], symmetric(x, 4, axis=-1)[2], rtol=1e-6)
    np.testing.assert_array_equal(y[0], x)


def test_32_as_a_constant_is_the_very_object_and_no_operation():
    x = jnp.asarray(X)
    assert fake_quantize(x, Spec(32)) is x and fake_quantize(x, Spec(32), CLIP) is x
    assert lsq(x, jnp.float32(1), Spec(32)) is x and pact(x, jnp.float32(1), Spec(32)) is x
    assert Spec(32).is_identity and not Spec(16).is_identity and not Spec(jnp.array(32)).is_identity
    # A constant width has no selection of it: the programs differ in nothing else.
    selects = [
        str(jax.make_jaxpr(lambda x, bits=bits: fake_quantize(x, Spec(bits)))(x)).count("select_n")
        for bits in (8, np.array(8))
    ]
    assert selects[0] < selects[1]


def test_a_nan_or_infinity_passes_inside_a_program_too():
    x = jnp.asarray(X).at[2, 0].set(jnp.nan).at[2, 1].set(jnp.inf)
    for spec in (Spec(jnp.int32(32)), Spec(jnp.int32(32), symmetric=False)):
        y, back = jax.jit(lambda x, spec=spec: jax.vjp(lambda x: fake_quantize(x, spec), x))(x)
        assert bits_of(y) == bits_of(x) and bits_of(back(jnp.asarray(UPSTREAM))[0]) == bits_of(UPSTREAM)


@pytest.mark.parametrize("learned", [lsq, pact])
@pytest.mark.parametrize("is_symmetric", [True, False])
def test_learned_ranges_neither_clip_nor_move(learned, is_symmetric):
    @jax.jit
    @jax.vmap
    def program(bits):
        spec = Spec(bits, symmetric=is_symmetric)
        y, back = jax.vjp(lambda x, r: learned(x, r, spec), jnp.asarray(X), jnp.float32(0.1))
        return y, *back(jnp.asarray(UPSTREAM))

    y, dx, d_range = program(jnp.array([32, 4]))
    assert bits_of(y[0]) == bits_of(X) and bits_of(dx[0]) == bits_of(UPSTREAM) and d_range[0] == 0
    assert bits_of(y[1]) != bits_of(X) and bits_of(dx[1]) != bits_of(UPSTREAM) and d_range[1] != 0


def test_ranges_are_those_of_16_bits_and_finite():
    x = jnp.asarray(RNG.standard_normal((40, 3)).astype(np.float32))
    for choose in (mse, lambda x, s: percentile(x, s, 90.0)):
        for spec in (Spec(32, axis=-1), Spec(jnp.int32(32), axis=-1)):
            assert bits_of(choose(x, spec).high) == bits_of(choose(x, Spec(16, axis=-1)).high)
    assert float(lsq_step(x, Spec(jnp.int32(32)))) == float(lsq_step(x, Spec(16)))


def test_there_are_no_integers_of_32_bits():
    for bits in (32, np.array(32), jnp.array([4, 32])):
        with pytest.raises(ValueError, match=re.escape(f"bits must be 1 to 8 or 16 here, got {bits}")):
            quantize(jnp.asarray(X), Spec(bits))


@pytest.mark.parametrize("calibration", ["absmax", Percentile(90.0), "mse"], ids=str)
def test_a_config_leaves_weights_as_they_are_traced_or_not(calibration):
    params = {"a": {"kernel": jnp.asarray(X[2:])}, "b": {"kernel": jnp.asarray(X[2:])}}
    rules = (("b/kernel", 32),)

    @jax.jit
    def seen(bits):
        t = Weights(bits, calibration=calibration, rules=rules).build()
        state = t.update(t.init(params), params, step=0)
        return state, t.apply(state, params)

    state, control = seen(jnp.int32(32))
    assert jax.tree.map(bits_of, control) == jax.tree.map(bits_of, params)
    other, quantized = seen(jnp.int32(3))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, other)
    assert bits_of(quantized["a"]["kernel"]) != bits_of(params["a"]["kernel"])
    assert bits_of(quantized["b"]["kernel"]) == bits_of(params["b"]["kernel"])
    # As a plain number: the same trees, and nothing to check but that the values are finite.
    config = Weights(32, calibration=calibration, rules=rules)
    t = config.build()
    assert jax.tree.structure(t.init(params)) == jax.tree.structure(state)
    assert t.apply(t.init(params), params)["a"]["kernel"] is params["a"]["kernel"]
    assert config.check((), params) == [] and {row.what for row in config.plan(params)} == {"left as it is"}
    assert config.check((), {**params, "a": {"kernel": jnp.array([[np.nan]])}}) != []


@pytest.mark.parametrize("method", ["percentile", "moving_average", "lsq", "pact"])
def test_activations_pass_and_the_trees_are_those_of_other_widths(method):
    plain = models.model(models.ModelConfig("mlp", features=(5,), num_classes=3))
    x = jnp.asarray(RNG.standard_normal((4, 2, 2, 1)).astype(np.float32))
    params, state = plain.init(jax.random.key(0), x)

    def loss(params, state, x, model):
        logits, state = model.apply(params, state, x, train=True)
        return (logits**2).sum(), (logits, state)

    @jax.jit
    def program(bits):
        config = activation_method(method, bits, percentile=90.0)
        p, s = calibrate(plain, config, params, state, x)
        (_, (logits, s)), grads = jax.value_and_grad(loss, has_aux=True)(p, s, x * 3, activations(plain, config))
        return logits, s, grads

    (_, (expected, _)), plain_grads = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=3)(
        params, state, x * 3, plain
    )
    logits, after, grads = program(jnp.int32(32))
    ranges = jax.tree.leaves(grads.pop("activation_ranges", {}))
    assert bits_of(logits) == bits_of(expected) and all(float(g) == 0 for g in ranges)
    assert bool(ranges) == (method in ("lsq", "pact"))
    jax.tree.map(np.testing.assert_array_equal, grads, plain_grads)
    other = program(jnp.int32(3))
    assert bits_of(other[0]) != bits_of(expected)
    assert jax.tree.structure(other[1]) == jax.tree.structure(after)
    config = activation_method(method, 32)
    assert [row.what for row in config.plan_inputs(plain, x)] == ["as it is"] * 2


def test_nothing_is_stored_as_integers_at_32_bits():
    params = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": jnp.ones((2, 2))}}
    t = Weights(32, rules=(("b/.*", 4),)).build()
    assert list(t.storage(t.init(params), params)) == ["b/kernel"]  # type: ignore[misc]
