"""Schedules against Optax's and against values by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt import optim
from jopt.config import ConfigError
from jopt.optim import Config, multiplier

pytestmark = pytest.mark.unoptimized

PEAK, W, D = 0.3, 5, 25
STEPS = range(D + 10)


def optax_schedules():
    polynomial = lambda e, k: optax.polynomial_schedule(PEAK, PEAK * e, k, D - W)  # noqa: E731
    exponential = optax.exponential_decay(PEAK, D - W, 0.1, end_value=PEAK * 0.1)
    one_cycle = optax.cosine_onecycle_schedule(D - W, PEAK, 0.3, 20.0, 50.0)
    return {
        "constant": (optax.constant_schedule(PEAK), {}),
        "cosine": (optax.cosine_decay_schedule(PEAK, D - W, 0.1), {"end_fraction": 0.1}),
        "linear": (polynomial(0.2, 1), {"end_fraction": 0.2}),
        "polynomial": (polynomial(0.1, 3), {"end_fraction": 0.1, "power": 3.0}),
        "exponential": (exponential, {"decay_rate": 0.1}),
        "one_cycle": (one_cycle, {"initial_fraction": 1 / 20, "end_fraction": 1 / 1000}),
    }


@pytest.mark.parametrize("name", [s for s in optim.SCHEDULES if s != "step"])
@pytest.mark.parametrize("warmup", [0, W])
def test_equals_optax(name, warmup):
    schedule, numbers = optax_schedules()[name]
    config = Config(
        "sgd", learning_rate=PEAK, schedule=name, warmup_steps=warmup, decay_steps=D - W + warmup, **numbers
    )
    got = jax.jit(lambda t: optim.learning_rate(config, t))(jnp.arange(len(STEPS)))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        if warmup:
            ramp = optax.linear_schedule(0.0, schedule(0), warmup)
            schedule = optax.join_schedules([ramp, schedule], [warmup])
        want = np.array([schedule(t) for t in STEPS])
    # Optax's one-cycle multiplies rounded factors up, and its cosine takes another order: a few 6e-8 of the peak.
    np.testing.assert_allclose(got, want, rtol=0, atol=PEAK * 1e-6)


def test_equals_optax_warmup_cosine():
    config = Config(learning_rate=PEAK, schedule="cosine", warmup_steps=W, end_fraction=0.1)
    got = optim.learning_rate(config, jnp.arange(len(STEPS)), total_steps=D)
    with jax.numpy_dtype_promotion("standard"):
        schedule = optax.warmup_cosine_decay_schedule(0.0, PEAK, W, D, PEAK * 0.1)
        np.testing.assert_allclose(got, [schedule(t) for t in STEPS], rtol=0, atol=PEAK * 1e-6)


@pytest.mark.parametrize("warmup", [0, 3])
def test_step_equals_optax_piecewise_constant(warmup):
    # 0.1 * 30 is a little above 3 in float64 and 3 in float32; the drop must be at step 3 all the same.
    config = Config(
        schedule="step", warmup_steps=warmup, decay_steps=30, boundaries=(0.1, 0.3, 0.7), decay_rate=0.5
    )
    got = multiplier(config, jnp.arange(35))
    schedule = optax.piecewise_constant_schedule(1.0, {3: 0.5, 9: 0.5, 21: 0.5})
    with jax.numpy_dtype_promotion("standard"):
        want = [schedule(t) * min(1, t / warmup if warmup else 1) for t in range(35)]
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "middle", "end"),
    [
        ("constant", 1.0, 1.0),
        ("cosine", 0.625, 0.25),
        ("linear", 0.625, 0.25),
        ("polynomial", 0.4375, 0.25),
        ("exponential", 0.5, 0.25),
        ("step", 0.25, 0.0625),
        ("one_cycle", 1.0, 0.25),
    ],
)
def test_no_value_is_off_by_one(schedule, middle, end):
    """Warm-up 4, then to step 12: exact values at 0, the last of the ramp, its end, the middle, the end, after."""
    config = Config(schedule=schedule, warmup_steps=4, decay_steps=12, end_fraction=0.25, decay_rate=0.25)
    config.boundaries, config.peak_fraction, config.initial_fraction = (0.5, 1 - 1e-9), 0.5, 0.5
    first = 0.5 if schedule == "one_cycle" else 1.0
    # step counts its boundaries from the first step, so its middle 6 is past at 8; its last is at 12.
    want = [0.0, 0.75 * first, first, middle, end, end, end]
    got = multiplier(config, jnp.array([0, 3, 4, 8, 12, 13, 1000]))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def test_every_update_of_a_run_has_its_rate():
    """sgd on gradient 1 moves by the rate, so the path shows the rates: updates 0 to 3 of a warm-up of 2."""
    optimizer = optim.build(Config("sgd", learning_rate=1.0, schedule="linear", warmup_steps=2), total_steps=4)
    params = {"w": jnp.zeros(())}
    state, path = optimizer.init(params), []
    for _ in range(5):
        updates, state = optimizer.update({"w": jnp.ones(())}, state, params)
        path.append(-updates["w"].item())
    assert path == [0.0, 0.5, 1.0, 0.5, 0.0]


def test_a_schedule_without_an_end_is_an_error():
    with pytest.raises(ConfigError) as error:
        optim.build(Config(schedule="cosine"))
    assert (error.value.field, error.value.value) == ("decay_steps", None)
    optim.build(Config(schedule="cosine"), total_steps=10)
    optim.build(Config(schedule="constant"))


def test_traced_numbers():
    @jax.jit
    def at(end, warmup, rate):
        config = Config(schedule="exponential", warmup_steps=warmup, decay_steps=end, decay_rate=rate)
        return multiplier(config, jnp.arange(6))

    grid = jax.vmap(at)(jnp.array([4, 5]), jnp.array([2, 1]), jnp.array([0.25, 0.0625]))
    np.testing.assert_allclose(grid, [[0, 0.5, 1, 0.5, 0.25, 0.25], [0, 1, 0.5, 0.25, 0.125, 0.0625]], rtol=1e-6)
