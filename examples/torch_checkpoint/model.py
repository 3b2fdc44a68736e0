"""The network of the checkpoint, again in Flax: two convolutions with batch normalization, and a head."""

import flax.linen as nn
import jax


class Net(nn.Module):
    """Layers have the names that they have in PyTorch, so that nothing has to be renamed."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Images [batch, 8, 8, 1] to logits [batch, 10]."""
        for i, channels in enumerate((16, 32), start=1):
            x = nn.Conv(channels, (3, 3), use_bias=False, name=f"conv{i}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, epsilon=1e-5, name=f"bn{i}")(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(10, name="fc")(x.reshape(x.shape[0], -1))
