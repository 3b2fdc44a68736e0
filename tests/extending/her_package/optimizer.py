"""An optimizer with a number of its own: the sign of a moving average of the gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Traced, as all floats of configs are."""

    rho: float = 0.9


def signed_momentum(config):
    """m <- rho m + (1 - rho) g; the direction is sign(m)."""
    rho = config.custom.rho

    def update(updates, state, params=None):
        del params
        trace = jax.tree.map(lambda m, g: rho * m + (1 - rho) * g, state.trace, updates)
        return jax.tree.map(jnp.sign, trace), optax.TraceState(trace)

    return optax.GradientTransformation(lambda p: optax.TraceState(jax.tree.map(jnp.zeros_like, p)), update)
