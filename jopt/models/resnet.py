"""The residual network of basic blocks with batch normalization."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jopt.models import layers
from jopt.models.conv import Conv

SMALL = 64
"""Images of fewer pixels a side get the 3x3 stem without pooling."""


class Block(nn.Module):
    """The basic block of He et al. (2016a, figure 2): `relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`.

    The shortcut is the identity where the shapes agree, else a 1x1 convolution and a normalization (option B).

    Attributes:
      width: channels out.
      stride: of the first convolution and the shortcut.
      dtype: of the computation; parameters and statistics are float32.
    """

    width: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / stride, width / stride, self.width]."""
        conv, norm = _parts(self.dtype, train)
        y = conv(self.width, (3, 3), strides=self.stride, padding=1)(x)
        y = conv(self.width, (3, 3), padding=1)(nn.relu(norm(y)))
        y = norm(y)
        if x.shape != y.shape:
            x = conv(self.width, (1, 1), strides=self.stride, padding=0, name="shortcut")(x)
            x = norm(x, name="shortcut_norm")
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet (He et al. 2016a) of basic blocks; (2, 2, 2, 2) of them is ResNet-18.

    Stages have `width`, 2, 4 and 8 times `width` channels, all but the first begin with stride 2; then the mean
    over the pixels and a fully connected layer. Images under 64 pixels a side get a 3x3 stem (11,173,962 parameters
    with 10 classes and 3 channels), larger ones the 7x7 stem of stride 2 and a 3x3 max pooling.

    Attributes:
      width: channels of the first stage.
      blocks: number of blocks in each stage.
      num_classes: size of the output.
      dropout: rate before the last layer, or None; may be traced.
      dtype: of the computation; parameters and statistics are float32.

    Example:
      >>> x = jnp.ones((1, 32, 32, 3))
      >>> variables = jax.eval_shape(functools.partial(ResNet().init, train=False), jax.random.key(0), x)
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
      11173962
    """

    width: int = 64
    blocks: Sequence[int] = (2, 2, 2, 2)
    num_classes: int = 10
    dropout: Any = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps [batch, height, width, channels] to logits [batch, num_classes]."""
        conv, norm = _parts(self.dtype, train)
        if min(x.shape[1:3]) < SMALL:
            x = nn.relu(norm(conv(self.width, (3, 3), padding=1)(x)))
        else:
            x = nn.relu(norm(conv(self.width, (7, 7), strides=2, padding=3)(x)))
            x = nn.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))  # x >= 0, so 0 pads it
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                x = Block(self.width * 2**stage, stride, self.dtype)(x, train=train)
        x = layers.Dropout(self.dropout)(x.mean((1, 2)), train=train)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x)


def _parts(dtype: Any, train: bool) -> tuple[Any, Any]:
    """Convolution without bias (He et al. 2015's normal, fan out), and normalization (momentum 0.9)."""
    init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    conv = functools.partial(Conv, use_bias=False, dtype=dtype, kernel_init=init)

    def norm(x: jax.Array, name: str | None = None) -> jax.Array:
        layer = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, name=name)
        return layer(x.astype(jnp.float32)).astype(dtype)  # Flax's own bfloat16 path promotes implicitly

    return conv, norm
