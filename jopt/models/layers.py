"""What the models are built from: activations, initializers, dropout with a traced rate, pooling, convolution.

Convolution is shifted slices and one matrix product on CPU, and XLA's own convolution elsewhere.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from jopt.hyper import check_number
from jopt.models.convolution import Geometry, convolution
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
    (x,), (t,) = primals, tangents
    y = _window_max(x)
    is_max = x == lax.expand_dims(y, (2, 4))
    count = is_max.sum((2, 4), dtype=jnp.int32).astype(x.dtype)
    return y, jnp.where(is_max, t, jnp.zeros_like(t)).sum((2, 4)) / count


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: tuple[str, str, str] | lax.ConvDimensionNumbers | None = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, lowered for the platform that the program will run on.

    On CPU the input is padded, its `prod(window)` shifted (strided) slices are joined along the channels, and one
    product with the kernel, flattened to [prod(window) * channels in, channels out], gives the output (im2col).
    XLA's CPU convolution is several times slower inside `lax.scan` and under `vmap`; `docs/models.md` has the
    figures. Elsewhere, and for transposed or grouped convolutions or a layout other than channels last, it is the
    native one. The choice is `lax.platform_dependent`'s, made at lowering: no backend starts while tracing.

    Args:
      lhs: input, [batch, *spatial, channels in], with one or more spatial axes.
      rhs: kernel, [*window, channels in / groups, channels out], of the dtype of `lhs`.
      window_strides: one number a spatial axis.
      padding: 'SAME', 'VALID', 'SAME_LOWER' or pairs (low, high), which may be negative.
      lhs_dilation: of the input (transposed convolution), None is 1.
      rhs_dilation: of the kernel, None is 1.
      dimension_numbers: as in `jax.lax`.
      feature_group_count: number of groups.
      precision: of the product, as in `jax.lax`.

    Returns:
      [batch, *spatial, channels out]: the same sums of products as `jax.lax`'s, in another order.

    Example:
      >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
      >>> kernel = jnp.ones((3, 3, 1, 1))
      >>> layout = ("NHWC", "HWIO", "NHWC")
      >>> conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)[0, :, :, 0].tolist()
      [[45.0, 54.0], [81.0, 90.0]]
    """
    spatial = lhs.ndim - 2
    native = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )
    transposed = any(d != 1 for d in lhs_dilation or ())
    layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    if feature_group_count != 1 or transposed or layout != _channels_last(spatial):
        return native(lhs, rhs)
    dilation = tuple(rhs_dilation or (1,) * spatial)
    # As pairs, since `lax.pad` below takes nothing else.
    if isinstance(padding, str):
        extent = [(size - 1) * d + 1 for size, d in zip(rhs.shape, dilation, strict=False)]
        padding = lax.padtype_to_pads(lhs.shape[1:-1], extent, window_strides, padding)
    sizes, window = lhs.shape[1:-1], rhs.shape[:-2]
    geometry = Geometry(sizes, window, tuple(window_strides), tuple(map(tuple, padding)), dilation, precision)
    return lax.platform_dependent(lhs, rhs, cpu=functools.partial(convolution, geometry=geometry), default=native)


# A partial and not a subclass, so that Linen names the modules `Conv_0` as it does its own.
Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)
"""`flax.linen.Conv` (same parameters, same padding) with `conv_general_dilated` of this file."""


def _channels_last(spatial: int) -> lax.ConvDimensionNumbers:
    """[batch, *spatial, channels], [*window, in, out]."""
    data = (0, spatial + 1, *range(1, spatial + 1))
    return lax.ConvDimensionNumbers(data, (spatial + 1, spatial, *range(spatial)), data)
