"""Fully connected networks: the multilayer perceptron, the 2-3-1 XOR network, tied layers."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from jopt.coupling import Coupling, Group, Point, affine, reads
from jopt.models import layers
from jopt.typing import Batch, Number


class MLP(nn.Module):
    """A multilayer perceptron: `h_i = act(h_(i-1) W_i + b_i)`, then a linear layer. Parameters `Dense_i/kernel`.

    With `features=(300, 100)` it is LeNet-300-100 (LeCun et al. 1998; 266,610 parameters on 784 inputs), with
    `features=()` it is softmax regression.

    Attributes:
      features: sizes of the hidden layers.
      num_classes: size of the output.
      activation: a name in `layers.ACTIVATIONS`.
      dropout: rate after every hidden layer, or None; may be traced.
      dtype: of the computation; parameters are float32.

    Example:
      >>> import jax
      >>> params = MLP(features=(3,), num_classes=2).init(jax.random.key(0), jnp.ones((1, 2, 2, 1)))["params"]
      >>> jax.tree.map(jnp.shape, params)
      {'Dense_0': {'bias': (3,), 'kernel': (4, 3)}, 'Dense_1': {'bias': (2,), 'kernel': (3, 2)}}
    """

    features: Sequence[int] = (300, 100)
    num_classes: int = 10
    activation: str = "relu"
    dropout: Number | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Shaped[Array, "batch ..."], *, train: bool = False) -> Float[Array, "batch classes"]:
        """Maps [batch, ...] to logits [batch, num_classes]."""
        x = layers.flatten(x)
        for size in self.features:
            x = nn.Dense(size, dtype=self.dtype, kernel_init=layers.kernel_init(self.activation))(x)
            x = layers.ACTIVATIONS[self.activation](x)
            x = layers.Dropout(self.dropout)(x, train=train)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x)

    @nn.nowrap
    def coupling(self, x: Batch | None = None) -> Coupling:
        """The groups `Dense_0`, `Dense_1`, ...: the neurons of each hidden layer."""
        del x
        activation = layers.ACTIVATIONS[self.activation]
        dense = [affine(f"Dense_{i}") for i in range(len(self.features) + 1)]
        # The inputs and the classes are no group: their sizes are given by the data.
        groups = tuple(
            Group(f"Dense_{i}", size, (Point((dense[i],), (reads(dense[i + 1]),), activation),))
            for i, size in enumerate(self.features)
        )
        return Coupling(
            groups,
            lambda sizes: self.clone(features=tuple(sizes[g.name] for g in groups)),
            lambda shape: (1, shape("Dense_0/kernel")[0]),
        )


class TiedMLP(nn.Module):
    """A multilayer perceptron whose hidden-to-hidden layers are one: they share the single leaf `shared/kernel`.

    `h_1 = act(x W_0 + b_0)`, `h_(i+1) = act(h_i W + b)` for `i = 1 .. depth - 1` with one `W` and `b`, then a
    linear layer. The gradient of `W` is the sum over its uses.

    Attributes:
      width: size of every hidden layer.
      depth: number of hidden layers, the first included.
      num_classes: size of the output.
      activation: a name in `layers.ACTIVATIONS`.
      dropout: rate after every hidden layer, or None; may be traced.
      dtype: of the computation; parameters are float32.

    Example:
      >>> import jax
      >>> params = TiedMLP(width=3, depth=4, num_classes=2).init(jax.random.key(0), jnp.ones((1, 5)))["params"]
      >>> {name: layer["kernel"].shape for name, layer in params.items()}
      {'Dense_0': (5, 3), 'shared': (3, 3), 'Dense_1': (3, 2)}
    """

    width: int = 64
    depth: int = 3
    num_classes: int = 10
    activation: str = "relu"
    dropout: Number | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Shaped[Array, "batch ..."], *, train: bool = False) -> Float[Array, "batch classes"]:
        """Maps [batch, ...] to logits [batch, num_classes]."""
        init = layers.kernel_init(self.activation)
        shared = nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="shared")
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=init)(layers.flatten(x))
        # The module `shared` is called at each of the later layers,
        # so they have one leaf and its gradient is their sum.
        for i in range(self.depth):
            x = layers.ACTIVATIONS[self.activation](x if i == 0 else shared(x))
            x = layers.Dropout(self.dropout)(x, train=train)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x)

    @nn.nowrap
    def coupling(self, x: Batch | None = None) -> Coupling:
        """One group, `hidden`: the tied kernel both writes and reads it, so all hidden layers keep one width."""
        del x
        activation = layers.ACTIVATIONS[self.activation]
        # A point for each use: a neuron is dead only if it is dead at every one of them.
        writers = [affine("Dense_0"), *[affine("shared")] * (self.depth - 1)]
        readers = [*writers[1:], affine("Dense_1")]
        points = tuple(Point((w,), (reads(r),), activation) for w, r in zip(writers, readers, strict=True))
        return Coupling(
            (Group("hidden", self.width, points),),
            lambda sizes: self.clone(width=sizes["hidden"]),
            lambda shape: (1, shape("Dense_0/kernel")[0]),
        )


class XOR(nn.Module):
    """The 2-3-1 network of the XOR problem: 13 parameters, sigmoid hidden units, one output `z`.

    It gives the logits `[0, z]`: their softmax is `[1 - sigmoid(z), sigmoid(z)]`, so cross entropy on integer
    labels is the binary cross entropy of `z`, with no parameter added. Weights start as unit normals: small ones
    leave the sigmoids linear, on the plateau where XOR networks get stuck.

    Attributes:
      hidden: number of hidden units.
      activation: a name in `layers.ACTIVATIONS`.
      dtype: of the computation; parameters are float32.

    Example:
      >>> import jax
      >>> module = XOR()
      >>> x = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
      >>> variables = module.init(jax.random.key(0), x)
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables)), module.apply(variables, x).shape
      (13, (4, 2))
    """

    hidden: int = 3
    activation: str = "sigmoid"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Shaped[Array, "batch ..."], *, train: bool = False) -> Float[Array, "batch classes"]:
        """Maps [batch, 2] to logits [batch, 2]."""
        del train
        # Unit normals, because small weights leave the sigmoids linear, and XOR has no linear solution.
        init = nn.initializers.normal(1.0)
        x = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=init)(layers.flatten(x))
        x = nn.Dense(1, dtype=self.dtype, kernel_init=init)(layers.ACTIVATIONS[self.activation](x))
        # Two logits from one output, so that every loss and metric of classifiers applies as it is.
        return jnp.concatenate([jnp.zeros_like(x), x], axis=-1)

    @nn.nowrap
    def coupling(self, x: Batch | None = None) -> Coupling:
        """One group, `Dense_0`: the hidden units."""
        del x
        point = Point((affine("Dense_0"),), (reads(affine("Dense_1")),), layers.ACTIVATIONS[self.activation])
        return Coupling(
            (Group("Dense_0", self.hidden, (point,)),),
            lambda sizes: self.clone(hidden=sizes["Dense_0"]),
            lambda shape: (1, shape("Dense_0/kernel")[0]),
        )
