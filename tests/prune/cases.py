"""What the tests of pruning transforms share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jopt import prune
from jopt.transform import LayerStatistics

KEY = jax.random.key(0)
SHAPES = {"Conv_0": (3, 3, 4, 8), "Dense_0": (16, 12), "Dense_1": (12, 20)}
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def tree(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        name: {"bias": jnp.zeros(shape[-1], dtype), "kernel": jnp.asarray(rng.normal(size=shape), dtype)}
        for name, shape in SHAPES.items()
    }


def layers():
    rng = np.random.default_rng(7)
    return {
        name: LayerStatistics(*(jnp.asarray(rng.uniform(size=n), jnp.float32) for n in shape[-2:]))
        for name, shape in SHAPES.items()
    }


def kept(state):
    return {name: int(m["kernel"].sum()) for name, m in state.masks.items()}


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)


# Each by its name, with the arguments that `update` needs besides.
MAKERS = {
    "one_shot": functools.partial(prune.one_shot, begin=10),
    "gradual": functools.partial(prune.gradual, begin=10, end=50),
    "iterative": functools.partial(prune.iterative, begin=10, end=50, rounds=3),
}


@functools.cache
def updater(name, **options):
    def update(state, params, step, sparsity):
        return MAKERS[name](sparsity, **options).update(state, params, step=step)

    return jit(update)
