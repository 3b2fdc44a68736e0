"""Each optimizer against its formula in float64 NumPy, against Optax's alias, and the table in the documents."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt import optim

from . import reference
from .cases import ALL, SHAPES, cast, jit, random, train

pytestmark = pytest.mark.unoptimized

NUMBERS = {
    "sgd": {},
    "momentum": {"momentum": 0.8},
    "nesterov": {"momentum": 0.8},
    "adagrad": {"eps": 1e-3},
    "rmsprop": {"decay": 0.8, "eps": 1e-3},
    "adam": {"b1": 0.8, "b2": 0.99, "eps": 1e-3},
    "adamw": {"b1": 0.8, "b2": 0.99, "eps": 1e-3, "weight_decay": 0.1},
    "lion": {"b1": 0.8, "b2": 0.95, "weight_decay": 0.1},
    "muon": {"momentum": 0.9, "b1": 0.8, "b2": 0.99, "eps": 1e-3},
}
REFERENCES = {
    **{(name, "optax"): getattr(reference, name) for name in NUMBERS if name != "adamw"},
    ("adamw", "optax"): reference.adam,
    **{(name, "paper"): getattr(reference, f"{name}_paper") for name in ("adagrad", "rmsprop", "adam")},
}


def error(got, want, start):
    """The largest relative error, over the leaves, of how far the parameters have moved."""
    norm = np.linalg.norm
    moved = {k: want[k] - start[k] for k in want}
    return max(norm(np.asarray(got[k], np.float64) - want[k]) / norm(moved[k]) for k in want)


@pytest.mark.parametrize(("name", "variant"), ALL)
@pytest.mark.parametrize("x64", [True, False])
def test_equals_the_numpy_reference(name, variant, x64):
    params, grads = random(1, shapes=tuple(SHAPES) if name == "muon" else ("bias", "matrix"))
    if not x64:  # so that rounding of the input is no part of the error
        params, grads = jax.tree.map(lambda x: x.astype(np.float32).astype(np.float64), (params, grads))
    config = optim.Config(name, variant, 0.05, **NUMBERS[name])
    want = reference.run(REFERENCES[name, variant](0.05, **NUMBERS[name]), params, grads)
    with jax.enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        got, _ = jit(lambda p, g: train(optim.build(config), p, g))(cast(params, dtype), cast(grads, dtype))
    assert got["matrix"].dtype == dtype
    # 25 steps round at most a few hundred times: 1e-13 in float64 (2e-16 each) and 1e-5 in float32 (6e-8 each).
    # A wrong place of eps (1e-3 here) or a count off by one shows at 1e-4 and above. Muon's five Newton-Schulz
    # iterations stretch the smallest singular values, and their rounding, by up to 3.4445^5 = 485.
    assert error(got, want, params) < (1e-11 if x64 else 1e-5)


ALIASES = {
    "sgd": lambda: optax.sgd(0.05),
    "momentum": lambda: optax.sgd(0.05, 0.9),
    "nesterov": lambda: optax.sgd(0.05, 0.9, nesterov=True),
    "adagrad": lambda: optax.adagrad(0.05),
    "rmsprop": lambda: optax.rmsprop(0.05),
    "adam": lambda: optax.adam(0.05),
    "adamw": lambda: optax.adamw(0.05),
    "lion": lambda: optax.lion(0.05),
    "muon": lambda: optax.contrib.muon(0.05),
}


@pytest.mark.parametrize("name", optim.NAMES)
def test_defaults_are_those_of_optax(name):
    params, grads = cast(random(2), jnp.float32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        want, _ = jit(lambda p, g: train(ALIASES[name](), p, g))(params, grads)
    got, _ = jit(lambda p, g: train(optim.build(optim.Config(name, learning_rate=0.05)), p, g))(params, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), got, want)


def test_paper_adam_is_adam_without_bias_correction():
    params, grads = cast(random(3), jnp.float32)
    paper = jit(lambda p, g: train(optim.build(optim.Config("adam", "paper")), p, g))(params, grads)
    config = optim.Config("adam", bias_correction=False)
    uncorrected = jit(lambda p, g: train(optim.build(config), p, g))(params, grads)
    jax.tree.map(np.testing.assert_array_equal, paper, uncorrected)


def test_first_steps_by_hand():
    """With gradient 2 and rate 1: Optax's adagrad moves 2 / sqrt(4.1), the paper's 1; adam 1, uncorrected 3.16."""

    def moved(name, variant):
        optimizer = optim.build(optim.Config(name, variant, 1.0))
        params = {"w": jnp.zeros(())}
        return -float(optimizer.update({"w": jnp.array(2.0)}, optimizer.init(params), params)[0]["w"])

    assert moved("adagrad", "optax") == pytest.approx(0.98773, abs=1e-5)
    assert moved("adagrad", "paper") == pytest.approx(1.0, abs=1e-6)
    # Optax's 1 - 0.999^t in float32 is off by 1.3e-5 at t = 1, of which the root leaves half.
    assert moved("adam", "optax") == pytest.approx(1.0, abs=1e-5)
    assert moved("adam", "paper") == pytest.approx(0.1 / 0.001**0.5, abs=1e-5)
    assert moved("rmsprop", "optax") == pytest.approx(0.1**-0.5, abs=1e-5)


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_the_document_has_the_defaults(name, variant):
    text = (pathlib.Path(__file__).parents[2] / "docs" / "optimizers.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` | {variant} |"))
    defaults = row.split(" | ")[3].strip(" |")
    numbers = {k: f"{v}".replace("e-0", "e-") for k, v in optim.DEFAULTS[name].items()}
    assert defaults == (", ".join(f"`{k}` {v}" for k, v in numbers.items()) or "none")


def test_a_zero_gradient_moves_nothing_however_small_eps_is():
    # The scaled eps of the first step would be subnormal, and 0 / 0 after it was flushed.
    tx = optim.build(optim.Config("adam", eps=1e-37))
    params = {"w": jnp.zeros(2, jnp.float32)}
    updates, _ = jax.jit(tx.update)({"w": jnp.float32([0.0, 2.0])}, tx.init(params), params)
    assert updates["w"][0] == 0
    np.testing.assert_allclose(updates["w"][1], -1e-3, rtol=1e-5)
