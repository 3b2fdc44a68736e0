"""The network: replace `Net` by yours. Any Flax Linen module will do; its fields are its options."""

import flax.linen as nn
import jax


class Net(nn.Module):
    """Two dense layers."""

    width: int = 64
    outputs: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Inputs [batch, ...] to outputs [batch, outputs]."""
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(self.outputs)(x)
