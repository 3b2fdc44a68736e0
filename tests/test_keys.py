"""Random streams are pure functions of (seed, name, step), the same on every version."""

import jax
import jax.numpy as jnp
import numpy as np

from jopt import keys


def test_streams_are_fixed_forever():
    # Literals: a change here would make every recorded seed mean something else.
    data = jax.random.key_data(keys.at(keys.root(7), "dropout", 3))
    np.testing.assert_array_equal(data, [245445875, 2893619023])


def test_seed_and_step_may_be_traced():
    traced = jax.jit(lambda seed, step: jax.random.key_data(keys.at(keys.root(seed), "order", step)))
    eager = jax.random.key_data(keys.at(keys.root(np.uint32(5)), "order", 2))
    np.testing.assert_array_equal(traced(jnp.uint32(5), 2), eager)


def test_names_steps_and_seeds_are_independent():
    all_of = [
        tuple(np.asarray(jax.random.key_data(keys.at(keys.root(seed), name, step))).tolist())
        for seed in range(3)
        for name in ("order", "dropout", "augment")
        for step in range(5)
    ]
    assert len(set(all_of)) == len(all_of)
