"""Quantization of recurrent states: what the simulation computes, its gradient, and what it leaves as it was."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import intercept
from jopt.config import ConfigError
from jopt.models import from_linen
from jopt.models.mlp import MLP
from jopt.models.rnn import RNN
from jopt.quantize import Activations, activations, calibrate

X = jnp.asarray(np.random.default_rng(5).normal(size=(6, 4, 3)), jnp.float32)
FEATURES = (5,)


@functools.cache
def made(cell):
    model = from_linen(RNN(cell, FEATURES, num_classes=2))
    return model, *jax.jit(model.init)(jax.random.key(1), X)


def fake(h, bits):
    top = 2 ** (bits - 1) - 1
    return np.clip(np.rint(h * top), -top, top) / top


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_states(cell, p, x, bits):
    """In float64; the state is quantized where it is multiplied, and only there."""
    p, x = {name: np.float64(leaf) for name, leaf in p.items()}, np.float64(x)
    size = FEATURES[0]
    h = c = np.zeros((len(x), size))
    states = []
    for t in range(x.shape[1]):
        a, u = x[:, t] @ p["kernel"] + p["bias"], fake(h, bits) @ p["recurrent_kernel"]
        parts = [slice(i * size, (i + 1) * size) for i in range(a.shape[1] // size)]
        if cell == "rnn":
            h = np.tanh(a + u)
        elif cell == "gru":
            r, z = (sigmoid((a + u)[:, i]) for i in parts[:2])
            n = np.tanh(a[:, parts[2]] + r * (u[:, parts[2]] + p["recurrent_bias"]))
            h = (1 - z) * n + z * h
        else:
            i, f, g, o = ((a + u)[:, i] for i in parts)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states, 1)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_the_state_is_quantized_before_each_product(cell):
    model, params, state = made(cell)
    # Only the state: an uncalibrated input passes as it is.
    config = Activations(bits=4, state=True)
    fresh = activations(model, config).init(jax.random.key(1), X)
    run = intercept.capture(functools.partial(activations(model, config).apply, train=False))
    _, calls = jax.jit(run)(*fresh, X)
    right = numpy_states(cell, params["Recurrent_0"], X, 4)
    np.testing.assert_allclose(calls["Recurrent_0"][0].output, right, atol=1e-5)
    unquantized = intercept.capture(functools.partial(model.apply, train=False))(params, state, X)[1]
    assert np.abs(unquantized["Recurrent_0"][0].output - right).max() > 1e-2


def test_gradients_pass_through_the_states_rounding():
    model, params, _ = made("rnn")
    config = Activations(calibration="absmax", state=True)
    params, state = calibrate(model, config, params, {}, X)

    def loss(params, state, config):
        return activations(model, config).apply(params, state, X, train=True)[0].sum()

    # At 8 bits the simulation's gradient is near to that of the model; without one it would be 0 through time.
    quantized = jax.grad(loss)(params, state, config)["Recurrent_0"]["recurrent_kernel"]
    plain = jax.grad(loss)(params, {}, Activations(bits=None))["Recurrent_0"]["recurrent_kernel"]
    assert np.abs(plain).max() > 0.1
    np.testing.assert_allclose(quantized, plain, atol=0.1 * np.abs(plain).max())


def test_without_it_and_at_32_bits_every_bit_is_as_before():
    model, params, state = made("rnn")
    plain, _ = jax.jit(functools.partial(model.apply, train=False))(params, state, X)
    config = Activations(calibration="absmax", bits=32, state=True)
    held = calibrate(model, config, params, state, X)
    control, _ = jax.jit(functools.partial(activations(model, config).apply, train=False))(*held, X)
    np.testing.assert_array_equal(plain, control)


def test_the_plan_names_it_and_a_state_that_nobody_has_is_an_error():
    model, *_ = made("rnn")
    rows = Activations(bits=4, state=True).plan_inputs(model, X)
    assert [row.what for row in rows] == [
        "4 bits, asymmetric, percentile, and its state",
        "4 bits, asymmetric, percentile",
    ]
    left = Activations(bits=4, state=True, rules=(("Recurrent_0", None),))
    for refused, reason in (
        (lambda: left.plan_inputs(model, X), "recurrent"),
        (
            lambda: activations(from_linen(MLP((3,))), Activations(state=True)).init(jax.random.key(0), X),
            "recurrent",
        ),
        (Activations(bits=None, state=True).validate, "bits"),
    ):
        with pytest.raises(ConfigError) as caught:
            refused()
        assert (caught.value.field, caught.value.value) == ("activations.state", True)
        assert reason in caught.value.accepted
