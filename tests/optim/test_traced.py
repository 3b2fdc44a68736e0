"""One compilation serves a grid: every number of every optimizer is traced, under jit and under vmap."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import optim
from jopt.hyper import join, split

from .cases import ALL, cast, jit, random, train

pytestmark = pytest.mark.unoptimized

FLOATS = {
    "learning_rate": (0.05, 0.01, 0.2),
    "momentum": (0.9, 0.5, 0.0),
    "b1": (0.9, 0.5, 0.0),
    "b2": (0.99, 0.9, 0.5),
    "decay": (0.9, 0.5, 0.1),
    "eps": (1e-3, 1e-2, 1e-1),
    "weight_decay": (0.1, 0.0, 0.01),
    "l1": (0.01, 0.0, 0.1),
    "proximal_l1": (0.1, 0.0, 0.3),
    "clip_by_global_norm": (1.0, 5.0, 100.0),
    "clip_by_value": (1.0, 0.5, 10.0),
    "adaptive_clip": (0.1, 1.0, 10.0),
    "end_fraction": (0.0, 0.1, 0.5),
    "power": (1.0, 2.0, 0.5),
    "decay_rate": (0.1, 0.5, 1.0),
    "peak_fraction": (0.3, 0.5, 0.7),
    "initial_fraction": (0.04, 0.1, 0.5),
}
STEPS = {"warmup_steps": (0, 2, 3), "decay_steps": (8, 5, 20), "accumulate_steps": (1, 2, 3)}

NUMERIC = ("float", "int", "<class 'float'>", "<class 'int'>")


@pytest.mark.parametrize(("case", "schedule"), list(zip(ALL, itertools.cycle(optim.SCHEDULES), strict=False)))
def test_vmap_over_every_number_equals_a_loop(case, schedule):
    name, variant = case
    configs = [
        optim.Config(name, variant, schedule=schedule, **dict(zip(FLOATS | STEPS, numbers, strict=True)))
        for numbers in zip(*(FLOATS | STEPS).values(), strict=True)
    ]
    structures, hypers = zip(*map(split, configs), strict=True)
    assert set(structures) == {structures[0]}, "the grid must be one program"
    numeric = {f.name for f in dataclasses.fields(optim.Config) if str(f.type).startswith(NUMERIC)}
    assert set(hypers[0]) == numeric
    params, grads = cast(random(4, steps=12), jnp.float32)
    traces = []

    def moved(hyper):
        traces.append(None)
        end, _ = train(optim.build(join(structures[0], hyper)), params, grads)
        return jax.tree.map(lambda a, b: a - b, end, params)

    single = jit(moved)
    loop = [jax.device_get(single(hyper)) for hyper in hypers]
    assert len(traces) == 1
    together = jax.device_get(jit(jax.vmap(moved))(jax.tree.map(lambda *x: np.stack(x), *hypers)))
    # vmap may order a sum or fuse differently, which rounds at 6e-8 a step; a number mixed up moves by 1e-2.
    for i, alone in enumerate(loop):
        for key in alone:
            np.testing.assert_allclose(together[key][i], alone[key], rtol=1e-4, atol=1e-5)
    assert not np.allclose(loop[0]["matrix"], loop[1]["matrix"], atol=1e-3)


def test_a_traced_number_is_the_python_number():
    params, grads = cast(random(5, steps=6), jnp.float32)
    # A power of two is the same number in float32 and in Python.
    config = optim.Config("adam", learning_rate=0.125, b1=0.5, b2=0.75, eps=2**-10, weight_decay=0.25)
    structure, hyper = split(config)
    traced = jit(lambda h: train(optim.build(join(structure, h)), params, grads)[0])(hyper)
    python = jit(lambda: train(optim.build(config), params, grads)[0])()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), traced, python)


def test_float32_numbers_meet_float64_parameters():
    with jax.enable_x64(True):
        params, grads = cast(random(6, steps=3), jnp.float64)
        structure, hyper = split(optim.Config("adam", clip_by_global_norm=1.0, accumulate_steps=2))
        optimizer = optim.build(join(structure, jax.tree.map(jnp.asarray, hyper)))
        end, state = train(optimizer, params, grads)
    assert {x.dtype for x in jax.tree.leaves(end)} == {jnp.dtype("float64")}
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("float64"), jnp.dtype("int32")}
