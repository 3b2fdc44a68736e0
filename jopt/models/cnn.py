"""Convolutional networks without normalization: LeNet-5, the CIFAR-10 network, and one of any size."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jopt.coupling import Coupling, Group, Point, Shape, affine, reads
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
        padding = self._padding(x.shape)
        if not self._smallest(x.shape, padding):
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

    @nn.nowrap
    def coupling(self, x: Any = None) -> Coupling:
        """The groups `Conv_i`, the channels, and `Dense_i`, the neurons of the layers before the last.

        A channel that is constant but not 0 folds into the next convolution only if nothing is padded with zeros.
        With `padding=None` that is known only if the input `x` (or its `jax.ShapeDtypeStruct`) is given.
        """
        padding = self.padding if self.padding or x is None else self._padding(x.shape)
        inexact = ""
        if self.kernel > 1 and padding != "VALID":
            inexact = "is read through zero padding" if padding else "may be read through zero padding (give x)"
        names = [f"Conv_{i}" for i in range(len(self.channels))]
        names += [f"Dense_{i}" for i in range(len(self.hidden) + 1)]
        sizes = (*self.channels, *self.hidden)
        activation = layers.ACTIVATIONS[self.activation]
        groups = []
        for name, after, size in zip(names, names[1:], sizes, strict=False):
            reader = reads(affine(after), inexact if after.startswith("Conv") else "")
            groups.append(Group(name, size, (Point((affine(name),), (reader,), activation),)))

        def resize(sizes: Any) -> "ConvNet":
            new = [sizes[group.name] for group in groups]
            count = len(self.channels)
            return self.clone(channels=tuple(new[:count]), hidden=tuple(new[count:]))

        return Coupling(tuple(groups), resize, self._example)

    def _example(self, shape: Any) -> Shape:
        """An image whose last stage leaves the pixels that the first fully connected layer reads, in one column."""
        channels_out = self.channels[-1] if self.channels else 1
        height, width = shape("Dense_0/kernel")[0] // channels_out, 1
        lost = 0 if self.padding == "SAME" else self.kernel - 1
        for _ in self.channels:
            height, width = 2 * height + lost, 2 * width + lost
        return 1, height, width, shape("Conv_0/kernel")[2] if self.channels else 1

    def _padding(self, shape: Shape) -> str:
        return self.padding or ("VALID" if self._smallest(shape, "VALID") else "SAME")

    def _smallest(self, shape: Shape, padding: str) -> int:
        """The pixels that the stages leave along the shorter side."""
        size = min(shape[1:3])
        for _ in self.channels:
            size = max(size - self.kernel + 1 if padding == "VALID" else size, 0) // 2
        return size
