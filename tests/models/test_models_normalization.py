"""Batch normalization against Flax's: outputs, running statistics, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jopt.models import ResNet
from jopt.models.normalization import BatchNorm

SETTINGS = {"momentum": 0.9, "epsilon": 1e-5, "dtype": jnp.float32}


@pytest.fixture(scope="module")
def case():
    """An input whose mean is of the size of its deviation, variables that are no defaults, a cotangent."""
    draw = np.random.default_rng(0)
    vector = lambda low, high: jnp.asarray(draw.uniform(low, high, 5), jnp.float32)  # noqa: E731
    variables = {
        "params": {"scale": vector(-1, 2), "bias": vector(-1, 1)},
        "batch_stats": {"mean": vector(-1, 1), "var": vector(0.5, 2)},
    }
    x, y = (jnp.asarray(draw.normal(0.5, 1, (3, 4, 4, 4, 5)), jnp.float32) for _ in range(2))
    return variables, x, y


def run(kind, running, variables, x, y):
    """Output, new statistics, and gradients by the parameters and the input."""
    layer = kind(running, **SETTINGS)

    def forward(params, x):
        return layer.apply({**variables, "params": params}, x, mutable=["batch_stats"])

    output, pull, state = jax.vjp(forward, variables["params"], x, has_aux=True)
    return output, state, pull(y)


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("mapped", ["alone", "vmap", "map"])
def test_equals_flax(case, running, mapped):
    variables, x, y = case
    over = {
        "alone": lambda f: f(x[0], y[0]),
        "vmap": lambda f: jax.vmap(f)(x, y),
        "map": lambda f: lax.map(lambda pair: f(*pair), (x, y)),
    }[mapped]
    ours, flax = (
        jax.jit(lambda kind=kind: over(lambda x, y: run(kind, running, variables, x, y)))()
        for kind in (BatchNorm, nn.BatchNorm)
    )
    # Sums of 64 products of size 1: some roundings of 1e-7 of sums up to 100.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), ours, flax)


def test_the_same_bits_alone_and_in_lax_map(case):
    variables, x, y = case
    mapped = jax.jit(lambda: lax.map(lambda pair: run(BatchNorm, False, variables, *pair), (x, y)))()
    alone = jax.jit(lambda x, y: run(BatchNorm, False, variables, x, y))
    for i in range(3):
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[i], b), mapped, alone(x[i], y[i]))  # noqa: B023


def test_forward_mode_is_the_transpose_of_reverse_mode(case):
    variables, x, y = case
    forward = lambda x: BatchNorm(False, **SETTINGS).apply(variables, x, mutable=["batch_stats"])[0]  # noqa: E731
    tangent = jax.jvp(forward, (x[0],), (x[1],))[1]
    np.testing.assert_allclose((tangent * y[0]).sum(), (jax.vjp(forward, x[0])[1](y[0])[0] * x[1]).sum(), rtol=1e-4)


def test_a_mask_is_refused(case):
    with pytest.raises(ValueError, match="mask"):
        BatchNorm(False).apply(case[0], case[1][0], mask=jnp.ones((4, 4, 4, 5)), mutable=["batch_stats"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("train", [False, True])
def test_a_resnet_has_the_variables_and_outputs_of_flax(monkeypatch, dtype, train):
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    model = ResNet(width=4, blocks=(1, 1), dtype=dtype)
    apply = lambda variables: model.apply(variables, x, train=train, mutable=["batch_stats"])  # noqa: E731
    variables = model.init(jax.random.key(1), x)
    output, state = apply(variables)
    monkeypatch.setattr("jopt.models.cnn.BatchNorm", nn.BatchNorm)
    expected = model.init(jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    # One bfloat16 rounding that falls the other way is 2**-8 of a value.
    bound = 1e-4 if dtype == jnp.float32 else 0.05
    flax_output, flax_state = apply(variables)
    for a, b in zip(*map(jax.tree.leaves, ((output, state), (flax_output, flax_state))), strict=True):
        np.testing.assert_allclose(a, b, rtol=bound, atol=bound)
