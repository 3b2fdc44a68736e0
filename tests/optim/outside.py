"""An optimizer and a schedule as a user writes them, in a file of hers."""

import dataclasses

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass
class Numbers:
    rho: float = 0.9
    slow: bool = False


def signed_momentum(config):
    """m <- rho m + (1 - rho) g; u = sign(m), or m itself where eps is given."""
    rho = config.custom.rho

    def init(params):
        return optax.TraceState(trace=jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        m = jax.tree.map(lambda m, g: rho * m + (1 - rho) * g, state.trace, updates)
        return jax.tree.map(jnp.sign, m), optax.TraceState(trace=m)

    return optax.GradientTransformation(init, update)


def of_layers(config, layers):
    """Kernels only, by what the model says: needs `layers`."""
    del config
    return optax.masked(
        optax.set_to_zero(), lambda tree: {name: (layers or {})[name].role != "kernel" for name in tree}
    )


def half_way(progress):
    return jnp.where(progress < 0.5, 1.0, 0.25)


def to_the_power(progress, config):
    return (1 - progress) ** config.power


def no_transform(config):
    return lambda gradient: gradient


def of_another_shape(progress):
    return jnp.ones((3,))
