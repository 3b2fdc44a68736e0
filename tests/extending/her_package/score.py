"""A pruning score: the squared first-order change of the loss (Molchanov et al. 2019)."""

import jax.numpy as jnp


def taylor(weight, grad):
    """What it reads is what its parameters are called."""
    return jnp.square(weight * grad)
