"""Batch normalization of the models: Flax's, as one multiply-add a channel."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float


# A subclass of this name, so that Linen names the modules as Flax's and tools recognise them.
class BatchNorm(nn.BatchNorm):
    """`flax.linen.BatchNorm` (Ioffe and Szegedy 2015), the same variables, over all axes but the last, in float32.

    Flax computes `(x - mean) * (scale / sqrt(var + epsilon)) + bias`, here it is `x * factor + offset`, which
    on CPU stores one array less, in the gradient too.

    Only `use_running_average`, `momentum`, `epsilon` and the initializers may differ from their defaults.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [3.0, 4.0]])
      >>> norm = BatchNorm(use_running_average=False, epsilon=0.0)
      >>> norm.init_with_output(jax.random.key(0), x)[0].tolist()
      [[-1.0, -1.0], [1.0, 1.0]]
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*shape features"],
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> Float[Array, "*shape features"]:
        """Normalizes float32 `x` by the statistics of the batch, or by the running ones."""
        if mask is not None:
            raise ValueError("mask must be None: every position counts")
        running = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        shape = x.shape[-1:]
        mean_state = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var_state = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, shape, jnp.float32)
        axes = tuple(range(x.ndim - 1))
        if running:
            mean, var = mean_state.value, var_state.value
        else:
            mean = x.mean(axes)
            # Rounding may make the difference negative.
            var = jnp.maximum(0.0, (x * x).mean(axes) - mean * mean)
            if not self.is_initializing():
                mean_state.value = self.momentum * mean_state.value + (1 - self.momentum) * mean
                var_state.value = self.momentum * var_state.value + (1 - self.momentum) * var
        factor = scale * lax.rsqrt(var + self.epsilon)
        return x * jnp.expand_dims(factor, axes) + jnp.expand_dims(bias - mean * factor, axes)
