"""A small convolutional network in Equinox, for one image."""

import equinox as eqx
import jax
import jax.numpy as jnp


class Net(eqx.Module):
    """Two convolutions and a head."""

    convs: list[eqx.nn.Conv2d]
    head: eqx.nn.Linear

    def __init__(self, width: int = 16, *, key: jax.Array):
        first, second, head = jax.random.split(key, 3)
        self.convs = [
            eqx.nn.Conv2d(1, width, 3, padding=1, key=first),
            eqx.nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, key=second),
        ]
        self.head = eqx.nn.Linear(32 * width, 10, key=head)

    def __call__(self, x: jax.Array) -> jax.Array:
        """An image [8, 8, 1] to logits [10]."""
        x = jnp.moveaxis(x, -1, 0)
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        return self.head(x.reshape(-1))
