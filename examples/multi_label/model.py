"""One hidden layer, five logits."""

import flax.linen as nn
import jax


class Topics(nn.Module):
    """A logit for each topic."""

    width: int = 64
    topics: int = 5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Counts [batch, 20] to logits [batch, topics]."""
        return nn.Dense(self.topics)(nn.relu(nn.Dense(self.width)(x)))
