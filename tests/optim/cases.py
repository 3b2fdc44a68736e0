"""Every optimizer and variant, and what the tests share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jopt import optim

from . import outside

ALL = [(name, "optax") for name in optim.NAMES] + [(name, "paper") for name in optim.PAPER_NAMES]
# What every optimizer promises, one from outside promises too.
WITH_OUTSIDE = [*ALL, (f"{outside.__name__}:signed_momentum", "optax")]
# 'matrix' has fewer rows than columns, 'tall' more: Muon treats them apart. 'conv' gets Adam from Muon.
SHAPES = {"bias": (5,), "conv": (2, 3, 4), "matrix": (3, 5), "tall": (6, 2)}

# Compiling is most of what these tests do; LLVM's optimizations double it and change nothing that they look at.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def random(seed, steps=25, shapes=("bias", "matrix")):
    """Float64 parameters, and gradients whose scale changes from step to step, stacked along a first axis."""
    rng = np.random.default_rng(seed)
    shapes = {k: SHAPES[k] for k in shapes}
    params = {k: rng.normal(size=s) for k, s in shapes.items()}
    scale = np.exp(rng.normal(size=steps))
    grads = {k: np.einsum("t,t...->t...", scale, rng.normal(size=(steps, *s))) for k, s in shapes.items()}
    return params, grads


def config(name, variant, **kwargs):
    custom = outside.Numbers() if (name, variant) not in ALL else None
    return optim.Config(name, variant, custom=custom, **kwargs)


def cast(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x, dtype)), tree)


def train(optimizer, params, grads):
    """The parameters and the state after one update for each of the stacked gradients."""

    def body(carry, g):
        params, state = carry
        updates, state = optimizer.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(body, (params, optimizer.init(params)), grads)[0]
