"""The residual network of basic blocks with batch normalization."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jopt.coupling import Coupling, Group, Layer, Norm, Point, Shape, affine, reads
from jopt.models import layers
from jopt.models.conv import Conv

SMALL = 64
"""Images of fewer pixels a side get the 3x3 stem without pooling."""

EPSILON = 1e-5


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
    dtype: Any = jnp.float32
    inner: int | None = None
    shortcut: bool | None = None
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
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
    dropout: Any = None
    dtype: Any = jnp.float32
    streams: Sequence[int] | None = None
    inner: Sequence[int] | None = None
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps [batch, height, width, channels] to logits [batch, num_classes]."""
        conv, norm = _parts(self.dtype, train, self.folded)
        streams, inner = self._sizes()
        if min(x.shape[1:3]) < SMALL:
            x = nn.relu(norm(conv(streams[0], (3, 3), padding=1)(x)))
        else:
            x = nn.relu(norm(conv(streams[0], (7, 7), strides=2, padding=3)(x)))
            x = nn.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))  # x >= 0, so 0 pads it
        for block, (stage, first) in enumerate(self._places()):
            # A stage of fewer pixels than 2 keeps its shape if shrinking makes the channels agree: so it is said.
            stride = 2 if first else 1
            x = Block(streams[stage], stride, self.dtype, inner[block], first, self.folded)(x, train=train)
        x = layers.Dropout(self.dropout)(x.mean((1, 2)), train=train)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x)

    @nn.nowrap
    def coupling(self, x: Any = None) -> Coupling:
        """The groups `stage_i`, the channels of a residual stream, and `Block_i/Conv_0`, those inside a block.

        A channel of a stream has a value behind the stem (or the first block of its stage) and behind every block
        of its stage, each the ReLU of all that is added there; every block reads it through zero padding, so it
        must be 0 where it is read. Only behind the last block, before the mean over the pixels, may it be another
        constant.
        """
        del x
        streams, inner = self._sizes()
        padded = "is read through zero padding"
        places = self._places()
        values: list[list[Point]] = [[] for _ in streams]
        writers, carries, groups = (self._layer("Conv_0", "BatchNorm_0"),), False, []
        at = 0
        for block, (stage, first) in enumerate(places):
            name = f"Block_{block}"
            one = self._layer(f"{name}/Conv_0", f"{name}/BatchNorm_0")
            two = self._layer(f"{name}/Conv_1", f"{name}/BatchNorm_1")
            beside = (self._layer(f"{name}/shortcut", f"{name}/shortcut_norm"),) if first else ()
            readers = (reads(one, padded), *map(reads, beside))
            values[at].append(Point(writers, readers, nn.relu, carries))
            groups.append(Group(f"{name}/Conv_0", inner[block], (Point((one,), (reads(two, padded),), nn.relu),)))
            at, writers, carries = stage, (two, *beside), not first
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
        return streams, list(self.inner or (streams[stage] for stage, _ in self._places()))

    def _places(self) -> list[tuple[int, bool]]:
        """For each block its stage, and whether it begins one that has another size than the stage before."""
        return [(stage, stage > 0 and i == 0) for stage, count in enumerate(self.blocks) for i in range(count)]

    def _layer(self, conv: str, norm: str) -> Layer:
        if self.folded:
            return affine(conv)
        mean, var = (f"batch_stats/{norm}/{name}" for name in ("mean", "var"))
        return affine(conv, Norm(f"{norm}/scale", f"{norm}/bias", mean, var, EPSILON), bias=False)


def _example(shape: Any) -> Shape:
    window, _, channels, _ = shape("Conv_0/kernel")
    return (1, 8, 8, channels) if window == 3 else (1, SMALL, SMALL, channels)


def _parts(dtype: Any, train: bool, folded: bool) -> tuple[Any, Any]:
    """Convolution without bias (He et al. 2015's normal, fan out), and normalization (momentum 0.9)."""
    init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    conv = functools.partial(Conv, use_bias=folded, dtype=dtype, kernel_init=init)

    def norm(x: jax.Array, name: str | None = None) -> jax.Array:
        if folded:
            return x
        layer = nn.BatchNorm(not train, momentum=0.9, epsilon=EPSILON, dtype=jnp.float32, name=name)
        return layer(x.astype(jnp.float32)).astype(dtype)  # Flax's own bfloat16 path promotes implicitly

    return conv, norm
