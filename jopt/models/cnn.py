"""Convolutional networks without normalization: LeNet-5, the CIFAR-10 network, and one of any size."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jopt.models import layers
from jopt.models.conv import Conv


class ConvNet(nn.Module):
    """Stages of convolution, activation and 2x2 max pooling, then fully connected layers.

    Parameters are `Conv_i/kernel`, [kernel, kernel, channels in, channels out], and `Dense_i/kernel`, [in, out].
    The networks of the literature are cases of it:

    | name | channels | kernel | hidden | parameters |
    |---|---|---|---|---|
    | LeNet-5, as Caffe and Han et al. (2015) have it | 20, 50 | 5 | 500 | 431,080 on 28x28x1 |
    | CIFAR-10 network (LeCun et al. 1998 on colour) | 6, 16 | 5 | 120, 84 | 62,006 on 32x32x3 |

    Attributes:
      channels: of each convolution.
      hidden: sizes of the fully connected layers before the last.
      kernel: edge of the convolution windows.
      padding: 'VALID', 'SAME', or None: 'VALID' where the input is big enough for it, else 'SAME' (so LeNet-5
        takes 8x8 digits too).
      num_classes: size of the output.
      activation: a name in `layers.ACTIVATIONS`.
      dropout: rate after every hidden fully connected layer, or None; may be traced.
      dtype: of the computation; parameters are float32.

    Example:
      >>> lenet5 = ConvNet(channels=(20, 50), hidden=(500,), kernel=5, padding=None)
      >>> variables = jax.eval_shape(lenet5.init, jax.random.key(0), jnp.ones((1, 28, 28, 1)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
      431080
    """

    channels: Sequence[int]
    hidden: Sequence[int]
    kernel: int = 3
    padding: str | None = "SAME"
    num_classes: int = 10
    activation: str = "relu"
    dropout: Any = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps [batch, height, width, channels] to logits [batch, num_classes]."""
        activation, init = layers.ACTIVATIONS[self.activation], layers.kernel_init(self.activation)
        padding = self.padding or ("VALID" if self._smallest(x, "VALID") else "SAME")
        if not self._smallest(x, padding):
            raise ValueError(
                f"an input of {x.shape[1]} x {x.shape[2]} pixels is too small for {len(self.channels)} stages of "
                f"convolution {self.kernel} x {self.kernel} with padding {padding!r} and pooling 2 x 2"
            )
        for size in self.channels:
            conv = Conv(size, (self.kernel,) * 2, padding=padding, dtype=self.dtype, kernel_init=init)
            x = layers.max_pool(activation(conv(x)))
        x = layers.flatten(x)
        for size in self.hidden:
            x = activation(nn.Dense(size, dtype=self.dtype, kernel_init=init)(x))
            x = layers.Dropout(self.dropout)(x, train=train)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x)

    def _smallest(self, x: jax.Array, padding: str) -> int:
        """The pixels that the stages leave along the shorter side."""
        size = min(x.shape[1:3])
        for _ in self.channels:
            size = max(size - self.kernel + 1 if padding == "VALID" else size, 0) // 2
        return size
