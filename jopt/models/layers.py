"""What the models are built from: activations, initializers, dropout with a traced rate, pooling, convolution."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from jopt.hyper import check_number
from jopt.models.convolution import Conv as Conv
from jopt.models.convolution import conv_general_dilated as conv_general_dilated
from jopt.typing import Activation, Number

ACTIVATIONS: dict[str, Activation] = {
    "elu": nn.elu,
    "gelu": nn.gelu,
    "identity": lambda x: x,
    "leaky_relu": nn.leaky_relu,
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "softplus": nn.softplus,
    "tanh": nn.tanh,
}


def kernel_init(activation: str) -> nn.initializers.Initializer:
    """The initializer of a layer that `activation` follows; float32.

    Glorot and Bengio's uniform (2010, eq. 16) before `tanh`, `sigmoid` and `identity`, which saturate or are
    linear; He et al.'s normal (2015, eq. 10), of standard deviation sqrt(2 / fan_in), before the rectifiers.

    Example:
      >>> w = kernel_init("relu")(jax.random.key(0), (800, 100))
      >>> round(float(w.std()), 3)                               # sqrt(2 / 800)
      0.05
    """
    if activation in ("tanh", "sigmoid", "identity"):
        return nn.initializers.glorot_uniform()
    return nn.initializers.he_normal()


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014), scaled at training time, whose rate may be a traced number.

    `y = x * m / (1 - rate)` with `m` Bernoulli(1 - rate) in training, `y = x` otherwise. A rate of 0 is the
    identity, exactly. `flax.linen.Dropout` compares the rate with 0 in Python and so refuses a tracer.

    Attributes:
      rate: the probability of a zero, in [0, 1): a number or a scalar array, concrete or traced; None is no
        dropout, and takes no random numbers.

    Example:
      >>> @jax.jit
      ... def drop(rate, x):
      ...     return Dropout(rate).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
      >>> sorted(set(drop(0.5, jnp.ones(64)).tolist()))
      [0.0, 2.0]
      >>> drop(0.0, jnp.ones(4)).tolist()
      [1.0, 1.0, 1.0, 1.0]
    """

    rate: Number | None

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], *, train: bool) -> Float[Array, "*shape"]:
        """Returns `x`, of any shape and dtype, with some elements zero and the others scaled up."""
        check_number("rate", self.rate, lambda x: (x >= 0) & (x < 1), "a number in [0, 1)")
        if self.rate is None or not train:
            return x
        # In float32 for bfloat16 activations too, where 1 - 0.001 would round to 1.
        keep = 1.0 - jnp.asarray(self.rate, jnp.float32)
        mask = jax.random.uniform(self.make_rng("dropout"), x.shape) < keep
        return jnp.where(mask, x / keep.astype(x.dtype), jnp.zeros((), x.dtype))


def flatten(x: jax.Array) -> jax.Array:
    """Joins all axes but the first.

    Example:
      >>> flatten(jnp.ones((2, 4, 4, 3))).shape
      (2, 48)
    """
    return x.reshape(x.shape[0], -1)


def max_pool(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns channels"]:
    """The maximum of each 2x2 window, stride 2; an odd last row or column is dropped.

    Equal to `flax.linen.max_pool(x, (2, 2), (2, 2))`, but as a reshape and a maximum: the gradient of the window
    reduction is a `select_and_scatter`, which is slow on CPU. Where several elements of a window share the maximum,
    the gradient is split evenly between them, as `jnp.max` has it, and not given to the first; behind a ReLU a tie
    at 0 passes none.

    Args:
      x: [batch, height, width, channels], height and width at least 2.

    Returns:
      [batch, height // 2, width // 2, channels].

    Example:
      >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    n, h, w, c = x.shape
    # Windows become two axes of their own, so pooling is a maximum over axes and its gradient a comparison.
    return _window_max(x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c))


@jax.custom_jvp
def _window_max(x: jax.Array) -> jax.Array:
    return x.max((2, 4))


@_window_max.defjvp
def _window_max_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # What jnp.max does, with the mask kept as booleans and the division done after pooling: a sixth faster a step.
    # Ties are counted slice by slice: as a reduction of the mask they were another tenth of a CNN's step.
    (x,), (t,) = primals, tangents
    y = _window_max(x)
    is_max = x == lax.expand_dims(y, (2, 4))
    count = sum((x[:, :, i, :, j] == y).astype(x.dtype) for i in range(2) for j in range(2))
    return y, jnp.where(is_max, t, jnp.zeros_like(t)).sum((2, 4)) / count
