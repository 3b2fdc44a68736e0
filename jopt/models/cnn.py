"""Convolutional networks: LeNet-5, the CIFAR-10 network, one of any size, and ResNet."""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from jopt.coupling import Coupling, Group, Layer, Norm, Point, affine, reads
from jopt.models import layers
from jopt.models.layers import Conv
from jopt.models.normalization import BatchNorm
from jopt.typing import Batch, Number, Shape

SMALL = 64
"""Images of fewer pixels a side get the 3x3 stem without pooling."""

EPSILON = 1e-5


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
    dropout: Number | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Maps [batch, height, width, channels] to logits [batch, num_classes]."""
        activation, init = layers.ACTIVATIONS[self.activation], layers.kernel_init(self.activation)
        padding = self._padding(x.shape)
        # Else pooling would leave no pixel, and the error would come from the initializer of an empty kernel.
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
    def coupling(self, x: Batch | None = None) -> Coupling:
        """The groups `Conv_i`, the channels, and `Dense_i`, the neurons of the layers before the last.

        A channel that is constant but not 0 folds into the next convolution only if nothing is padded with zeros.
        With `padding=None` that is known only if the input `x` (or its `jax.ShapeDtypeStruct`) is given.
        """
        padding = self.padding if self.padding or x is None else self._padding(x.shape)
        # At the border a padded 0 is read in place of the channel's constant, so it is no constant for the reader.
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

        def resize(sizes: Mapping[str, int]) -> "ConvNet":
            new = [sizes[group.name] for group in groups]
            count = len(self.channels)
            return self.clone(channels=tuple(new[:count]), hidden=tuple(new[count:]))

        return Coupling(tuple(groups), resize, self._example)

    def _example(self, shape: Callable[[str], Shape]) -> Shape:
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


class Block(nn.Module):
    """The basic block of He et al. (2016a, figure 2): `relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`.

    The shortcut is the identity where the shapes agree, else a 1x1 convolution and a normalization (option B).

    Attributes:
      width: channels out.
      stride: of the first convolution and the shortcut.
      dtype: of the computation; parameters and statistics are float32.
      inner: channels between the two convolutions, None is `width`.
      shortcut: whether the shortcut is a convolution; None: where the shapes differ.
      folded: whether every normalization is part of its convolution, which then has a bias.
    """

    width: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    inner: int | None = None
    shortcut: bool | None = None
    folded: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch rows columns features"]:
        """Maps [batch, height, width, channels] to [batch, height / stride, width / stride, self.width]."""
        conv, norm = _parts(self.dtype, train, self.folded)
        y = conv(self.width if self.inner is None else self.inner, (3, 3), strides=self.stride, padding=1)(x)
        y = conv(self.width, (3, 3), padding=1)(nn.relu(norm(y)))
        y = norm(y)
        if x.shape != y.shape if self.shortcut is None else self.shortcut:
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
      streams: channels of the residual stream in each stage, where they are not those of `width`.
      inner: channels inside each block, over all stages, where they are not those of its stage.
      folded: whether every normalization is part of its convolution, which then has a bias, as
        `jopt.quantize.fold` makes it.

    Example:
      >>> x = jnp.ones((1, 32, 32, 3))
      >>> variables = jax.eval_shape(functools.partial(ResNet().init, train=False), jax.random.key(0), x)
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
      11173962
    """

    width: int = 64
    blocks: Sequence[int] = (2, 2, 2, 2)
    num_classes: int = 10
    dropout: Number | None = None
    dtype: DTypeLike = jnp.float32
    streams: Sequence[int] | None = None
    inner: Sequence[int] | None = None
    folded: bool = False

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Maps [batch, height, width, channels] to logits [batch, num_classes]."""
        conv, norm = _parts(self.dtype, train, self.folded)
        streams, inner = self._sizes()
        if min(x.shape[1:3]) < SMALL:
            x = nn.relu(norm(conv(streams[0], (3, 3), padding=1)(x)))
        else:
            x = nn.relu(norm(conv(streams[0], (7, 7), strides=2, padding=3)(x)))
            x = nn.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))  # x >= 0, so 0 pads it
        for block, (stage, first) in enumerate(self._blocks()):
            # `first` says that there is a shortcut, which shapes may not show: on one pixel a stride changes
            # nothing, and shrinking may have made the channels of two stages equal.
            stride = 2 if first else 1
            x = Block(streams[stage], stride, self.dtype, inner[block], first, self.folded)(x, train=train)
        x = layers.Dropout(self.dropout)(x.mean((1, 2)), train=train)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x)

    @nn.nowrap
    def coupling(self, x: Batch | None = None) -> Coupling:
        """The groups `stage_i`, the channels of a residual stream, and `Block_i/Conv_0`, those inside a block.

        A channel of a stream has a value behind the stem (or the first block of its stage) and behind every block
        of its stage, each the ReLU of all that is added there; every block reads it through zero padding, so it
        must be 0 where it is read. Only behind the last block, before the mean over the pixels, may it be another
        constant.
        """
        del x
        streams, inner = self._sizes()
        padded = "is read through zero padding"
        blocks = self._blocks()
        values: list[list[Point]] = [[] for _ in streams]
        # Walks the network once, carrying who has written the
        # stream since its last value; `at` is the stream's stage.
        writers, carries, groups = (self._layer("Conv_0", "BatchNorm_0"),), False, []
        at = 0
        for block, (stage, first) in enumerate(blocks):
            name = f"Block_{block}"
            one = self._layer(f"{name}/Conv_0", f"{name}/BatchNorm_0")
            two = self._layer(f"{name}/Conv_1", f"{name}/BatchNorm_1")
            shortcut = (self._layer(f"{name}/shortcut", f"{name}/shortcut_norm"),) if first else ()
            # The shortcut's 1x1 window reads no padding, so a constant channel folds into it exactly.
            readers = (reads(one, padded), *map(reads, shortcut))
            values[at].append(Point(writers, readers, nn.relu, carries))
            groups.append(Group(f"{name}/Conv_0", inner[block], (Point((one,), (reads(two, padded),), nn.relu),)))
            at, writers, carries = stage, (two, *shortcut), not first
        values[at].append(Point(writers, (reads(affine("Dense_0")),), nn.relu, carries))
        stages = [Group(f"stage_{i}", n, tuple(v)) for i, (n, v) in enumerate(zip(streams, values, strict=True))]

        def resize(sizes: Mapping[str, int]) -> "ResNet":
            return self.clone(
                streams=tuple(sizes[g.name] for g in stages), inner=tuple(sizes[g.name] for g in groups)
            )

        fold = None if self.folded else lambda: self.clone(folded=True)
        return Coupling((*stages, *groups), resize, _example, fold)

    def _sizes(self) -> tuple[list[int], list[int]]:
        """Channels of each stage's stream, and inside each block."""
        streams = list(self.streams or (self.width * 2**i for i in range(len(self.blocks))))
        return streams, list(self.inner or (streams[stage] for stage, _ in self._blocks()))

    def _blocks(self) -> list[tuple[int, bool]]:
        """For each block its stage, and whether it begins one that has another size than the stage before."""
        return [(stage, stage > 0 and i == 0) for stage, count in enumerate(self.blocks) for i in range(count)]

    def _layer(self, conv: str, norm: str) -> Layer:
        if self.folded:
            return affine(conv)
        mean, var = (f"batch_stats/{norm}/{name}" for name in ("mean", "var"))
        # Convolutions before a normalization have no bias: the normalization would subtract it again.
        return affine(conv, Norm(f"{norm}/scale", f"{norm}/bias", mean, var, EPSILON), bias=False)


def _example(shape: Callable[[str], Shape]) -> Shape:
    window, _, channels, _ = shape("Conv_0/kernel")
    return (1, 8, 8, channels) if window == 3 else (1, SMALL, SMALL, channels)


def _parts(
    dtype: DTypeLike, train: bool, folded: bool
) -> tuple[Callable[..., nn.Module], Callable[..., jax.Array]]:
    """Convolution without bias (He et al. 2015's normal, fan out), and normalization (momentum 0.9)."""
    init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    conv = functools.partial(Conv, use_bias=folded, dtype=dtype, kernel_init=init)

    def norm(x: jax.Array, name: str | None = None) -> jax.Array:
        if folded:
            return x
        layer = BatchNorm(not train, momentum=0.9, epsilon=EPSILON, dtype=jnp.float32, name=name)
        return layer(x.astype(jnp.float32)).astype(dtype)  # Flax's own bfloat16 path promotes implicitly

    return conv, norm
