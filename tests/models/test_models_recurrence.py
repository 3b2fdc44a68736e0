"""The recurrences equal loops written out in NumPy, and Flax's cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jopt.models.rnn import GATES, Recurrent

pytestmark = pytest.mark.unoptimized

X = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
SIZE = 6


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def elman(p, a, h, c):
    return np.tanh(a + h @ p["recurrent_kernel"]), c


def gru(p, a, h, c):
    (ar, az, an), (ur, uz, un) = np.split(a, 3, -1), np.split(h @ p["recurrent_kernel"], 3, -1)
    r, z = sigmoid(ar + ur), sigmoid(az + uz)
    return (1 - z) * np.tanh(an + r * (un + p["recurrent_bias"])) + z * h, c


def lstm(p, a, h, c):
    i, f, g, o = np.split(a + h @ p["recurrent_kernel"], 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def start(cell):
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(Recurrent(cell, SIZE).init, jax.random.key(1), X)["params"]
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) / 2, p.dtype), shapes)


@pytest.mark.parametrize("cell", GATES)
def test_equals_a_loop(cell):
    params = start(cell)
    p = jax.tree.map(np.asarray, params)
    h = c = np.zeros((3, SIZE))
    states = []
    for t in range(X.shape[1]):
        h, c = {"rnn": elman, "gru": gru, "lstm": lstm}[cell](p, X[:, t] @ p["kernel"] + p["bias"], h, c)
        states.append(h)
    actual = Recurrent(cell, SIZE).apply({"params": params}, X)
    np.testing.assert_allclose(actual, np.stack(states, 1), rtol=1e-5, atol=1e-6)


def test_elman_is_one_product_of_the_state_and_the_input():
    params = start("rnn")
    w = np.concatenate([params["recurrent_kernel"], params["kernel"]])
    h = np.zeros((3, SIZE))
    for t in range(X.shape[1]):
        h = np.tanh(np.concatenate([h, X[:, t]], 1) @ w + np.asarray(params["bias"]))
    np.testing.assert_allclose(Recurrent("rnn", SIZE).apply({"params": params}, X)[:, -1], h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("cell", "flax", "gates"), [("gru", nn.GRUCell, "rzn"), ("lstm", nn.LSTMCell, "ifgo")])
def test_equals_the_cells_of_flax(cell, flax, gates):
    params = start(cell)
    cell_params = {}
    for n, gate in enumerate(gates):
        part = slice(n * SIZE, (n + 1) * SIZE)
        cell_params["i" + gate] = {"kernel": params["kernel"][:, part]}
        cell_params["h" + gate] = {"kernel": params["recurrent_kernel"][:, part]}
        cell_params[("i" if cell == "gru" else "h") + gate]["bias"] = params["bias"][part]
    if cell == "gru":
        cell_params["hn"]["bias"] = params["recurrent_bias"]
    expected = nn.RNN(flax(SIZE)).apply({"params": {"cell": cell_params}}, X)
    np.testing.assert_allclose(Recurrent(cell, SIZE).apply({"params": params}, X), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", GATES)
def test_initial_values(cell):
    params = jax.jit(Recurrent(cell, SIZE).init)(jax.random.key(1), X)["params"]
    for gate in np.split(np.asarray(params["recurrent_kernel"]), GATES[cell], 1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(SIZE), atol=1e-5)
    expected = np.zeros(GATES[cell] * SIZE)
    if cell == "lstm":
        expected[SIZE : 2 * SIZE] = 1
    np.testing.assert_array_equal(params["bias"], expected)
    assert jnp.result_type(*jax.tree.leaves(params)) == jnp.float32
